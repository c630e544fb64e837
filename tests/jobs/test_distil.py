"""Distillation: words of two tokenisers, losses of known answers, a teacher asked once, a student that comes near."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from cluster.config import SettingsError, load_config, parse_config
from jobs.distil import teacher as teacher_module
from jobs.distil.__main__ import main
from jobs.distil.losses import Asked, cosine_loss, logits_loss, losses_of, meet, relation_loss, similarity_loss
from jobs.distil.run import distil
from jobs.distil.settings import MAIN, DistilError, DistilSettings, LossSettings
from jobs.distil.student import EMBEDDING, Student, build_student, find_origin
from jobs.distil.teacher import Lesson, Teacher, ask, read_lesson
from jobs.distil.words import common, words_of
from jobs.train.loop import TrainingError
from models.bundle import CARD_FILE, Bundle, load_bundle
from models.heads import HeadSpec
from models.packing import pack
from models.scorer import Scorer
from models.tokeniser import Tokeniser, Tokens
from models.weights import load_trunk
from tests.tiny import HEADS, tiny_bundle

DISTIL_YAML = Path(__file__).parents[2] / "jobs" / "distil" / "distil.yaml"
CPU = torch.device("cpu")
WORDS = LossSettings(words=1.0, relations=1.0)
TEXTS = ["nice food", "the staff was slow", "贵", "很好 很好 很好", "ok", "nice staff, slow food"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def wise(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A teacher with every head that a text has, and its own vector."""
    topics = HeadSpec(name="topics", kind="multi", labels=("a", "b"), pooling="mean")
    vector = HeadSpec(name="vector", kind="embedding", size=32, pooling="first", normalise=True)
    heads = (*HEADS, topics, vector)
    return tiny_bundle(tmp_path_factory.mktemp("teachers") / "wise", heads=heads)


@pytest.fixture(scope="module")
def word_tokeniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token a word, where the tiny bundle has one a character."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "nice", "food", "the", "staff", "was", "slow", "ok", ","]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("tokenisers") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def corpus(path: Path, num: int = 120) -> Path:
    rng = np.random.default_rng(0)
    words = ["nice", "food", "the", "staff", "was", "slow"]
    texts = [" ".join(rng.choice(words, rng.integers(2, 7))) for _ in range(num)]
    pq.write_table(pa.table({"text": texts, "part": ["train", "dev"] * (num // 2)}), path)
    return path


def settings_of(tmp_path: Path, teacher: Bundle, **changes: Any) -> DistilSettings:
    plain = {
        "teacher": str(teacher.folder),
        "student": {"bundle": str(teacher.folder)},
        "sets": {"mine": {"input": str(corpus(tmp_path / "my.parquet"))}},
        "output": str(tmp_path / "out"),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "schedule": {"epochs": 4, "token_budget": 256},
        **changes,
    }
    return parse_config(plain, DistilSettings, "test")


NEW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_length": 64}


# --- words


def test_words_are_the_means_of_their_pieces(wise: Bundle) -> None:
    tokens = wise.tokeniser.encode(["ab 好x", "c"], with_offsets=True)
    words = words_of(tokens)
    assert words.spans.tolist() == [[0, 2], [3, 4], [4, 5], [0, 1]]
    assert words.texts.tolist() == [0, 0, 0, 1]
    states = torch.arange(tokens.num_tokens).float().unsqueeze(1)  # [CLS] a b 好 x [SEP] [CLS] c [SEP]
    assert words.mean(states).flatten().tolist() == [1.5, 3.0, 4.0, 7.0]


def test_two_tokenisers_meet_at_words(wise: Bundle, word_tokeniser: Path) -> None:
    texts = ["nice staff, slow", "", "ok"]
    ours = words_of(wise.tokeniser.encode(texts, with_offsets=True))
    theirs = words_of(Tokeniser(word_tokeniser, 5).encode(texts, with_offsets=True))  # cuts off the last word
    assert len(ours) == 5
    left, right = common(ours.texts, ours.spans, theirs.texts, theirs.spans)
    assert left.tolist() == [0, 1, 2, 4]
    assert right.tolist() == [0, 1, 2, 3]


# --- losses


def test_a_cosine_is_blind_to_length() -> None:
    ours = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(cosine_loss(ours, 3 * ours)) == pytest.approx(0.0, abs=1e-6)
    assert float(cosine_loss(ours, ours.flip(1))) == pytest.approx(1.0)


def test_similarities_need_no_common_space() -> None:
    theirs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    ours = torch.cat([theirs, torch.zeros(5, 3)], dim=1)[:, [6, 0, 5, 2, 1, 4, 3]]
    assert float(similarity_loss(ours, theirs)) == pytest.approx(0.0, abs=1e-6)
    same = torch.ones(2, 3)
    assert float(similarity_loss(same, torch.eye(2))) == pytest.approx(0.5)


def test_answers_are_compared_softly() -> None:
    one = HeadSpec(name="one", labels=("x", "y"))
    logits, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(logits_loss([one], logits, logits, 2.0)) == pytest.approx(0.0, abs=1e-7)
    p = 1 / (1 + np.exp(-1.0))
    expected = 4 * (p * np.log(p / 0.5) + (1 - p) * np.log((1 - p) / 0.5))
    assert float(logits_loss([one], other, logits, 2.0)) == pytest.approx(expected)


def test_several_labels_are_compared_each_for_itself() -> None:
    several = HeadSpec(name="several", kind="multi", labels=("x", "y"))
    loss = logits_loss([several], torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]]), 1.0)
    p = 1 / (1 + np.exp(-2.0))
    assert float(loss) == pytest.approx((p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))) / 2)


