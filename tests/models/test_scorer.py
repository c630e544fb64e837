"""How the scorer runs its batches: several at once, halved when memory runs out, on the budget that a probe finds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.bundle import Bundle
from models.forward import Forward, build_forward
from models.fp8 import use_fp8
from models.gates import PrecisionRefused
from models.packing import pack
from models.precision import choose_precision
from models.probe import find_token_budget
from models.scorer import Scorer
from models.tokeniser import Tokens
from models.weights import load_trunk
from tests.tiny import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def random_tokens(lengths: Sequence[int]) -> Tokens:
    sizes = np.array(lengths, np.int32)
    ids = np.random.default_rng(0).integers(5, 90, sizes.sum()).astype(np.int32)
    return Tokens(ids, sizes, np.zeros(len(sizes), np.bool_))


class SmallMemory:
    """A device on which a pass of more than `most` tokens fails, as a GPU's does; notes every pass."""

    def __init__(self, forward: Forward, most: int) -> None:
        self._forward, self._most, self.first_only = forward, most, forward.first_only
        self.asked: list[int] = []

    def __call__(self, ids: np.ndarray, lengths: np.ndarray) -> list[torch.Tensor]:
        self.asked.append(len(ids))
        if len(ids) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._forward(ids, lengths)


def small_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, most: int) -> SmallMemory:
    device = SmallMemory(build_forward(bundle, "fp32", torch.device("cpu")), most)
    monkeypatch.setattr("models.scorer.build_forward", lambda *_: device)
    return device


def test_a_batch_over_the_memory_is_halved_and_nothing_is_lost(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = random_tokens([8] * 10 + [3] * 7)
    expected = Scorer(bundle, token_budget=1000).score(tokens)
    device = small_memory(bundle, monkeypatch, most=50)
    scorer = Scorer(bundle, token_budget=1000)
    answers = scorer.score(tokens)
    assert device.asked[0] == 101
    assert max(size for size in device.asked[3:]) <= 50
    assert scorer.num_halved == sum(size > 50 for size in device.asked)
    for name in expected.column_names[1:]:
        np.testing.assert_allclose(answers[name], expected[name], atol=1e-5)


def test_a_single_text_over_the_memory_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(bundle, monkeypatch, most=20)
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(bundle, token_budget=1000).score(random_tokens([21, 3, 3]))


def test_another_error_isnt_taken_for_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(SmallMemory):
        def __call__(self, ids: np.ndarray, lengths: np.ndarray) -> list[torch.Tensor]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    broken = Broken(build_forward(bundle, "fp32", torch.device("cpu")), 1)
    monkeypatch.setattr("models.scorer.build_forward", lambda *_: broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Scorer(bundle, token_budget=1000).score(random_tokens([5, 5]))


def test_more_threads_give_the_same_bytes(bundle: Bundle) -> None:
    tokens = random_tokens(list(range(1, 64)) * 20)
    one, three = (Scorer(bundle, token_budget=256, threads=threads).score(tokens) for threads in (1, 3))
    assert one.equals(three)


def test_the_probe_takes_a_budget_that_fits(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(bundle, monkeypatch, most=3000)
    scorer = Scorer(bundle, token_budget=1)
    found = find_token_budget(scorer)
    assert scorer.token_budget == found
    assert found in (512, 1024, 2048), "4,096 tokens don't fit"


def test_a_precision_without_a_record_is_refused(bundle: Bundle) -> None:
    with pytest.raises(PrecisionRefused, match="hasn't been measured in int8"):
        Scorer(bundle, token_budget=100, precision="int8")
    assert Scorer(bundle, token_budget=100, precision="int8", is_gated=False).score(random_tokens([4])).num_rows == 1


def test_without_compiled_steps_the_answers_are_the_same_and_int8_isnt_to_be_had(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens([40, 7, 7, 1])
    expected = Scorer(bundle, token_budget=30).score(tokens)
    monkeypatch.setattr("models.forward.load_steps", lambda: None)
    plain = Scorer(bundle, token_budget=30).score(tokens)
    for name in expected.column_names[1:]:
        np.testing.assert_allclose(plain[name], expected[name], atol=1e-5)
    with pytest.raises(ValueError, match="int8 can't be had of bundle tiny"):
        Scorer(bundle, token_budget=30, precision="int8", is_gated=False)


@torch.inference_mode()
def test_ragged_attention_gets_each_text_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's kernel isn't here: a double with its signature shows that the trunk asks for the right thing."""

    def varlen_attn(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *bounds_and_longest: torch.Tensor | int,
        window_size: tuple[int, int],
    ) -> torch.Tensor:
        bounds, key_bounds, longest, key_longest = bounds_and_longest
        assert window_size == (-1, -1), "every token sees all of its text"
        assert isinstance(bounds, torch.Tensor)
        assert bounds is key_bounds
        assert bounds.dtype == torch.int32
        assert longest == key_longest == 30
        parts = []
        for begin, end in pairwise(bounds.tolist()):
            q, k, v = (part[begin:end].transpose(0, 1) for part in (query, key, value))  # (H, S, D/H)
            parts.append(functional.scaled_dot_product_attention(q, k, v).transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    tokens = random_tokens([30, 29, 3, 1])
    arch = bundle.spec.architecture
    assert arch.family != "transformers"
    trunk = load_trunk(arch, bundle.tensors()).eval()
    ragged = pack(tokens.ids, tokens.lengths, grouped=False)
    assert not ragged.groups
    torch.testing.assert_close(trunk(ragged), trunk(pack(tokens.ids, tokens.lengths)), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_fp8_products_are_near_bf16s_and_a_row_stands_alone(bundle: Bundle) -> None:
    arch = bundle.spec.architecture
    assert arch.family != "transformers"
    exact = load_trunk(arch, bundle.tensors()).eval()
    coarse = use_fp8(load_trunk(arch, bundle.tensors()).eval().bfloat16())
    tokens = random_tokens([30, 29, 3, 1])
    whole = coarse(pack(tokens.ids, tokens.lengths)).float()
    expected = exact(pack(tokens.ids, tokens.lengths))
    cosines = functional.cosine_similarity(whole, expected)
    assert cosines.min() > 0.95, "random weights are harsher than trained ones"
    assert not torch.equal(whole, exact.bfloat16()(pack(tokens.ids, tokens.lengths)).float())
    alone = coarse(pack(tokens.ids[-1:], tokens.lengths[-1:])).float()
    torch.testing.assert_close(alone[0], whole[-1], atol=2e-2, rtol=2e-2)
    with pytest.raises(ValueError, match="fp8 can't be had of bundle tiny"):
        Scorer(bundle, token_budget=100, precision="fp8", is_gated=False)


def test_auto_is_one_of_the_two_that_need_no_record() -> None:
    assert choose_precision("auto", on_gpu=True) == "bf16"
    assert choose_precision("auto", on_gpu=False) in ("fp32", "bf16")
    assert choose_precision("int8", on_gpu=False) == "int8"


def test_the_last_layers_savings_are_counted(bundle: Bundle) -> None:
    """2 layers, D 32, feed-forward 64; by hand for texts of 4 and 2 tokens."""
    tokens = random_tokens([4, 2])
    layer = 2 * (4 * 32 * 32 + 2 * 32 * 64) * 6 + 4 * 32 * (16 + 4)
    last = 2 * (2 * 32 * 32) * 6 + 2 * (2 * 32 * 32 + 2 * 32 * 64) * 2 + 4 * 32 * 6
    assert Scorer(bundle, token_budget=100).flops(tokens) == layer + last
