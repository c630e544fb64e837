"""The packed trunk gives transformers' numbers on transformers' weights, whatever the family and the batch."""

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    MegatronBertConfig,
    MegatronBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from models.architecture import Architecture, Pooling
from models.packing import PackedBatch, pack
from models.weights import load_trunk, to_transformers, trunk_tensors

pytestmark = pytest.mark.slow

SHAPES = [(32, 2, 2, 64), (48, 3, 4, 96), (64, 1, 1, 128)]
MAX_LENGTH = 40
MODELS = {
    "megatron-bert": (MegatronBertModel, MegatronBertConfig, {"max_position_embeddings": MAX_LENGTH}),
    "bert": (BertModel, BertConfig, {"max_position_embeddings": MAX_LENGTH}),
    "roberta": (
        RobertaModel,
        RobertaConfig,
        {"max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
    "xlm-roberta": (
        XLMRobertaModel,
        XLMRobertaConfig,
        {"max_position_embeddings": MAX_LENGTH + 4, "pad_token_id": 3, "type_vocab_size": 1},
    ),
}
PREFIXES = {"megatron-bert": "bert.", "bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."}
LENGTHS = [[1], [MAX_LENGTH], [7, 7, 7], [MAX_LENGTH, 39, 38, 20, 5, 2, 1, 1], [1, 30, 2, 29]]


def reference(family: str, hidden: int = 32, layers: int = 2, heads: int = 2, inner: int = 64) -> PreTrainedModel:
    torch.manual_seed(hidden)
    model_class, config_class, limits = MODELS[family]
    config = config_class(
        vocab_size=101,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        initializer_range=0.3,  # large enough that a wrong norm or order shows
        **limits,
    )
    model = model_class(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif "LayerNorm" in name or ".ln" in name:
            torch.nn.init.normal_(parameter, mean=1, std=0.1)
    return model


def architecture(config: MegatronBertConfig) -> Architecture:
    shape = {name: getattr(config, name) for name in Architecture.model_fields if name != "family"}
    return Architecture(family=config.model_type, **shape)


def their_states(model: PreTrainedModel, texts: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states of each text, and the pooler's vectors."""
    longest = max(len(text) for text in texts)
    ids = torch.full((len(texts), longest), model.config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    output = model(input_ids=ids, attention_mask=mask)
    hidden = [row[: len(text)] for row, text in zip(output.last_hidden_state, texts, strict=True)]
    return hidden, output.pooler_output


def texts_of(lengths: list[int]) -> tuple[list[torch.Tensor], PackedBatch]:
    texts = [torch.randint(5, 101, (n,)) for n in lengths]
    return texts, pack(torch.cat(texts).numpy(), np.array(lengths))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@torch.inference_mode()
def test_same_numbers_as_transformers(family: str, shape: tuple[int, int, int, int], lengths: list[int]) -> None:
    model = reference(family, *shape)
    trunk = load_trunk(architecture(model.config), model.state_dict()).eval()
    texts, batch = texts_of(lengths)
    theirs, their_pooled = their_states(model, texts)
    hidden_td = trunk(batch)
    expected: dict[Pooling, torch.Tensor] = {
        "pooler": their_pooled,
        "first": torch.stack([text[0] for text in theirs]),
        "mean": torch.stack([text.mean(0) for text in theirs]),
    }
    torch.testing.assert_close(hidden_td, torch.cat(theirs), atol=1e-5, rtol=0)
    for pooling, vectors_bd in expected.items():
        torch.testing.assert_close(trunk.pool(hidden_td, batch, pooling), vectors_bd, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", MODELS)
def test_weights_go_round(family: str) -> None:
    model = reference(family)
    state = {PREFIXES[family] + name: tensor for name, tensor in model.state_dict().items()}
    back = to_transformers(load_trunk(architecture(model.config), state))
    assert back.keys() == state.keys()
    for name, tensor in back.items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("family", MODELS)
def test_a_trunk_without_a_pooler(family: str) -> None:
    model = reference(family)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler")}
    arch = architecture(model.config)
    trunk = load_trunk(arch, state, has_pooler=False)
    assert trunk.pooler is None
    assert not [name for name in to_transformers(trunk) if "pooler" in name]
    with pytest.raises(ValueError, match=r"lack the tensor (bert|roberta)\.pooler\.dense\.weight \(32, 32\)"):
        load_trunk(arch, state)


def test_names_of_old_checkpoints_are_known() -> None:
    model = reference("bert")
    state = model.state_dict()
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in state.items()
    }
    old |= {"cls.predictions.bias": torch.zeros(3), "bert.embeddings.position_ids": torch.arange(MAX_LENGTH)}
    picked = trunk_tensors(architecture(model.config), old)
    assert picked.keys() == {f"bert.{name}" for name in state}
    assert all(torch.equal(picked[f"bert.{name}"], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.ln.weight"), r"lack the tensor bert\.encoder\.ln\.weight \(32,\)"),
        (lambda t: t.update({"pooler.dense.bias": torch.zeros(7)}), r"shape \(7,\), expected \(32,\)"),
    ],
)
def test_wrong_weights_are_named(change, message: str) -> None:
    model = reference("megatron-bert")
    tensors = dict(model.state_dict())
    change(tensors)
    with pytest.raises(ValueError, match=message):
        load_trunk(architecture(model.config), tensors)


def test_positions_must_be_left_for_a_text() -> None:
    shape = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with pytest.raises(ValueError, match=r"max_position_embeddings 8 must be over pad_token_id \+ 1 \(9\)"):
        Architecture(family="roberta", intermediate_size=8, max_position_embeddings=8, pad_token_id=8, **shape)


@pytest.mark.parametrize("lengths", [[], [3, 0, 2], [4]])
def test_lengths_that_cannot_be_packed(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="sum to 5 tokens"):
        pack(np.arange(5), np.array(lengths, dtype=np.int64))