def test_relations_are_those_within_a_text() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs, ours = torch.randn(5, 24, generator=generator), torch.randn(5, 48, generator=generator)
    texts = np.array([0, 0, 0, 2, 2])  # a text without words stands between
    assert float(relation_loss(theirs, theirs, texts)) == pytest.approx(0.0, abs=1e-6)
    whole = float(relation_loss(ours, theirs, texts))
    first = float(relation_loss(ours[:3], theirs[:3], texts[:3]))
    second = float(relation_loss(ours[3:], theirs[3:], texts[3:]))
    assert whole == pytest.approx((3 * first + 2 * second) / 5, rel=1e-5)
    assert whole > 0.01


# --- the teacher


def asked(wise: Bundle, folder: Path, losses: LossSettings) -> Lesson:
    ask(Teacher(wise, losses, "fp32", CPU), TEXTS, folder)
    return read_lesson(folder, len(TEXTS))


def test_a_lesson_holds_the_teachers_own_answers(wise: Bundle, tmp_path: Path) -> None:
    lesson = asked(wise, tmp_path, LossSettings(words=0.0, logits=1.0))
    scores = Scorer(wise, token_budget=64).score(wise.tokeniser.encode(TEXTS))
    unit = torch.nn.functional.normalize(lesson.embedding.float(), dim=1).numpy()
    np.testing.assert_allclose(unit, np.stack(scores["vector"].to_numpy()), atol=1e-3)
    assert lesson.logits is not None
    probs = torch.softmax(lesson.logits[:, :3] / HEADS[0].temperature, dim=1).numpy()
    expected = np.stack([scores[name].to_numpy() for name in HEADS[0].prob_columns], axis=1)
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    assert lesson.logits.shape[1] == 3 + 5 + 2
    assert lesson.words is None


def test_words_of_a_lesson_are_the_trunks(wise: Bundle, tmp_path: Path) -> None:
    lesson = asked(wise, tmp_path, WORDS)
    assert lesson.word_bounds is not None
    assert np.diff(lesson.word_bounds).tolist() == [2, 4, 1, 6, 1, 5]
    tokens = wise.tokeniser.encode(["the staff was slow"])
    trunk = load_trunk(wise.spec.architecture, wise.tensors()).eval()  # type: ignore[arg-type]
    hidden = trunk(pack(tokens.ids, tokens.lengths)).detach()
    assert lesson.words is not None
    np.testing.assert_allclose(lesson.words[2].float(), hidden[1:4].mean(dim=0), atol=5e-3)
    assert lesson.relations is not None
    assert lesson.relations.shape == (19, 3 * 32)


