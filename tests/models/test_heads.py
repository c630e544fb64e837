"""Heads: what their outputs become, on outputs made by hand; and spans of text from tags."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from models.heads import HeadSpec, need_offsets
from models.offsets import word_offsets
from models.tags import find_spans
from models.tokeniser import Tokeniser, Tokens

ROOT = Path(__file__).parents[2]
TAGS = ("O", "B-food", "I-food", "B-service", "I-service")


def tokens(lengths: list[int], offsets: list[tuple[int, int]] | None = None) -> Tokens:
    return Tokens(
        ids=np.zeros(sum(lengths), np.int32),
        lengths=np.array(lengths, np.int32),
        truncated=np.zeros(len(lengths), np.bool_),
        offsets=None if offsets is None else np.array(offsets, np.int32).reshape(-1, 2),
    )


def columns(head: HeadSpec, outputs: list[list[float]], of: Tokens | None = None) -> dict[str, list[Any]]:
    array = np.array(outputs, np.float32).reshape(-1, head.num_outputs)
    arrays = head.columns(array, tokens([1] * len(array)) if of is None else of)
    return pa.Table.from_arrays(arrays, schema=head.schema).to_pydict()


# --- text heads and embeddings


def test_a_multi_head_lists_what_is_over_its_threshold() -> None:
    head = HeadSpec(name="emotions", kind="multi", labels=("joy", "anger", "fear"), threshold=0.7, temperature=2)
    got = columns(head, [[2 * np.log(4), 2 * np.log(3), 0], [-200, -200, -200], [200, 200, 200]])
    assert got["emotions"] == [["joy", "anger"], [], ["joy", "anger", "fear"]]
    assert got["prob_emotions_joy"] == pytest.approx([0.8, 0, 1])
    assert got["prob_emotions_anger"] == pytest.approx([0.75, 0, 1])
    assert got["prob_emotions_fear"] == pytest.approx([0.5, 0, 1])


def test_the_threshold_itself_is_not_over_it() -> None:
    assert columns(HeadSpec(name="a", kind="multi", labels=("x",)), [[0.0], [0.01]])["a"] == [[], ["x"]]


def test_an_embedding_is_a_vector_of_fixed_size() -> None:
    plain = HeadSpec(name="embedding", kind="embedding", size=2, pooling="mean")
    assert plain.schema == pa.schema([("embedding", pa.list_(pa.float32(), 2))])
    assert columns(plain, [[3, 4], [0, 0]]) == {"embedding": [[3, 4], [0, 0]]}
    normal = plain.model_copy(update={"normalise": True})
    got = columns(normal, [[3, 4], [0, 0]])["embedding"]
    assert got == [pytest.approx([0.6, 0.8]), [0, 0]]


@pytest.mark.parametrize(
    "head",
    [
        HeadSpec(name="sentiment", labels=("negative", "positive")),
        HeadSpec(name="stars", kind="ordinal", labels=("1", "2")),
        HeadSpec(name="emotions", kind="multi", labels=("joy",)),
        HeadSpec(name="spans", kind="token", labels=TAGS),
        HeadSpec(name="spans", kind="token", labels=("O", "B-x", "I-x"), scheme="IOB2"),
        HeadSpec(name="embedding", kind="embedding", size=3),
    ],
    ids=lambda head: head.kind,
)
def test_no_text_gives_empty_columns_and_a_spec_goes_round(head: HeadSpec) -> None:
    assert set(map(len, columns(head, [], tokens([], [])).values())) == {0}
    assert need_offsets([head]) == (head.kind == "token")
    plain = head.model_dump(mode="json")
    assert HeadSpec.model_validate(plain) == head
    assert "threshold" in plain or head.kind != "multi"
    assert not {"size", "threshold"} & plain.keys() or head.kind in ("multi", "embedding")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "single", "labels": ("a",)}, "labels must be at least 2"),
        ({"kind": "multi", "labels": ()}, "labels must be at least 1"),
        ({"kind": "multi", "labels": ("a",), "threshold": 1.0}, "threshold"),
        ({"kind": "single", "labels": ("a", "b"), "threshold": 0.4}, "x is single: it has no threshold"),
        ({"kind": "token", "labels": TAGS, "pooling": "mean"}, "x is token: it has no pooling"),
        ({"kind": "token", "labels": ("O", "O")}, "labels must differ"),
        ({"kind": "token", "labels": ("O", "I-a"), "scheme": "IOB2"}, "{'B-a'} is missing"),
        ({"labels": ("a", "b"), "scheme": "IOB2"}, "x is single: it has no scheme"),
        ({"kind": "embedding", "size": 8, "labels": ("a",)}, "x is embedding: it has no labels"),
        ({"kind": "embedding"}, "size must be the number of the vector's components, got 0"),
        ({"kind": "ordinal", "labels": ("good", "bad")}, "labels must be numbers"),
        ({"kind": "multi", "labels": ("a",), "name": "sentiment"}, "sentiment must be of kind single, got multi"),
    ],
)
def test_a_head_that_does_not_fit_its_kind(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HeadSpec(**{"name": "x", **fields})


# --- spans


def spans(tags: list[str], offsets: list[tuple[int, int]], lengths: list[int], labels: tuple[str, ...] = TAGS) -> list:
    """Spans of tokens whose tag has the probability 0.6, all others sharing the rest."""
    rest = 0.4 / (len(labels) - 1)
    probs = np.full((len(tags), len(labels)), rest, np.float32)
    probs[np.arange(len(tags)), [labels.index(tag) for tag in tags]] = 0.6
    found = find_spans(labels, probs, tokens(lengths, offsets), None).to_pylist()
    assert all(span["prob"] == pytest.approx(0.6) for text in found for span in text)
    return [[(span["start"], span["end"], span["label"]) for span in text] for text in found]


def characters(count: int) -> list[tuple[int, int]]:
    """Offsets of a text of so many characters, each a token, between two special tokens."""
    return [(0, 0), *((i, i + 1) for i in range(count)), (0, 0)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["O", "O", "O"], []),
        (["B-food", "I-food", "O"], [(0, 2, "food")]),
        (["B-food", "B-food", "I-food"], [(0, 1, "food"), (1, 3, "food")]),
        (["I-food", "I-food", "O"], [(0, 2, "food")]),
        (["B-food", "I-service", "O"], [(0, 1, "food"), (1, 2, "service")]),
        (["I-food", "O", "I-food"], [(0, 1, "food"), (2, 3, "food")]),
        (["O", "O", "B-service"], [(2, 3, "service")]),
        (["B-food", "I-food", "I-food"], [(0, 3, "food")]),
    ],
)
def test_tags_make_spans(tags: list[str], expected: list[tuple[int, int, str]]) -> None:
    assert spans(["B-food", *tags, "I-food"], characters(3), [5]) == [expected], "special tokens never have a tag"


def test_a_span_ends_with_its_text() -> None:
    tags = ["I-food", "I-food", "I-food", "O", "I-food"]
    assert spans(tags, [(0, 1), (0, 1), (1, 2), (0, 0), (0, 1)], [1, 2, 1, 1]) == [
        [(0, 1, "food")],
        [(0, 2, "food")],
        [],
        [(0, 1, "food")],
    ]


@pytest.mark.parametrize(
    ("labels", "tags", "expected"),
    [
        (("O", "S-x", "B-x", "I-x", "E-x"), ["S-x", "B-x", "E-x", "S-x"], [(0, 1, "x"), (1, 3, "x"), (3, 4, "x")]),
        (("O", "PER", "I-LOC"), ["PER", "PER", "I-LOC", "O"], [(0, 2, "PER"), (2, 3, "LOC")]),
        (("B-a-b", "I-a-b", "O"), ["B-a-b", "I-a-b", "O", "O"], [(0, 2, "a-b")]),
    ],
)
def test_other_ways_to_write_tags(labels: tuple[str, ...], tags: list[str], expected: list) -> None:
    assert spans(["O", *tags, "O"], characters(4), [6], labels) == [expected]


def test_a_spans_probability_is_the_mean_of_its_words() -> None:
    head = HeadSpec(name="aspects", kind="token", labels=("O", "B-x", "I-x"), temperature=2)
    logits = [[9, 0, 0], [0, 2 * np.log(8), 0], [0, 9, 0], [0, 0, 2 * np.log(2)], [9, 0, 0]]
    of = tokens([5], [(0, 0), (0, 5), (0, 5), (6, 9), (0, 0)])
    got = columns(head, logits, of)["aspects"]
    assert got == [[{"start": 0, "end": 9, "label": "x", "prob": pytest.approx((0.8 + 0.5) / 2)}]], (
        "the first piece speaks for its word"
    )


def held_to_iob2(probs_tc: np.ndarray, labels: tuple[str, ...], lengths: list[int]) -> list:
    places = [(n, n + 1) for length in lengths for n in range(length)]
    found = find_spans(labels, probs_tc.astype(np.float32), tokens(lengths, places), "IOB2").to_pylist()
    return [[(span["start"], span["end"], span["label"], span["prob"]) for span in text] for text in found]


def test_a_span_of_undecided_polarity_is_one_span() -> None:
    labels = ("O", "B-bad", "I-bad", "B-good", "I-good")
    probs = np.array([[0.4, 0.35, 0, 0.25, 0], [0.3, 0, 0.3, 0, 0.4], [0.2, 0, 0.3, 0, 0.5], [0.9, 0, 0.1, 0, 0]])
    assert held_to_iob2(probs, labels, [4]) == [[(0, 3, "good", pytest.approx((0.25 + 0.4 + 0.5) / 3))]]


@given(st.lists(st.integers(1, 6), max_size=4), st.integers(0, 10_000))
def test_iob2_takes_the_likeliest_sequence_of_all(lengths: list[int], seed: int) -> None:
    labels = ("O", "B-x", "I-x")
    probs = np.random.default_rng(seed).dirichlet([0.4] * 3, sum(lengths)).reshape(-1, 3)
    expected, at = [], 0
    for length in lengths:
        own = probs[at : at + length].astype(np.float32)
        ways = [
            way
            for way in itertools.product(range(3), repeat=length)
            if way[0] != 2 and not any(pair == (0, 2) for pair in itertools.pairwise(way))
        ]
        best = max(ways, key=lambda way: sum(np.log(np.maximum(own[n, tag], 1e-30)) for n, tag in enumerate(way)))
        opens = [n for n, tag in enumerate(best) if tag == 1]
        ends = [next((n for n in range(begin + 1, length) if best[n] != 2), length) for begin in opens]
        expected.append(list(zip(opens, ends, strict=True)))
        at += length
    assert [[span[:2] for span in text] for text in held_to_iob2(probs, labels, lengths)] == expected


@given(st.lists(st.lists(st.sampled_from(TAGS), max_size=8), max_size=6))
def test_spans_are_those_of_a_plain_loop(texts: list[list[str]]) -> None:
    expected = []
    for tags in texts:
        found: list[tuple[int, int, str]] = []
        last = "O"
        for place, tag in enumerate(tags):
            begin, _, name = tag.partition("-")
            if begin == "I" and last == name:
                found[-1] = (found[-1][0], place + 1, name)
            elif tag != "O":
                found.append((place, place + 1, name))
            last = name or "O"
        expected.append(found)
    flat = [tag for tags in texts for tag in ["O", *tags, "O"]]
    offsets = [pair for tags in texts for pair in characters(len(tags))]
    assert spans(flat, offsets, [len(tags) + 2 for tags in texts]) == expected


# --- offsets


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "bat", "##ter", "##ies", "are", "don", "'", "t", "很", "好", "cafe"]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Tokeniser:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("tokeniser") / "tokenizer.json"
    tokenizer.save(str(path))
    return Tokeniser(path, 12)


def places(tokeniser: Tokeniser, texts: list[str]) -> list[list[str]]:
    """What each token's word is, read off the text itself."""
    found = tokeniser.encode(texts, with_offsets=True)
    assert found.offsets is not None
    rows = np.split(found.offsets, np.cumsum(found.lengths)[:-1])
    return [[text[start:end] for start, end in row] for text, row in zip(texts, rows, strict=True)]


