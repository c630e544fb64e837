"""Who takes part: ours in every precision, and the peers, with what each is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jobs.benchmark.client import ROOT
from jobs.benchmark.contender import Entry
from models.precision import Precision

PRECISIONS: tuple[str, ...] = get_args(Precision)
BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
_PEERS = "jobs.benchmark.peers"
_HF, _ST = ("transformers", "torch"), ("sentence-transformers", "transformers", "torch")
_ORT, _OV = ("onnxruntime", "onnx"), ("openvino", "nncf")

PEERS = (
    Entry("transformers-pipeline", f"{_PEERS}.with_transformers:Pipeline", takes_texts=True, thinned=0.1, packages=_HF),
    Entry("transformers-fp32-tuned", f"{_PEERS}.with_transformers:Sorted", thinned=0.25, packages=_HF),
    Entry("transformers-bf16-tuned", f"{_PEERS}.with_transformers:Sorted", "bf16", packages=_HF),
    Entry(
        "sentence-transformers",
        f"{_PEERS}.with_sentence_transformers:Encode",
        takes_texts=True,
        thinned=0.2,
        packages=_ST,
    ),
    Entry("onnxruntime-fp32", f"{_PEERS}.with_onnxruntime:Session", thinned=0.25, packages=_ORT),
    Entry("onnxruntime-int8", f"{_PEERS}.with_onnxruntime:Session", "int8", packages=_ORT),
    Entry("openvino-fp32", f"{_PEERS}.with_openvino:Compiled", packages=_OV),
    Entry("openvino-bf16", f"{_PEERS}.with_openvino:Compiled", "bf16", packages=_OV),
    Entry("openvino-int8", f"{_PEERS}.with_openvino:Compiled", "int8", packages=_OV),
    Entry("infinity", f"{_PEERS}.with_infinity:Classify", takes_texts=True, thinned=0.1, packages=("infinity-emb",)),
)


def ours(precision: str, *, from_texts: bool = False) -> Entry:
    """Our engine in one precision, from token ids or from texts."""
    kind, suffix = ("FromTexts", "+tokenise") if from_texts else ("FromTokens", "")
    target = f"{_PEERS}.ours:{kind}"
    return Entry(f"verbatim-{precision}{suffix}", target, precision, takes_texts=from_texts, is_ours=True)


def choose_peers(names: str) -> tuple[Entry, ...]:
    """Peers by `all`, `none` or a list with commas.

    Raises
    ------
    ValueError : a name that no peer has.
    """
    if names == "none":
        return ()
    by_name = {entry.name: entry for entry in PEERS}
    wanted = list(by_name) if names == "all" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in by_name]:
        raise ValueError(f"peers {unknown} aren't known: expected all, none or some of {', '.join(by_name)}")
    return tuple(by_name[name] for name in wanted)


def choose_precisions(names: Sequence[str]) -> tuple[str, ...]:
    """Our precisions by name.

    Raises
    ------
    ValueError : one that the engine doesn't have.
    """
    if unknown := [name for name in names if name not in PRECISIONS]:
        raise ValueError(f"precisions {unknown} aren't known: expected some of {', '.join(PRECISIONS)}")
    return tuple(names)


def python_of(entry: Entry) -> Path:
    """The interpreter that a contender runs in: ours in this one, peers in their own environment.

    Raises
    ------
    ValueError : that environment isn't there.
    """
    if entry.is_ours:
        return Path(sys.executable)
    if not BENCH_PYTHON.exists():
        raise ValueError(
            f"peers run in {BENCH_PYTHON.parents[1]}, which isn't there: "
            "make it with `python -m jobs.benchmark peers`, or leave them out with --peers none"
        )
    return BENCH_PYTHON