def test_what_was_answered_is_not_asked_again(wise: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_module, "PART_TEXTS", 4)
    whole = asked(wise, tmp_path / "whole", WORDS)
    killed = Teacher(wise, WORDS, "fp32", CPU)
    real, calls = killed.answer, []

    def answer(texts: list[str]) -> pa.Table:
        calls.append(len(texts))
        if calls == [4, 2]:
            raise KeyboardInterrupt
        return real(texts)

    monkeypatch.setattr(killed, "answer", answer)
    with pytest.raises(KeyboardInterrupt):
        ask(killed, TEXTS, tmp_path / "killed")
    ask(killed, TEXTS, tmp_path / "killed")
    assert calls == [4, 2, 2]
    again = read_lesson(tmp_path / "killed", len(TEXTS))
    assert torch.equal(again.embedding, whole.embedding)
    assert np.array_equal(again.word_bounds, whole.word_bounds)  # type: ignore[arg-type]
    assert torch.equal(again.relations, whole.relations)  # type: ignore[arg-type]


def test_a_teacher_without_answers(tmp_path: Path) -> None:
    mute = tiny_bundle(tmp_path / "mute", heads=(HeadSpec(name="v", kind="embedding", size=32, pooling="mean"),))
    with pytest.raises(DistilError, match=r"losses.logits: teacher tiny@\w+ has no head that answers for a text"):
        Teacher(mute, LossSettings(logits=1.0), "fp32", CPU)


# --- the student


def student_like(wise: Bundle, tmp_path: Path) -> Student:
    origin = find_origin(settings_of(tmp_path, wise).student, wise)
    return build_student(origin, {MAIN: (32, ())}, 0.0, TEXTS).eval()


def test_a_student_that_is_its_teacher_has_nothing_to_learn(wise: Bundle, tmp_path: Path) -> None:
    mean = tiny_bundle(tmp_path / "mean", heads=(HeadSpec(name="v", kind="embedding", size=32, pooling="mean"),))
    student = student_like(mean, tmp_path)
    wanted = LossSettings(embedding=1, similarity=1, words=1, relations=1)
    lesson = asked(mean, tmp_path / "lesson", wanted)
    rows = np.array([3, 1])
    tokens = mean.tokeniser.encode([TEXTS[row] for row in rows], with_offsets=True)
    with torch.inference_mode():
        states = student(pack(tokens.ids, tokens.lengths))
        found = losses_of(student.maps(MAIN), states, Asked(lesson, rows, words_of(tokens)), wanted, 1.0)
    assert {name: round(float(loss), 3) for name, loss in found.items()} == dict.fromkeys(
        ("embedding", "similarity", "words", "relations"), 0.0
    )


def test_words_meet_the_right_row_of_the_lesson(wise: Bundle, tmp_path: Path, word_tokeniser: Path) -> None:
    lesson = asked(wise, tmp_path, WORDS)
    tokens: Tokens = Tokeniser(word_tokeniser, 64).encode([TEXTS[5], TEXTS[0]], with_offsets=True)
    met = meet(lesson, np.array([5, 0]), words_of(tokens))
    assert met.ours.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert met.texts.tolist() == [0] * 5 + [1] * 2
    assert met.theirs.tolist() == [14, 15, 16, 17, 18, 0, 1]