def test_pieces_of_a_word_share_its_place(wordpiece: Tokeniser) -> None:
    assert places(wordpiece, ["The batteries很好", "", "don't", "Café the"]) == [
        ["", "The", "batteries", "batteries", "batteries", "很", "好", ""],
        ["", ""],
        ["", "don", "'", "t", ""],
        ["", "Café", "the", ""],
    ]


def test_offsets_are_there_only_if_asked_for(wordpiece: Tokeniser) -> None:
    with_offsets, without = (wordpiece.encode(["the bat", "好"], with_offsets=asked) for asked in (True, False))
    assert without.offsets is None
    assert np.array_equal(with_offsets.ids, without.ids)
    empty = wordpiece.encode([], with_offsets=True)
    assert empty.offsets is not None
    assert (empty.offsets.shape, empty.offsets.dtype) == ((0, 2), np.int32)


def test_a_cut_text_keeps_its_places(wordpiece: Tokeniser) -> None:
    assert places(wordpiece, ["the " * 30])[0] == ["", *["the"] * 10, ""]


@pytest.mark.parametrize("way", ["metaspace", "bytes"])
def test_other_tokenisers_give_the_same_places(way: str, tmp_path: Path) -> None:
    """SentencePiece's space before a word isn't part of it, and a byte isn't a character."""
    if way == "metaspace":
        pieces = ["▁the", "s", ",", "▁", "好", "吃"]
        tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in pieces)], 0))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    else:
        letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(letters, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "thes the, 好吃"
    got = places(Tokeniser(tmp_path / "tokenizer.json", 64), [text, text])
    assert got[0] == got[1]
    seen = [word for place, word in enumerate(got[0]) if word and word != got[0][place - 1]]
    assert seen == ["thes", "the", ",", "好", "吃"]


def test_describing_a_bundle_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, models.bundle, models.heads, models.tokeniser; print({'torch', 'transformers'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_no_word_reaches_into_the_next_text() -> None:
    pieces = np.array([(0, 2), (0, 2), (2, 4)], np.int32)
    found = word_offsets(["ab", "abcd", ""], pieces, np.array([1, 2, 0], np.int32))
    assert found.tolist() == [[0, 2], [0, 4], [0, 4]]
