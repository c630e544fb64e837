"""Training: labels from the sets, the noise of a step, resuming, and a whole tiny run on texts made here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cluster.config import SettingsError, load_config, parse_config
from jobs.train.__main__ import main
from jobs.train.calibrate import best_temperature
from jobs.train.card import FLOORS
from jobs.train.corpus import Corpus, encode, examples, read_corpus, write_corpus
from jobs.train.learner import Learner, allowed_answers, allowed_loss
from jobs.train.loop import Clock, Course, Step, TrainingError, run_stage
from jobs.train.masking import MIXED, Vocabulary, hide, join_texts
from jobs.train.measure import (
    accuracy,
    calibration_error,
    grade_error,
    mean_with_interval,
    probabilities,
    two_way_accuracy,
)
from jobs.train.optim import rate_at
from jobs.train.plan import plan_steps
from jobs.train.sets import NEGATIVE, NEUTRAL, POSITIVE, SETS, UNKNOWN, Example
from jobs.train.settings import StageSettings, TrainSettings
from jobs.train.tokenizer import SPECIAL, train_tokenizer
from models.architecture import Architecture
from models.bundle import load_bundle
from models.masking import PLACEHOLDERS
from models.packing import pack
from models.scorer import Scorer
from models.tokeniser import Tokeniser

pytestmark = pytest.mark.slow

STARTER = Path(__file__).parents[2] / "jobs" / "train" / "starter.yaml"
DATA = Path(__file__).parents[3] / "shared" / "data"

GOOD = ["good", "great", "lovely", "fine", "superb", "nice", "好", "棒", "赞", "喜欢", "满意", "不错"]
BAD = ["bad", "awful", "broken", "poor", "nasty", "sad", "差", "烂", "坏", "讨厌", "失望", "糟糕"]
THINGS = ["phone", "case", "cable", "screen", "box", "bag", "手机", "屏幕", "包装", "物流", "电池", "价格"]


def texts(num: int, seed: int) -> list[tuple[str, str]]:
    """Made-up reviews with their polarity; a person's number in every tenth."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(num):
        polarity = ("negative", "positive")[index % 2]
        words = [str(rng.choice(THINGS)), *map(str, rng.choice((BAD, GOOD)[index % 2], 3)), str(rng.choice(THINGS))]
        made.append((" ".join(words) + (" 13812345678" if index % 10 < 2 else ""), polarity))
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sets of made-up texts, laid out as the real ones are."""
    folder = tmp_path / "data" / "feedback"
    folder.mkdir(parents=True)
    made = [(text, polarity, "train" if i % 5 else "dev") for i, (text, polarity) in enumerate(texts(400, 1))]
    reviews, polarities, splits = map(list, zip(*made, strict=True))
    pq.write_table(
        pa.table({"text": reviews, "sentiment": polarities, "split": splits}), folder / "chnsenticorp.parquet"
    )
    digits = ["1" if polarity == "positive" else "0" for polarity in polarities]
    pq.write_table(
        pa.table({"text": reviews, "label": digits, "split": splits}), folder / "amazon_polarity_10k.parquet"
    )
    return folder.parent


def tiny(data: Path, work: Path, **changes: Any) -> dict[str, Any]:
    stage = {"sets": {"chnsenticorp": 1.0, "amazon_polarity_10k": 0.5}, "epochs": 1, "token_budget": 400}
    rates = {"learning_rate": 0.005, "matrix_learning_rate": 0.02}
    return {
        "name": "tiny",
        "seed": 7,
        "data": str(data),
        "work": str(work),
        "bundle": str(work / "bundle"),
        "max_length": 32,
        "vocab_size": 120,
        "precision": "fp32",
        "threads": 1,
        "shape": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
        "pretrain": {**stage, **rates, "mask_rate": 0.3},
        "finetune": {**stage, **rates, "epochs": 8, "mask_rate": 0.2, "dropout": 0.1, "join_rate": 0.1},
        "calibrate_on": ["chnsenticorp"],
        "report_on": ["chnsenticorp", "amazon_polarity_10k"],
        **changes,
    }


# --- sets and labels


def example(name: str, **row: Any) -> list[Example]:
    return list(SETS[name].examples(row))


def test_polarity_bounds_the_stars() -> None:
    assert example("chnsenticorp", text="好", sentiment="positive") == [Example("好", POSITIVE, 0b11000)]
    assert example("sst2", text="bad", label="0") == [Example("bad", NEGATIVE, 0b00011)]


@pytest.mark.parametrize(
    ("codes", "sentiment"),
    [
        (["POS", "POS"], POSITIVE),
        (["NEG"], NEGATIVE),
        (["NEU"], NEUTRAL),
        (["POS", "NEU"], POSITIVE),
        (["POS", "NEG"], NEUTRAL),
    ],
)
def test_triplets_that_agree_give_their_polarity(codes: list[str], sentiment: int) -> None:
    triplets = str([((0, 1), (2, 3), code) for code in codes])
    assert example("dianping_triplets", text="x", triplets=triplets)[0].sentiment == sentiment


def test_opinions_become_short_reviews() -> None:
    row = {
        "text": "华夫味道一般",
        "tokens": "华 夫 味 道 一 般",
        "triplets": "[((0, 1), (2, 5), 'NEU'), ((-1, -1), (4, 5), 'NEG')]",
    }
    found = [(one.text, one.sentiment) for one in example("dianping_opinions", **row)]
    assert found == [("味道一般", NEUTRAL), ("华夫味道一般", NEUTRAL), ("一般", NEGATIVE), ("一般", NEGATIVE)]


@pytest.mark.parametrize(("rating", "sentiment"), [(1, NEGATIVE), (2, NEGATIVE), (3, NEUTRAL), (4, POSITIVE)])
def test_stars_are_exact_and_give_polarity(rating: int, sentiment: int) -> None:
    found = example("womens_clothing", text="fits", title="Nice", rating=rating)
    assert found == [Example("Nice. fits", sentiment, 1 << (rating - 1))]


@pytest.mark.parametrize(
    ("emotions", "sentiment"),
    [(["joy"], POSITIVE), (["anger", "neutral"], NEGATIVE), (["curiosity"], NEUTRAL), (["joy", "anger"], UNKNOWN)],
)
def test_emotions_map_to_polarity(emotions: list[str], sentiment: int) -> None:
    assert example("goemotions", text="x", emotions=json.dumps(emotions)) == [Example("x", sentiment)]


def test_aspects_without_opinion_are_unlabelled() -> None:
    assert example("product_review_aspects", text="x", aspects="[]")[0].sentiment == UNKNOWN


def test_office_replies_are_neutral() -> None:
    found = example("public_complaints_replied", text="a", reply="b")
    assert [one.sentiment for one in found] == [NEGATIVE, NEUTRAL]


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real sets aren't beside the checkout")
@pytest.mark.parametrize("name", sorted(set(SETS) - {"zh_prose"}))
def test_every_row_of_the_real_sets_can_be_read(name: str) -> None:
    table = pq.read_table(DATA / SETS[name].file)
    found = [one for row in table.to_pylist() for one in SETS[name].examples(row)]
    assert len(found) >= table.num_rows
    assert {one.sentiment for one in found} <= {UNKNOWN, NEGATIVE, NEUTRAL, POSITIVE}


# --- settings


def test_starter_settings_can_be_read() -> None:
    settings = load_config(STARTER, [], TrainSettings)
    assert 16_000 <= settings.vocab_size <= 20_000
    assert all(SETS[name].may_train for name in (*settings.pretrain.sets, *settings.finetune.sets))
    assert FLOORS.keys() <= set(settings.report_on)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": 1}, "unknown key sead: did you mean seed?"),
        ({"seed": "one"}, "seed"),
        ({"vocab_size": 3}, "vocab_size"),
    ],
)
def test_wrong_settings_name_the_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_config(tiny(tmp_path, tmp_path, **changes), TrainSettings, "tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [("waimai_10k", "may be measured on, not trained on"), ("chnsenticorb", "did you mean chnsenticorp?")],
)
def test_sets_that_may_not_train_are_refused(tmp_path: Path, name: str, message: str) -> None:
    config = tiny(tmp_path, tmp_path)
    config["finetune"]["sets"] = {name: 1.0}
    with pytest.raises(SettingsError, match=message.replace("?", r"\?")):
        parse_config(config, TrainSettings, "tiny")


# --- tokenizer and corpus


def test_tokenizer_splits_han_folds_case_and_keeps_placeholders() -> None:
    tokenizer = train_tokenizer(["好的 手机 GREAT great phone"] * 5, 100)
    assert tokenizer.encode("手机Great [PHONE]").tokens == ["[CLS]", "手", "机", "great", "[PHONE]", "[SEP]"]
    assert [tokenizer.id_to_token(index) for index in range(len(SPECIAL))] == list(SPECIAL)


def test_whatever_is_masked_is_one_token() -> None:
    tokenizer = train_tokenizer(["好的 phone"] * 5, 100)
    for placeholder in PLACEHOLDERS:
        assert tokenizer.encode(f"x{placeholder}").tokens[-2:] == [placeholder, "[SEP]"]


def test_personal_data_never_reaches_the_corpus(data: Path) -> None:
    joined = " ".join(one.text for one in examples("chnsenticorp", data, "train"))
    assert "13812345678" not in joined
    assert "[PHONE]" in joined


def test_corpus_survives_its_file(data: Path, tmp_path: Path) -> None:
    corpus = tiny_corpus(data, tmp_path)
    write_corpus(corpus, tmp_path / "corpus.parquet")
    again = read_corpus(tmp_path / "corpus.parquet")
    assert again.names == corpus.names
    for name in ("ids", "lengths", "sets", "labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(corpus, name))


def tiny_corpus(data: Path, folder: Path) -> Corpus:
    train_tokenizer((text for text, _ in texts(100, 1)), 120).save(str(folder / "tokenizer.json"))
    made = {name: list(examples(name, data, "train")) for name in ("chnsenticorp", "amazon_polarity_10k")}
    return encode(made, Tokeniser(folder / "tokenizer.json", 32))


# --- noise


def vocabulary() -> Vocabulary:
    """Tokens 0-4 special, 5-14 words, 15-19 going on, 20-29 Chinese."""
    place = np.arange(30)
    return Vocabulary(goes_on=(place >= 15) & (place < 20), is_han=place >= 20, is_special=place < 5, mask_id=4)


def test_the_asked_share_is_hidden_and_mostly_masked() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 30, 40_000).astype(np.int32)
    noisy, positions = hide(ids, 0.3, vocabulary(), rng)
    assert len(positions) / len(ids) == pytest.approx(0.3, abs=0.01)
    assert np.mean(noisy[positions] == 4) == pytest.approx(0.8, abs=0.02)
    untouched = np.setdiff1d(np.arange(len(ids)), positions)
    np.testing.assert_array_equal(noisy[untouched], ids[untouched])


def test_special_tokens_are_never_hidden_or_put_in() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, 10_000).astype(np.int32)
    noisy, positions = hide(ids, 0.5, vocabulary(), rng)
    assert (ids[positions] >= 5).all()
    assert set(noisy[positions]) <= {4, *range(5, 30)}


def test_pieces_of_a_word_are_hidden_together() -> None:
    ids = np.tile(np.array([5, 15, 16], dtype=np.int32), 2000)
    _, positions = hide(ids, 0.3, vocabulary(), np.random.default_rng(0))
    words, times = np.unique(positions // 3, return_counts=True)
    assert 400 < len(words) < 800
    assert (times == 3).all()


def test_chinese_is_hidden_in_runs() -> None:
    ids = np.full(20_000, 20, dtype=np.int32)
    _, positions = hide(ids, 0.2, vocabulary(), np.random.default_rng(0))
    runs = 1 + int((np.diff(positions) > 1).sum())
    assert len(positions) / runs > 1.8  # alone, tokens hidden at this rate stand in runs of 1.25


def test_nothing_is_hidden_at_rate_0() -> None:
    ids = np.arange(5, 15, dtype=np.int32)
    noisy, positions = hide(ids, 0.0, vocabulary(), np.random.default_rng(0))
    np.testing.assert_array_equal(noisy, ids)
    assert len(positions) == 0


def joined(labels: list[tuple[int, int]], longest: int = 32) -> tuple[list[list[int]], list[list[int]]]:
    some = [np.array([2, 10 + index, 3], dtype=np.int32) for index in range(len(labels))]
    out, bits = join_texts(some, np.array(labels, dtype=np.uint8), 1.0, longest, np.random.default_rng(0))
    return [list(map(int, text)) for text in out], bits.tolist()


def test_joined_texts_at_odds_are_mixed() -> None:
    out, bits = joined([(POSITIVE, 0b10000), (NEGATIVE, 0b00001)])
    assert sorted(out[0][1:-1]) == [10, 11]
    assert (out[0][0], out[0][-1], bits) == (2, 3, [list(MIXED)])


def test_joined_texts_of_one_mind_keep_it() -> None:
    _, bits = joined([(POSITIVE, 0b10000), (POSITIVE, 0b01000)])
    assert bits == [[POSITIVE, 0b11000]]


@pytest.mark.parametrize(("other", "longest"), [((UNKNOWN, 0), 32), ((NEGATIVE, 0), 3)])
def test_unlabelled_or_too_long_texts_stay_apart(other: tuple[int, int], longest: int) -> None:
    out, bits = joined([(POSITIVE, 0), other], longest)
    assert len(out) == 2
    assert bits == [[POSITIVE, 0], list(other)]


# --- loss and figures


def test_allowed_loss_is_minus_log_of_all_allowed_answers() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, math.log(2)], [9.0, 0.0, 0.0]])
    allowed = allowed_answers(np.array([0b110, 0b100, 0], dtype=np.uint8), 3)
    expected = (-math.log(2 / 3) - math.log(1 / 2)) / 2
    assert float(allowed_loss(logits, allowed)) == pytest.approx(expected)


def test_allowed_loss_of_no_label_is_nothing_and_has_a_gradient() -> None:
    logits = torch.ones(2, 3, requires_grad=True)
    loss = allowed_loss(logits, torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None


def test_figures_of_known_answers() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3]], dtype=np.float32))
    bits = np.array([NEGATIVE, NEUTRAL, POSITIVE, POSITIVE], dtype=np.uint8)
    assert two_way_accuracy(logits, bits, 0).value == pytest.approx(2 / 3)  # the third is a tie
    assert accuracy(logits, bits, 0).value == pytest.approx(0.5)
    assert calibration_error(logits, bits, 1.0) == pytest.approx((0.3 + 0.2 + 0.4 + 0.5) / 4, abs=1e-6)
    assert grade_error(logits, bits, 0).value == pytest.approx((0.4 + 0.0 + 1.0 + 0.9) / 4, abs=1e-6)


def test_interval_holds_the_mean_and_narrows() -> None:
    some = np.random.default_rng(0).random(10_000)
    wide, narrow = mean_with_interval(some[:100], 0), mean_with_interval(some, 0)
    assert wide.low < wide.value < wide.high
    assert (narrow.high - narrow.low) * 5 < wide.high - wide.low


def test_temperature_undoes_a_known_overstatement() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 3)).astype(np.float32)
    drawn = (probabilities(logits).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    bits = (1 << drawn).astype(np.uint8)
    assert best_temperature(logits * 2.5, bits) == pytest.approx(2.5, rel=0.05)


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[99] < 0.02


# --- plan and loop


def test_plan_reads_each_set_as_often_as_asked(data: Path, tmp_path: Path) -> None:
    corpus = tiny_corpus(data, tmp_path)
    steps = plan_steps(corpus, {"chnsenticorp": 1.5, "amazon_polarity_10k": 0.25}, 2, 400, seed=1)
    rows = np.concatenate(steps)
    first, second = (int((corpus.sets[rows] == place).sum()) for place in (0, 1))
    assert (first, second) == (2 * 480, 2 * 80)
    assert all(corpus.lengths[step].sum() <= 400 for step in steps)
    assert [list(a) for a in plan_steps(corpus, {"chnsenticorp": 1.0}, 1, 400, seed=1)] != [
        list(a) for a in plan_steps(corpus, {"chnsenticorp": 1.0}, 1, 400, seed=2)
    ]


def learner() -> Learner:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return Learner(Architecture(vocab_size=30, max_position_embeddings=16, **shape), dropout=0.1)


def course(num_steps: int) -> Course:
    rates = {"learning_rate": 0.01, "matrix_learning_rate": 0.02}
    settings = StageSettings(sets={"chnsenticorp": 1.0}, epochs=1, token_budget=16, mask_rate=0.3, **rates)

    def loss_of(model: Learner, step: Step) -> tuple[torch.Tensor, int]:
        ids = step.rng.integers(5, 30, 12)
        noisy, positions = hide(ids.astype(np.int32), 0.5, vocabulary(), step.rng)
        hidden_td = model.trunk(pack(noisy, np.array([12])))
        targets = torch.from_numpy(ids[positions])
        return model.mlm_loss(hidden_td, torch.from_numpy(positions), targets), 12

    return Course([np.array([0])] * num_steps, loss_of, settings, seed=3)


class KilledError(Exception):
    """Stands for a kill in the middle of a stage."""


def test_a_killed_stage_ends_as_if_never_killed(tmp_path: Path) -> None:
    always = Clock(log_every_s=1e9, checkpoint_every_s=1e-9)
    whole, halves = learner(), learner()
    run_stage(whole, course(20), tmp_path / "whole.pt", always)
    plain = course(20)
    calls = iter(range(100))

    def until_killed(model: Learner, step: Step) -> tuple[torch.Tensor, int]:
        if next(calls) == 7:
            raise KilledError
        return plain.loss_of(model, step)

    with pytest.raises(KilledError):
        run_stage(halves, Course(plain.steps, until_killed, plain.settings, 3), tmp_path / "halves.pt", always)
    again = learner()
    run_stage(again, plain, tmp_path / "halves.pt", always)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    plain = course(6)
    calls = iter(range(100))

    def breaks(model: Learner, step: Step) -> tuple[torch.Tensor, int]:
        loss, tokens = plain.loss_of(model, step)
        return (loss * math.nan if next(calls) == 3 else loss), tokens

    clock = Clock(log_every_s=1e9, checkpoint_every_s=1e-9)
    with pytest.raises(TrainingError, match="loss is nan at step 3"):
        run_stage(learner(), Course(plain.steps, breaks, plain.settings, 3), tmp_path / "stage.pt", clock)
    assert torch.load(tmp_path / "stage.pt", weights_only=True)["step"] == 3


# --- a whole run


def test_a_tiny_run_gives_a_bundle_that_tells_good_from_bad(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny(data, tmp_path / "work")), encoding="utf-8")
    assert main([str(path)]) == 0
    bundle = load_bundle(tmp_path / "work" / "bundle")
    scorer = Scorer(bundle, token_budget=512)
    scores = scorer.score(bundle.tokeniser.encode(["screen great lovely fine", "screen awful broken nasty"]))
    assert scores["sentiment"].to_pylist() == ["positive", "negative"]
    stars = scores["stars"].to_pylist()
    assert stars[0] > stars[1]
    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert "chnsenticorp" in card
    assert "Apache-2.0" in card

    weights = (bundle.folder / "model.safetensors").read_bytes()
    assert main([str(path), f"bundle={tmp_path / 'again'}"]) == 0  # all stages stand: only the bundle is written
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("arguments", [[], ["nowhere.yaml"], [str(STARTER), "data=nowhere", "work=out/train/test"]])
def test_what_cannot_run_says_so(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err
