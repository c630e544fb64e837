"""From documents to what a step reads: pieces of them with special tokens around, packed without padding.

A document over the model's length is cut into several pieces; nothing is thrown away. Masked language: `[CLS] piece
[SEP]`; with the sentence-order objective a piece of several sentences becomes `[CLS] A [SEP] B [SEP]`, cut at one of
them by chance, and swapped in half the cases (Megatron-BERT). Next words: `<|endoftext|> piece`, and once more at the
document's end. All noise of a step is drawn for the whole step at once, whichever worker takes which piece of it, so
that it doesn't depend on how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from jobs.train.encoding import BEGINS, GOES_ON, ID, Marked, Words
from jobs.train.masking import Vocabulary, chance_runs, hide_units
from jobs.train.networks import UNKNOWN_ORDER, Inputs
from jobs.train.plan import Rows
from jobs.train.pretrain_settings import ObjectiveSettings
from jobs.train.roles import ENDS, FIRSTS, LASTS, find_role
from jobs.train.tokens import TokenStore
from models.packing import pack


@dataclass(frozen=True)
class Pieces:
    """N pieces of documents: where each stands, how long it becomes with its special tokens, whether it ends one."""

    shard: NDArray[np.int32]
    begin: NDArray[np.int64]
    size: NDArray[np.int32]
    is_end: NDArray[np.bool_]
    source: NDArray[np.int32]
    lengths: NDArray[np.int32]

    def of_set(self, name: str) -> Rows:
        """Rows of the source of that number."""
        return np.flatnonzero(self.source == int(name))


def cut_pieces(tokens: TokenStore, max_length: int, num_special: int) -> Pieces:
    """Cut all documents into pieces that fit, in order."""
    room = max_length - num_special
    parts = [_cut(number, source, begins, lengths, room) for number, source, begins, lengths in tokens.documents()]
    shard, begin, size, is_end, source = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pieces(
        shard.astype(np.int32),
        begin,
        size.astype(np.int32),
        is_end,
        source.astype(np.int32),
        (size + num_special).astype(np.int32),
    )


def _cut(
    shard: int, source: int, begins: NDArray[np.int64], lengths: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    counts = -(-lengths // room)
    document = np.repeat(np.arange(len(lengths)), counts)
    place = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    size = np.minimum(lengths[document] - place * room, room)
    is_end = place == counts[document] - 1
    return np.full_like(document, shard), begins[document] + place * room, size, is_end, np.full_like(document, source)


@dataclass(frozen=True)
class StepInputs:
    """What one worker reads in a step, pass by pass, and what the sums of all workers' losses are to be divided by."""

    passes: list[Inputs]
    num_words: int
    num_orders: int
    num_tokens: int  # of all workers
    num_squares: int  # sum of the squared lengths of all workers' texts