# --- the command


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {}}, "give one of bundle"),
        ({"student": {"shape": NEW}}, "a shape needs a tokeniser"),
        ({"student": {"bundle": "starter", "like_teacher": True}}, "give one of bundle"),
        ({"student": {"bundle": "starter", "tokeniser": "x"}}, "leave tokeniser out"),
        ({"also": {"main": {"teacher": "x", "sets": {"a": {"input": "a.csv"}}}}}, "'main' is what the first teacher"),
        ({"losses": {"words": 0.0}}, "at least one loss must have a weight over 0"),
        ({"sets": {"a": {"input": "a.csv", "labels": {"x": "y"}}}}, r"leave them out of \['a'\]"),
        ({"tempreature": 1.0}, "did you mean temperature"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, wise: Bundle, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_of(tmp_path, wise, **changes)


def test_the_example_is_one(tmp_path: Path) -> None:
    settings = load_config(DISTIL_YAML, [f"output={tmp_path}"], DistilSettings)
    assert settings.schedule == DistilSettings.model_fields["schedule"].default
    assert settings.losses == LossSettings()


@pytest.mark.slow
def test_a_new_trunk_with_another_tokeniser_comes_near(tmp_path: Path, wise: Bundle, word_tokeniser: Path) -> None:
    settings = settings_of(
        tmp_path,
        wise,
        credit="Wise, MIT",
        student={"shape": NEW, "tokeniser": str(word_tokeniser)},
        losses={"embedding": 1.0, "words": 1.0, "logits": 1.0},
        languages=["en"],
        schedule={"epochs": 30, "token_budget": 256, "learning_rate": 0.01},
    )
    bundle = distil(settings)
    card = (bundle.folder / CARD_FILE).read_text(encoding="utf-8")
    assert f"from `{wise}` (Wise, MIT)" in card
    assert "Its weights began at random" in card
    assert not any(text in card for text in ("nice", "slow"))
    assert not (tmp_path / "out.work").exists()
    assert [head.name for head in bundle.spec.heads] == ["sentiment", "stars", "topics", EMBEDDING]
    assert bundle.spec.heads[0].temperature == HEADS[0].temperature
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| main")]
    before, after = (np.array([row[column] for row in rows], float) for column in (3, 4))
    assert [row[1] for row in rows] == ["embedding", "logits", "words"]
    assert (after < before / 2).all(), card
    with pytest.raises(DistilError, match="out is there already"):
        distil(settings)


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_weights(tmp_path: Path, wise: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {"embedding": 1.0, "words": 0.0, "relations": 1.0}
    straight = settings_of(tmp_path, wise, losses=losses, checkpoint_every_s=1e-9)
    whole = distil(straight).tensors()
    calls, forward = iter(range(10**6)), Student.forward

    def dying(self: Student, batch: Any) -> Any:
        if self.training and next(calls) == 5:
            raise KilledError
        return forward(self, batch)

    monkeypatch.setattr(Student, "forward", dying)
    killed = straight.model_copy(update={"output": str(tmp_path / "killed")})
    with pytest.raises(KilledError):
        distil(killed)
    again = distil(killed).tensors()
    assert whole.keys() == again.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(
    tmp_path: Path, wise: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, wise, schedule={"epochs": 1, "token_budget": 256, "learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"distil: the loss is (nan|inf) at step"):
        distil(settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [
        ("sets.mine.split={column: part, value: test}", "sets.mine: no row has 'test' in 'part'"),
        ("teacher=nowhere", "isn't a folder here"),
        ("device=cuda", "sees no GPU"),
    ],
)
def test_what_cannot_be_used_says_so(
    tmp_path: Path,
    wise: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, str],
) -> None:
    override, message = given
    if override == "device=cuda" and torch.cuda.is_available():
        pytest.skip("says what happens without a GPU")
    path = tmp_path / "distil.yaml"
    path.write_text(settings_of(tmp_path, wise).model_dump_json(), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["distil", str(path), override])
    assert main() == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_split_and_a_limit_choose_texts(tmp_path: Path, wise: Bundle) -> None:
    settings = settings_of(tmp_path, wise, max_texts=7, schedule={"epochs": 1})
    sets = {"mine": settings.sets["mine"].model_copy(update={"split": None})}
    bundle = distil(settings.model_copy(update={"sets": sets}))
    assert "7 different texts" in (bundle.folder / CARD_FILE).read_text(encoding="utf-8")
    assert load_bundle(tmp_path / "out").digest == bundle.digest
