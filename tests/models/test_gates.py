"""The precision gate: who may run in what, and what the refusal says."""

from pathlib import Path

import pytest
import yaml

from models.bundle import Bundle, BundleError, load_bundle
from models.gates import GATES_FILE, Drop, Gate, PrecisionRefused, Record, judge, require
from tests.tiny import tiny_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def bundle(made: Bundle) -> Bundle:
    (made.folder / GATES_FILE).unlink(missing_ok=True)
    return made


def record(agreement: float = 0.999, drop: tuple[float, str] | None = (0.1, "stars.accuracy")) -> Record:
    shares = {"sentiment": 1.0, "stars": agreement}
    drops = {} if drop is None else {"stars": Drop(points=drop[0], metric=drop[1])}
    return judge(shares, drops, 4000, measured_on="2026-11-22", machine="a processor")


def write(bundle: Bundle, precision: str, what: Record) -> None:
    Gate.load(bundle).with_record(precision, what).write(bundle.folder)


@pytest.mark.parametrize(
    ("agreement", "drop", "passed"),
    [
        (0.995, (0.3, "m"), True),
        (0.9949, (0.0, "m"), False),
        (1.0, (0.31, "m"), False),
        (1.0, (-5.0, "m"), True),
        (0.995, None, True),
        (0.99, None, False),
        (float("nan"), None, False),
        (1.0, (float("nan"), "m"), False),
    ],
)
def test_rule(agreement: float, drop: tuple[float, str] | None, passed: bool) -> None:
    assert record(agreement, drop).passed is passed


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", True), ("bf16", True), ("int8", False), ("fp8", False)])
def test_unmeasured(bundle: Bundle, precision: str, allowed: bool) -> None:
    if allowed:
        require(bundle, precision)
    else:
        with pytest.raises(PrecisionRefused, match="hasn't been measured"):
            require(bundle, precision)


def test_refusal_says_how_to_measure(bundle: Bundle) -> None:
    with pytest.raises(PrecisionRefused) as refusal:
        require(bundle, "int8")
    for part in (str(bundle), f"bundle={bundle.folder}", "python -m jobs.evaluate", "'precisions=[int8]'"):
        assert part in str(refusal.value)
    assert isinstance(refusal.value, BundleError)
    assert isinstance(refusal.value, ValueError)


def test_passed_record_opens_its_precision_alone(bundle: Bundle) -> None:
    write(bundle, "int8", record())
    require(bundle, "int8")
    with pytest.raises(PrecisionRefused):
        require(bundle, "fp8")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_failed_record_closes_and_says_the_figures(bundle: Bundle, precision: str) -> None:
    write(bundle, precision, record(0.9812, (1.25, "mine.stars.accuracy")))
    with pytest.raises(PrecisionRefused, match="failed the gate") as refusal:
        require(bundle, precision)
    for figure in ("98.12 %", "head stars", "+1.25 points", "4,000 texts", "a processor", "2026-11-22"):
        assert figure in str(refusal.value)


def test_heads_that_passed_may_answer_by_themselves(bundle: Bundle) -> None:
    write(bundle, "int8", record(0.98))
    require(bundle.read_by(["sentiment"]), "int8")
    for heads in (["stars"], ["sentiment", "stars"]):
        with pytest.raises(PrecisionRefused, match=r"heads that passed: sentiment \(heads=\[…\]\)"):
            require(bundle.read_by(heads), "int8")


def test_no_head_at_all_is_not_allowed() -> None:
    assert not record().allows([])


def test_failed_fp32_record_means_nothing(bundle: Bundle) -> None:
    write(bundle, "fp32", record(0.5))
    require(bundle, "fp32")


def test_records_are_kept_side_by_side(bundle: Bundle) -> None:
    write(bundle, "int8", record())
    write(bundle, "bf16", record(drop=None))
    write(bundle, "int8", record(0.9))
    loaded = Gate.load(bundle)
    assert loaded.records == {"int8": record(0.9), "bf16": record(drop=None)}


def test_record_of_another_bundle_does_not_count(bundle: Bundle) -> None:
    write(bundle, "int8", record())
    path = bundle.folder / GATES_FILE
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "bundle": "tiny@000000000000"}))
    with pytest.raises(PrecisionRefused, match="measured for tiny@000000000000"):
        require(bundle, "int8")
    write(bundle, "bf16", record())
    assert yaml.safe_load(path.read_text())["bundle"] == str(bundle)
    assert list(Gate.load(bundle).records) == ["bf16"]


def test_bf16_stays_allowed_beside_a_failure_of_another_bundle(bundle: Bundle) -> None:
    write(bundle, "bf16", record(0.5))
    path = bundle.folder / GATES_FILE
    path.write_text(path.read_text().replace(bundle.digest, "000000000000"))
    require(bundle, "bf16")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "no mapping",
        lambda content: {**content, "more": 1},
        lambda content: {"bundle": content["bundle"], "precisions": {"int8": {"passed": True}}},
        lambda content: {
            **content,
            "precisions": {"int8": {**content["precisions"]["int8"], "agreement": {"sentiment": 0.5, "stars": 1.0}}},
        },
        lambda content: {
            **content,
            "precisions": {"int8": {**content["precisions"]["int8"], "agreement": {"sentiment": 1.0}}},
        },
    ],
)
def test_damaged_or_doctored_file_is_an_error(bundle: Bundle, damage) -> None:
    write(bundle, "int8", record())
    path = bundle.folder / GATES_FILE
    path.write_text(yaml.safe_dump(damage(yaml.safe_load(path.read_text()))))
    with pytest.raises(BundleError, match=GATES_FILE):
        require(bundle, "int8")


def test_not_part_of_the_digest(bundle: Bundle, tmp_path: Path) -> None:
    write(bundle, "int8", record())
    assert load_bundle(bundle.folder).digest == bundle.digest
    assert Gate.load(bundle).write(tmp_path).read_text() == (bundle.folder / GATES_FILE).read_text()
