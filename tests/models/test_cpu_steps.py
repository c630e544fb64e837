"""The compiled steps against PyTorch's own operators, and the fused trunk against the plain one."""

from __future__ import annotations

import logging
import platform
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models.architecture import Architecture, Family
from models.cpu import build
from models.cpu.linear import Int8Linear, WidenedBf16Linear, WidenedInt8Linear, multiplies
from models.cpu.rows import ZERO, ZERO_AFTER_GELU, Rows, Steps
from models.cpu.splitting import NUM_MORE, num_copies, split_outliers
from models.cpu.trunk import FusedTrunk, fits
from models.packing import pack
from models.precision import Precision
from models.trunk import Trunk

LENGTHS = np.array([256, 100, 50, 33, 32, 31, 17, 16, 15, 7, 6, 5, 2, 1, 1], np.int32)  # about every tile's edge
STARTS = np.append(0, np.cumsum(LENGTHS, dtype=np.int64))
TOLERANCE: dict[Precision, float] = {"fp32": 1e-6, "bf16": 8e-3, "int8": 3.5e-2}  # root mean square; states are near 1


NARROWER = ["-mno-avx512f", "-mno-avx"]  # as a processor without these would be compiled for


@pytest.fixture(scope="module", params=["", *(pytest.param(flag, marks=pytest.mark.slow) for flag in NARROWER)])
def steps(request: pytest.FixtureRequest) -> Steps:
    """For this machine, and for those whose vectors are narrower."""
    if request.param and platform.machine() != "x86_64":
        pytest.skip("only x86 has narrower vectors to choose")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "FLAGS", tuple(filter(None, (*build.FLAGS, request.param))))
        library = build.load_library.__wrapped__()
    assert library is not None, "a C compiler is needed to test the compiled steps"
    return Steps(library)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def random_trunk(family: Family, hidden: int, heads: int, inner: int) -> Trunk:
    arch = Architecture(
        family=family,
        vocab_size=300,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=260,
        pad_token_id=1,
    )
    trunk = Trunk(arch).eval()
    for index, parameter in enumerate(trunk.parameters()):
        parameter.data.copy_(0.08 * random(*parameter.shape, seed=index))
    for module in trunk.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data += 1
    return trunk


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 16), (2, 32), (3, 48), (2, 64), (1, 128)])
def test_attention_is_softmax_over_each_text_alone(
    steps: Steps, dtype: torch.dtype, first_only: bool, heads: int, head_dim: int
) -> None:
    width, total = heads * head_dim, int(STARTS[-1])
    query, key_value = random(total, width, dtype=dtype), random(total, 2 * width, seed=1, dtype=dtype)
    asking = query[STARTS[:-1]] if first_only else query
    found = steps.attention(Rows(asking.contiguous()), Rows(key_value), STARTS, heads).values.float()

    expected = []
    for begin, end in pairwise(STARTS):
        q = query[begin : begin + 1 if first_only else end].float()
        parts = [
            part.view(-1, heads, head_dim).transpose(0, 1) for part in (q, *key_value[begin:end].float().chunk(2, 1))
        ]
        expected.append(functional.scaled_dot_product_attention(*parts).transpose(0, 1).reshape(-1, width))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, torch.cat(expected), atol=tolerance, rtol=tolerance)


def test_a_quantised_row_is_within_half_a_step(steps: Steps) -> None:
    values = random(5, 48) * torch.tensor([[1e-3], [1.0], [30.0], [0.0], [1e4]])
    rows = steps.activate(Rows(values), torch.uint8, gelu=False)
    assert rows.scale is not None
    restored = (rows.values.float() - 128) * rows.scale[:, None]
    torch.testing.assert_close(rows.scale, values.abs().amax(1) / 127)
    assert ((restored - values).abs() <= rows.scale[:, None] * 0.501).all()
    assert (restored[3] == 0).all(), "a row of zeros stays one"


def test_a_quantised_row_of_gelu_wastes_little_on_what_it_never_gives(steps: Steps) -> None:
    values = random(5, 48) * torch.tensor([[1e-3], [1.0], [30.0], [0.0], [1e4]])
    expected = functional.gelu(values)
    rows = steps.activate(Rows(values), torch.uint8, gelu=True)
    assert rows.scale is not None
    restored = (rows.values.float() - ZERO_AFTER_GELU) * rows.scale[:, None]
    torch.testing.assert_close(rows.scale, (expected.amax(1) / 223).clamp_min(0.17 / 32))
    assert ((restored - expected).abs() <= rows.scale[:, None] * 0.501 + 6e-5).all()


def test_split_neurons_compute_the_same_with_finer_steps() -> None:
    up, bias, down = random(64, 32), random(64, seed=1), random(32, 64, seed=2)
    down[:, 7] *= 100
    more = split_outliers(up, bias, down)
    hidden = random(5, 32, seed=3)
    expected = functional.gelu(hidden @ up.T + bias) @ down.T
    found = functional.gelu(hidden @ more[0].T + more[1]) @ more[2].T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert more[0].shape == (64 + NUM_MORE, 32)
    assert num_copies(down)[7] > NUM_MORE * 0.9
    assert more[2].abs().amax(1).max() < down.abs().amax(1).max() / 20


