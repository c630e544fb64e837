"""The packed trunk gives transformers' numbers on transformers' weights, whatever the batch."""

import numpy as np
import pytest
import torch
from transformers import MegatronBertConfig, MegatronBertForSequenceClassification

from models.architecture import Architecture
from models.packing import pack
from models.weights import load_trunk, to_transformers

pytestmark = pytest.mark.slow

SHAPES = [(32, 2, 2, 64), (48, 3, 4, 96), (64, 1, 1, 128)]
MAX_LENGTH = 40


def reference(hidden: int, layers: int, heads: int, inner: int) -> MegatronBertForSequenceClassification:
    torch.manual_seed(hidden)
    config = MegatronBertConfig(
        vocab_size=101,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=MAX_LENGTH,
        num_labels=3,
        initializer_range=0.3,  # large enough that a wrong norm or order shows
    )
    model = MegatronBertForSequenceClassification(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def architecture(config: MegatronBertConfig) -> Architecture:
    return Architecture(**{name: getattr(config, name) for name in Architecture.model_fields if name != "family"})


def their_pooled(model: MegatronBertForSequenceClassification, texts: list[torch.Tensor]) -> torch.Tensor:
    longest = max(len(text) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return model.bert(input_ids=ids, attention_mask=mask).pooler_output


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "lengths", [[1], [MAX_LENGTH], [7, 7, 7], [MAX_LENGTH, 39, 38, 20, 5, 2, 1, 1], [1, 30, 2, 29]]
)
@torch.inference_mode()
def test_same_numbers_as_transformers(shape: tuple[int, int, int, int], lengths: list[int]) -> None:
    model = reference(*shape)
    trunk = load_trunk(architecture(model.config), model.state_dict()).eval()
    texts = [torch.randint(1, 101, (n,)) for n in lengths]
    batch = pack(torch.cat(texts).numpy(), np.array(lengths))
    pooled = trunk.pool(trunk(batch), batch)
    torch.testing.assert_close(pooled, their_pooled(model, texts), atol=1e-5, rtol=0)


def test_weights_go_round() -> None:
    model = reference(32, 2, 2, 64)
    state = model.state_dict()
    back = to_transformers(load_trunk(architecture(model.config), state))
    assert back.keys() == {name for name in state if name.startswith("bert.")}
    for name, tensor in back.items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bert.encoder.ln.weight"), r"lack the tensor bert\.encoder\.ln\.weight \(32,\)"),
        (lambda t: t.update({"bert.pooler.dense.bias": torch.zeros(7)}), r"shape \(7,\), expected \(32,\)"),
    ],
)
def test_wrong_weights_are_named(change, message: str) -> None:
    model = reference(32, 2, 2, 64)
    tensors = dict(model.state_dict())
    change(tensors)
    with pytest.raises(ValueError, match=message):
        load_trunk(architecture(model.config), tensors)


@pytest.mark.parametrize("lengths", [[], [3, 0, 2], [4]])
def test_lengths_that_cannot_be_packed(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="sum to 5 tokens"):
        pack(np.arange(5), np.array(lengths, dtype=np.int64))