class Composer:
    """Makes the inputs of a step out of rows, noise and a worker's place among all."""

    def __init__(
        self, tokens: TokenStore, pieces: Pieces, objective: ObjectiveSettings, tokenizer: Tokenizer, words: Words
    ) -> None:
        self._tokens, self._pieces, self._objective, self._words = tokens, pieces, objective, words
        if objective.kind == "clm":
            self._end = find_role(tokenizer, "end-of-text", ENDS)
        else:
            self._vocabulary = Vocabulary.of(tokenizer)
            self._first, self._last = find_role(tokenizer, "first", FIRSTS), find_role(tokenizer, "last", LASTS)

    def compose(
        self, rows: Rows, rng: np.random.Generator, mine: slice, num_passes: int, *, grouped: bool
    ) -> StepInputs:
        """Inputs of the passes `mine` of a step of `num_passes` passes over all workers.

        Parameters
        ----------
        grouped : as in `models.packing.pack`.
        """
        texts = self._texts(rows, rng)
        lengths = np.array([len(text.ids) for text in texts], np.int64)
        own = _parts(lengths, num_passes)[mine]
        return StepInputs(
            passes=[_join([texts[index] for index in part], texts[0], grouped) for part in own],
            num_words=sum(len(text.places) for text in texts),
            num_orders=sum(text.order != UNKNOWN_ORDER for text in texts),
            num_tokens=int(lengths.sum()),
            num_squares=int((lengths**2).sum()),
        )

    def _texts(self, rows: Rows, rng: np.random.Generator) -> list[_Text]:
        pieces = self._pieces
        marked = [
            self._tokens.read(int(pieces.shard[row]), int(pieces.begin[row]), int(pieces.size[row])) for row in rows
        ]
        if self._objective.kind == "clm":
            return [self._next_words(one, bool(pieces.is_end[row])) for one, row in zip(marked, rows, strict=True)]
        return self._hidden_words([self._frame(one, rng) for one in marked], rng)

    def _next_words(self, marked: Marked, is_end: bool) -> _Text:
        ids = np.concatenate([[self._end], marked & ID, [self._end][: int(is_end)]]).astype(np.int32)
        return _Text(ids[:-1], np.arange(len(ids) - 1), ids[1:])

    def _frame(self, marked: Marked, rng: np.random.Generator) -> tuple[Marked, int, int]:
        """A piece with special tokens around, where its second segment begins (0: nowhere), and its order."""
        first, last = np.array([self._first], np.uint32), np.array([self._last], np.uint32)
        cuts = np.flatnonzero(marked & BEGINS)
        cuts = cuts[cuts > 0]
        if not self._objective.sentence_order or not len(cuts):
            return np.concatenate([first, marked, last]), 0, UNKNOWN_ORDER
        cut = int(rng.choice(cuts))
        swapped = bool(rng.random() < 0.5)
        one, two = (marked[cut:], marked[:cut]) if swapped else (marked[:cut], marked[cut:])
        return np.concatenate([first, one, last, two, last]), len(one) + 2, int(swapped)

    def _hidden_words(self, framed: list[tuple[Marked, int, int]], rng: np.random.Generator) -> list[_Text]:
        marked = np.concatenate([one for one, _, _ in framed])
        ids = (marked & ID).astype(np.int32)
        joined = (marked & GOES_ON) != 0
        if self._words == "chance":
            joined |= chance_runs(ids, self._vocabulary, rng)
        noisy, positions = hide_units(ids, joined, self._objective.mask_rate, self._vocabulary, rng)
        ends = np.cumsum([len(one) for one, _, _ in framed])
        cuts = np.searchsorted(positions, ends[:-1])
        return [
            _Text(noisy[end - len(one) : end], places - (end - len(one)), ids[places], second, order)
            for (one, second, order), end, places in zip(framed, ends, np.split(positions, cuts), strict=True)
        ]


@dataclass(frozen=True)
class _Text:
    """One text as it is read: its tokens with their noise, which places tell which words, its second segment."""

    ids: NDArray[np.int32]
    places: NDArray[np.int64]
    targets: NDArray[np.int32]
    second: int = 0
    order: int = UNKNOWN_ORDER

    def without_targets(self) -> _Text:
        """The same with nothing to tell: for a worker that a short step leaves without a text."""
        return _Text(self.ids, self.places[:0], self.targets[:0], self.second)


def _parts(lengths: NDArray[np.int64], num_passes: int) -> list[NDArray[np.int64]]:
    """Cut a step's texts, in order, into passes of near-equal tokens; some may be empty."""
    if num_passes == 1:
        return [np.arange(len(lengths))]
    middle = np.cumsum(lengths) - lengths / 2
    number = np.minimum((middle * num_passes / lengths.sum()).astype(np.int64), num_passes - 1)
    return [np.flatnonzero(number == place) for place in range(num_passes)]


def _join(texts: list[_Text], spare: _Text, grouped: bool) -> Inputs:
    texts = texts or [spare.without_targets()]
    lengths = np.array([len(text.ids) for text in texts])
    begins = np.cumsum(lengths) - lengths
    types = np.zeros(int(lengths.sum()), np.int64)
    for text, begin in zip(texts, begins, strict=True):
        if text.second:
            types[begin + text.second : begin + len(text.ids)] = 1
    return Inputs(
        batch=pack(np.concatenate([text.ids for text in texts]), lengths, grouped=grouped),
        places=torch.from_numpy(np.concatenate([text.places + b for text, b in zip(texts, begins, strict=True)])),
        targets=torch.from_numpy(np.concatenate([text.targets for text in texts]).astype(np.int64)),
        types=torch.from_numpy(types),
        orders=torch.tensor([text.order for text in texts]),
    )
