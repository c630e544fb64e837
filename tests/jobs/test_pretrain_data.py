"""What pretraining makes of data: documents, words, the sequences of a step and their noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from cluster.stores import open_store
from jobs.train.documents import plan_slices, read_documents
from jobs.train.encoding import BEGINS, GOES_ON, ID, choose_words, encode_documents
from jobs.train.networks import UNKNOWN_ORDER, Inputs
from jobs.train.plan import plan_steps
from jobs.train.pretrain_settings import ObjectiveSettings, PretrainError
from jobs.train.sequences import Composer, cut_pieces
from jobs.train.tokenizer import train_tokenizer
from jobs.train.tokens import TokenStore, make_tokens
from tests.jobs import pretrain_fixtures
from tests.jobs.pretrain_fixtures import documents, settings, write_corpus

tokenizer = pretrain_fixtures.tokenizer


# --- documents


def test_every_format_is_read_and_masked(tmp_path: Path) -> None:
    data = write_corpus(tmp_path)
    (tmp_path / "c.txt").write_text("one 13812345678\n\n  \nＴＷＯ\n", encoding="utf-8")
    slices = plan_slices(settings(data, tmp_path).data)
    assert [one.source for one in slices] == [0, 1, 2]
    assert list(read_documents(slices[2])) == ["one [PHONE]", "TWO"]
    assert len(list(read_documents(slices[1]))) == 60
    assert list(read_documents(slices[0])) == documents(120, 1)


def test_sources_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    data = write_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan_slices(settings([{"input": str(tmp_path / "nowhere.txt")}], tmp_path).data)
    with pytest.raises(ValueError, match="no column 'text'"):
        plan_slices(settings([{**data[1], "text": "text"}], tmp_path).data)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(PretrainError, match="all 1 files are empty"):
        plan_slices(settings([{"input": str(tmp_path / "empty.txt")}], tmp_path).data)


def write_parts(path: Path, num: int) -> dict[str, Any]:
    """A source of which every fourth document is of the part dev."""
    parts = ["dev" if number % 4 == 0 else "train" for number in range(num)]
    rows = zip(documents(num, 5), parts, strict=True)
    path.write_text("\n".join(json.dumps({"text": text, "part": part}) for text, part in rows), encoding="utf-8")
    return {"input": str(path), "split": {"column": "part", "value": "train"}}


def test_of_a_split_only_the_rows_of_its_value_are_read(tmp_path: Path) -> None:
    source = write_parts(tmp_path / "parts.jsonl", 40)
    (one,) = plan_slices(settings([source], tmp_path).data)
    assert list(read_documents(one)) == [text for number, text in enumerate(documents(40, 5)) if number % 4]
    (every,) = plan_slices(settings([{"input": source["input"]}], tmp_path).data)
    assert list(read_documents(every)) == documents(40, 5)


def test_tokens_of_another_split_are_made_anew(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source, store, numbers = write_parts(tmp_path / "parts.jsonl", 40), open_store(str(tmp_path)), []
    for split in ({"column": "part", "value": "train"}, {"column": "part", "value": "dev"}, None):
        slices = plan_slices(settings([{**source, "split": split}], tmp_path).data)
        tokens = TokenStore(make_tokens(store, slices, tokenizer, "chance", on_ray=False))
        numbers.append(sum(shard.num_documents for shard in tokens.shards))
    assert numbers == [30, 10, 40]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"column": "part", "value": "trian"}, "no row of .* has 'trian' in 'part'"),
        ({"column": "prat"}, "no column 'prat'; did you mean 'part'"),
    ],
)
def test_a_split_that_no_row_is_of_is_refused(tmp_path: Path, split: dict[str, str], message: str) -> None:
    source = {**write_parts(tmp_path / "parts.jsonl", 8), "split": split}
    with pytest.raises(ValueError, match=message):
        plan_slices(settings([source], tmp_path).data)


def test_plain_text_has_no_split(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(PretrainError, match="is plain text: it has no column 'split'"):
        plan_slices(settings([{"input": str(tmp_path / "c.txt"), "split": {}}], tmp_path).data)


# --- words


def marks(tokenizer: Tokenizer, words: str, text: str) -> list[tuple[str, bool, bool]]:
    (marked,) = encode_documents(tokenizer, words, [text])  # type: ignore[arg-type]
    return [(tokenizer.id_to_token(int(one & ID)), bool(one & GOES_ON), bool(one & BEGINS)) for one in marked]


def test_pieces_go_on_words_and_sentences_begin() -> None:
    tokenizer = train_tokenizer(["ab ab ab ac c ."] * 9, 64)
    assert marks(tokenizer, "chance", "ab abc. c") == [
        ("ab", False, True),
        ("ab", False, False),
        ("##c", True, False),
        (".", False, False),
        ("c", False, True),
    ]


def test_jieba_joins_the_characters_of_a_word() -> None:
    pytest.importorskip("jieba")
    tokenizer = train_tokenizer(["手机 屏幕 很 好 ok"] * 9, 64)
    found = marks(tokenizer, "jieba", "手机屏幕很好 ok")
    assert [goes_on for _, goes_on, _ in found[:4]] == [False, True, False, True]
    assert found[-1][1] is False
    assert not any(goes_on for _, goes_on, _ in marks(tokenizer, "chance", "手机屏幕很好 ok"))


def test_jieba_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert choose_words("auto") == "chance"
    with pytest.raises(PretrainError, match=r"verbatim\[train\]"):
        choose_words("jieba")


# --- sequences


@pytest.fixture(scope="module")
def tokens(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("tokens")
    slices = plan_slices(settings(write_corpus(folder / "data"), folder).data)
    return TokenStore(make_tokens(open_store(str(folder)), slices, tokenizer, "chance", on_ray=False))


def composed(
    tokens: TokenStore, tokenizer: Tokenizer, objective: dict[str, Any], num_passes: int = 1, mine: slice | None = None
) -> list[Inputs]:
    own = ObjectiveSettings(**objective)
    pieces = cut_pieces(tokens, 32, 3)
    composer = Composer(tokens, pieces, own, tokenizer, "chance")
    rows = np.arange(0, len(pieces.lengths), 9)
    return composer.compose(rows, np.random.default_rng(3), mine or slice(None), num_passes, grouped=True).passes


def test_pieces_hold_every_token_once(tokens: TokenStore) -> None:
    pieces = cut_pieces(tokens, 32, 3)
    assert int(pieces.size.sum()) == tokens.num_tokens
    assert int(pieces.lengths.max()) <= 32
    assert int(pieces.is_end.sum()) == 220
    read = np.concatenate([tokens.read(0, int(b), int(s)) for b, s in zip(pieces.begin, pieces.size, strict=True)][:50])
    begin = 1 + tokens.shards[0].num_documents
    np.testing.assert_array_equal(read, tokens.read(0, begin, len(read)))


def test_a_weight_is_how_often_an_epoch_reads_a_source(tokens: TokenStore) -> None:
    pieces = cut_pieces(tokens, 32, 3)
    rows = np.concatenate(plan_steps(pieces, {"0": 1.0, "1": 0.5, "2": 2.0}, 1, 256, seed=1))
    counts = [int((pieces.source == source).sum()) for source in range(3)]
    found = [int((pieces.source[rows] == source).sum()) for source in range(3)]
    assert found == [counts[0], round(counts[1] / 2), 2 * counts[2]]


def test_segments_have_types_and_an_order(tokens: TokenStore, tokenizer: Tokenizer) -> None:
    (inputs,) = composed(tokens, tokenizer, {"sentence_order": True})
    assert inputs.orders is not None
    assert inputs.types is not None
    assert set(inputs.orders.tolist()) == {UNKNOWN_ORDER, 0, 1}
    last = tokenizer.token_to_id("[SEP]")
    for begin, end, order in zip(inputs.batch.starts, inputs.batch.bounds[1:], inputs.orders, strict=True):
        types, ids = inputs.types[begin:end].tolist(), inputs.batch.input_ids[begin:end].tolist()
        assert types == sorted(types)
        assert (1 in types) == (order != UNKNOWN_ORDER)
        assert ids.count(last) == 1 + (1 in types)
        assert ids[0] == tokenizer.token_to_id("[CLS]")
        if 1 in types:
            assert ids[types.index(1) - 1] == last


def test_hidden_words_are_told_as_they_were(tokens: TokenStore, tokenizer: Tokenizer) -> None:
    (inputs,) = composed(tokens, tokenizer, {"mask_rate": 0.4})
    share = len(inputs.places) / inputs.batch.num_tokens
    assert 0.25 < share < 0.45
    hidden = inputs.batch.input_ids[inputs.places]
    assert 0.6 < float((hidden == tokenizer.token_to_id("[MASK]")).float().mean()) < 0.95
    special = {tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]")}
    assert special.isdisjoint(inputs.targets.tolist())


def test_next_words_are_the_next_tokens(tokens: TokenStore, tokenizer: Tokenizer) -> None:
    (inputs,) = composed(tokens, tokenizer, {"kind": "clm"})
    end = tokenizer.token_to_id("<|endoftext|>")
    assert inputs.places.tolist() == list(range(inputs.batch.num_tokens))
    for begin, stop in zip(inputs.batch.starts, inputs.batch.bounds[1:], strict=True):
        read, told = inputs.batch.input_ids[begin:stop].tolist(), inputs.targets[begin:stop].tolist()
        assert read[0] == end
        assert read[1:] == told[:-1]
    assert (inputs.targets == end).any()


@pytest.mark.parametrize("num_passes", [2, 3, 200])
def test_noise_does_not_depend_on_who_takes_which_text(
    tokens: TokenStore, tokenizer: Tokenizer, num_passes: int
) -> None:
    (whole,) = composed(tokens, tokenizer, {"sentence_order": True})
    parts = composed(tokens, tokenizer, {"sentence_order": True}, num_passes)
    assert len(parts) == num_passes
    told = [part for part in parts if len(part.targets) or num_passes < 200]
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    if num_passes < 200:
        assert torch.equal(torch.cat([part.batch.input_ids for part in told]), whole.batch.input_ids)
    assert torch.equal(
        composed(tokens, tokenizer, {"sentence_order": True}, num_passes, slice(1, 2))[0].targets, parts[1].targets
    )


def test_changed_data_are_tokenised_anew(tokenizer: Tokenizer, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data")
    store = open_store(str(tmp_path))

    def make() -> str:
        return make_tokens(store, plan_slices(settings(data, tmp_path).data), tokenizer, "chance", on_ray=False)

    first = make()
    assert make() == first
    with (tmp_path / "data" / "c.txt").open("a") as file:
        file.write("more\n")
    assert make() != first