def test_gelu_is_the_exact_one_everywhere(steps: Steps) -> None:
    values = torch.cat([torch.linspace(-12, 12, 9600), torch.tensor([-1e4, 1e4, 0.0, -4.25]).repeat(4)]).view(-1, 16)
    found = steps.activate(Rows(values), torch.float32, gelu=True).values
    torch.testing.assert_close(found, functional.gelu(values), atol=6e-5, rtol=1e-6)


def test_scale_and_bias_of_a_product_are_applied_by_what_reads_it(steps: Steps) -> None:
    product, scale, bias = random(7, 32, dtype=torch.bfloat16), random(7, seed=1).abs(), random(32, seed=2)
    real = product.float() * scale[:, None] + bias
    found = steps.activate(Rows(product, scale, bias), torch.float32, gelu=False).values
    torch.testing.assert_close(found, real)

    norm = nn.LayerNorm(32)
    norm.weight.data, norm.bias.data = random(32, seed=3), random(32, seed=4)
    hidden = random(7, 32, seed=5)
    total = hidden + real
    normed = steps.add_norm(hidden, Rows(product, scale, bias), norm, torch.float32).values
    torch.testing.assert_close(hidden, total)
    torch.testing.assert_close(normed, norm(total).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("family", ["megatron-bert", "bert", "roberta"])
@pytest.mark.parametrize("sizes", [(32, 2, 64), (192, 2, 768), (96, 1, 80)])
@torch.inference_mode()
def test_the_fused_trunk_is_the_trunk(
    steps: Steps, precision: Precision, family: Family, sizes: tuple[int, int, int]
) -> None:
    trunk = random_trunk(family, *sizes)
    fused = FusedTrunk(trunk, steps, precision)
    ids = np.random.default_rng(0).integers(5, 300, int(STARTS[-1])).astype(np.int32)
    expected = trunk(pack(ids, LENGTHS))
    found = fused(ids, LENGTHS, first_only=False)
    assert (found - expected).pow(2).mean().sqrt() < TOLERANCE[precision]
    if precision == "fp32":
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    first = fused(ids, LENGTHS, first_only=True)
    torch.testing.assert_close(first, found[STARTS[:-1]], atol=1e-5, rtol=1e-5)
    for index in (0, 5, len(LENGTHS) - 1):
        alone = fused(ids[STARTS[index] : STARTS[index + 1]], LENGTHS[index : index + 1], first_only=True)
        atol = 1e-5 if precision == "fp32" else 1e-2
        torch.testing.assert_close(alone[0], first[index], atol=atol, rtol=atol)


@pytest.mark.parametrize("after_gelu", [False, True])
@torch.inference_mode()
def test_a_processor_without_products_of_bytes_or_bf16_gives_the_same(steps: Steps, *, after_gelu: bool) -> None:
    values, weight, bias = random(40, 96), random(48, 96, seed=1), random(48, seed=2)
    kept = steps.activate(Rows(values), torch.bfloat16, gelu=after_gelu)
    found = WidenedBf16Linear(weight, bias)(kept).values.float()
    expected = kept.values.float() @ weight.bfloat16().float().T + bias.bfloat16().float()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=8e-3)

    zero = ZERO_AFTER_GELU if after_gelu else ZERO
    kept = steps.activate(Rows(values), torch.uint8, gelu=after_gelu)
    assert kept.scale is not None
    real = kept.scale[:, None] * (kept.values.float() - zero)
    largest = weight.abs().amax(1, keepdim=True)
    expected = real @ ((weight * 127 / largest).round() * largest / 127).T
    for layer in (WidenedInt8Linear, Int8Linear) if multiplies("int8") else (WidenedInt8Linear,):
        found = kept.scale[:, None] * layer(weight, bias, zero)(kept).values.float()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=8e-3)


def test_shapes_that_dont_fill_vectors_stay_with_pytorch() -> None:
    assert fits(random_trunk("bert", 32, 2, 64).arch)
    assert not fits(random_trunk("bert", 24, 1, 64).arch)
    assert not fits(random_trunk("bert", 32, 4, 64).arch), "a head of 8"


@pytest.mark.slow
def test_kernels_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERBATIM_CACHE", str(tmp_path))
    load = build.load_library.__wrapped__
    assert load() is not None
    (library,) = (tmp_path / "kernels").glob("*.so")
    written = library.stat().st_mtime_ns
    assert load() is not None
    assert library.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("compiler", "said"), [("no-such-compiler", "no C compiler"), ("false", "kernels don't compile")]
)
def test_without_a_compiler_there_is_a_word_in_the_log(
    compiler: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VERBATIM_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.WARNING, "verbatim.models"):
        assert build.load_library.__wrapped__() is None
    assert said in caplog.text
