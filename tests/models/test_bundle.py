"""Bundles: named by their bytes, refused when they aren't what they say, fetched once a machine."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MegatronBertConfig,
    MegatronBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from models.bundle import TOKENIZER_FILE, WEIGHTS_FILE, BundleError, load_bundle
from models.fetch import cache_folder, fetch, shipped_names
from models.heads import HeadSpec
from models.scorer import Scorer
from tests.tiny import HEADS, tiny_bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXTS = ["质量很好", "a", "slow delivery, bad", "好" * 30, "x y z"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny").folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERBATIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_digest_follows_the_bytes_that_make_scores(tmp_path: Path, tiny: Path) -> None:
    bundle = load_bundle(tiny)
    assert load_bundle(tiny).digest == bundle.digest == tiny_bundle(tmp_path / "again").digest
    assert tiny_bundle(tmp_path / "other", seed=1).digest != bundle.digest
    (tiny / "README.md").write_text("a better word in the card", encoding="utf-8")
    assert load_bundle(tiny).digest == bundle.digest


def test_a_bundle_can_be_pickled(tiny: Path) -> None:
    bundle = load_bundle(tiny)
    assert bundle.tokeniser.encode(["x"]).num_tokens == 3
    assert pickle.loads(pickle.dumps(bundle)) == bundle  # noqa: S301 - our own bytes


def edit(folder: Path, **fields: object) -> None:
    path = folder / "bundle.yaml"
    spec = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**spec, **fields}), encoding="utf-8")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "bundle.yaml").unlink(), r"no bundle: bundle\.yaml can't be read \(No such file"),
        (lambda f: (f / "bundle.yaml").write_text("["), r"isn't a bundle description"),
        (lambda f: edit(f, max_length=9999), r"max_length 9999 is over the 64 positions there are"),
        (lambda f: edit(f, colour="red"), r"colour"),
        (lambda f: edit(f, files={}), r"files must give the sha256 of \['model.safetensors', 'tokenizer.json'\]"),
        (lambda f: (f / WEIGHTS_FILE).unlink(), r"lacks the file model\.safetensors"),
        (lambda f: (f / WEIGHTS_FILE).write_bytes(b"x"), r"isn't the file the bundle was made with: sha256"),
        (lambda f: (f / TOKENIZER_FILE).write_text("{}"), r"tokenizer\.json isn't the file"),
    ],
)
def test_a_damaged_bundle_is_refused(tiny: Path, break_it, message: str) -> None:
    break_it(tiny)
    with pytest.raises(BundleError, match=message):
        load_bundle(tiny)


def test_files_outside_the_bundle_are_refused(tiny: Path) -> None:
    edit(tiny, files={"../x": "0", WEIGHTS_FILE: "0", TOKENIZER_FILE: "0"})
    with pytest.raises(BundleError, match=r"must stand in the bundle itself, got '\.\./x'"):
        load_bundle(tiny)


def test_a_digest_is_held_to(tiny: Path) -> None:
    digest = load_bundle(tiny).digest
    assert fetch(f"{tiny}@{digest}").digest == digest
    with pytest.raises(BundleError, match=f"has digest {digest}, but 000000000000 was asked for"):
        fetch(f"{tiny}@000000000000")


@pytest.mark.parametrize("reference", ["nosuch", "/no/such/folder"])
def test_an_unknown_reference_says_what_there_is(reference: str) -> None:
    with pytest.raises(BundleError, match=f"bundle '{reference}' isn't a folder here.*shipped bundles: "):
        fetch(reference)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BundleError, match="'org/model' isn't a folder here and can't be had from the hub"):
        fetch("org/model")


def test_shipped_bundles_are_whole() -> None:
    for name in shipped_names():
        assert fetch(name).spec.name == name


def upload(folder: Path, bucket: str, endpoint: str) -> str:
    client = boto3.client("s3", endpoint_url=endpoint)
    for path in folder.iterdir():
        client.upload_file(str(path), bucket.removeprefix("s3://"), f"bundles/mine/{path.name}")
    client.close()
    return f"{bucket}/bundles/mine"


def test_from_s3_to_a_cache(tiny: Path, s3_bucket: str, s3_endpoint: str) -> None:
    uri = upload(tiny, s3_bucket, s3_endpoint)
    bundle = fetch(uri)
    assert bundle == load_bundle(bundle.folder)
    assert bundle.folder.parent == cache_folder()
    assert bundle.digest == load_bundle(tiny).digest
    (bundle.folder / "mark").write_text("only a second download would remove me", encoding="utf-8")
    assert (fetch(uri).folder / "mark").exists()


def test_a_replaced_remote_bundle_is_fetched_anew(tiny: Path, tmp_path: Path, s3_bucket: str, s3_endpoint: str) -> None:
    first = fetch(upload(tiny, s3_bucket, s3_endpoint))
    other = tiny_bundle(tmp_path / "other", seed=1)
    assert fetch(upload(other.folder, s3_bucket, s3_endpoint)).digest == other.digest != first.digest


def test_a_missing_remote_bundle(s3_bucket: str) -> None:
    with pytest.raises(BundleError, match=f"bundle {s3_bucket}/nowhere can't be read: FileNotFoundError"):
        fetch(f"{s3_bucket}/nowhere")


def test_a_killed_download_leaves_nothing_that_looks_whole(tiny: Path, s3_bucket: str, s3_endpoint: str) -> None:
    uri = upload(tiny, s3_bucket, s3_endpoint)
    whole = fetch(uri).folder
    halfway = whole.with_name(f"{whole.name}.part-killed")
    whole.rename(halfway)
    (halfway / WEIGHTS_FILE).write_bytes(b"half")
    assert fetch(uri).folder == whole
    assert not halfway.exists()


def test_processes_that_start_together_share_one_download(tiny: Path, s3_bucket: str, s3_endpoint: str) -> None:
    uri = upload(tiny, s3_bucket, s3_endpoint)
    command = [sys.executable, "-c", f"from models.fetch import fetch; print(fetch({uri!r}).digest)"]
    together = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate(timeout=120)[0].strip() for process in together} == {load_bundle(tiny).digest}
    assert len([path for path in cache_folder().iterdir() if path.is_dir()]) == 1


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}
FAMILIES = [
    (MegatronBertForSequenceClassification, MegatronBertConfig, {"max_position_embeddings": 64}),
    (BertForSequenceClassification, BertConfig, {"max_position_embeddings": 64}),
    (RobertaForSequenceClassification, RobertaConfig, {"max_position_embeddings": 66, "pad_token_id": 1}),
]


def checkpoint(folder: Path, tiny: Path, family: int, labels: list[str]) -> torch.nn.Module:
    model_class, config_class, limits = FAMILIES[family]
    tokenizer = Tokenizer.from_file(str(tiny / TOKENIZER_FILE))
    names = dict(enumerate(labels))
    torch.manual_seed(family)
    config = config_class(vocab_size=tokenizer.get_vocab_size(), id2label=names, **SMALL, **limits)
    model = model_class(config).eval()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64).save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_a_hugging_face_classifier_scores_as_transformers_does(tiny: Path, tmp_path: Path, family: int) -> None:
    model = checkpoint(tmp_path / "my model", tiny, family, ["NEGATIVE", "NEUTRAL", "POSITIVE"])
    bundle = fetch(str(tmp_path / "my model"))
    assert bundle.spec.name == "my-model"
    tokens = bundle.tokeniser.encode(TEXTS)
    scores = Scorer(bundle, token_budget=20).score(tokens)
    ends = tokens.lengths.cumsum()
    for row, (end, length) in enumerate(zip(ends, tokens.lengths, strict=True)):
        ids = torch.from_numpy(tokens.ids[end - length : end].astype("int64"))[None]
        with torch.inference_mode():
            expected = model(input_ids=ids).logits.softmax(-1)[0]
        got = [scores[f"prob_{label}"][row].as_py() for label in ("negative", "neutral", "positive")]
        assert got == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (["NEG", "POS"], ["sentiment", "prob_negative", "prob_neutral", "prob_positive"]),
        (["1 star", "2 stars", "3 stars"], ["stars", "prob_stars_1", "prob_stars_2", "prob_stars_3"]),
        (["joy", "anger"], ["label", "prob_label_joy", "prob_label_anger"]),
    ],
)
def test_labels_are_read_from_the_checkpoint(tiny: Path, tmp_path: Path, labels: list[str], columns: list[str]) -> None:
    checkpoint(tmp_path / "hf", tiny, 1, labels)
    bundle = fetch(str(tmp_path / "hf"))
    scores = Scorer(bundle, token_budget=100).score(bundle.tokeniser.encode(TEXTS))
    assert scores.column_names == columns
    if labels == ["NEG", "POS"]:
        assert scores["prob_neutral"].null_count == len(TEXTS), "what it doesn't know is null, not 0"


def change(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}), encoding="utf-8")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: change(f, auto_map={"AutoModel": "evil.Model"}), "brings its own code"),
        (lambda f: change(f, architectures=["BertForQuestionAnswering"]), "is a BertForQuestionAnswering; a"),
        (lambda f: change(f, problem_type="regression"), "problem_type regression isn't known"),
        (
            lambda f: (f / WEIGHTS_FILE).rename(f / "pytorch_model.bin"),
            "pickled weights are read by `python -m models.convert import`",
        ),
        (lambda f: (f / WEIGHTS_FILE).write_bytes(b"x"), "isn't a readable safetensors file"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json can't be read"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_says_why(tiny: Path, tmp_path: Path, break_it, message: str) -> None:
    checkpoint(tmp_path / "hf", tiny, 1, ["NEG", "POS"])
    break_it(tmp_path / "hf")
    with pytest.raises(BundleError, match=message):
        fetch(str(tmp_path / "hf"))
    assert not [path for path in cache_folder().iterdir() if path.is_dir()], "nothing half made stays in the cache"


def test_a_hub_id_is_found_in_the_local_hub_cache(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0" * 40
    repo = tmp_path / "hub" / "models--org--stars"
    checkpoint(repo / "snapshots" / commit, tiny, 1, ["1 star", "2 stars"])
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    bundle = fetch("org/stars")
    assert (bundle.spec.name, bundle.spec.heads[0].name) == ("stars", "stars")
    shutil.rmtree(repo)


def test_embeddings_answer_where_they_are_asked_for_or_alone(tmp_path: Path) -> None:
    embedding = HeadSpec(name="embedding", kind="embedding", size=32, pooling="mean")
    bundle = tiny_bundle(tmp_path / "many", heads=(*HEADS, embedding))
    assert [head.name for head in bundle.read_by(None).spec.heads] == ["sentiment", "stars"]
    assert [head.name for head in bundle.read_by(["embedding", "stars"]).spec.heads] == ["stars", "embedding"]
    assert bundle.read_by(None).digest == bundle.digest
    alone = tiny_bundle(tmp_path / "alone", heads=(embedding,))
    assert alone.read_by(None).spec.heads == (embedding,)
