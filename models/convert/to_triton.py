"""A bundle as a Triton Inference Server model repository, for those who serve with Triton: ONNX, fp32, all heads.

    <name>/config.pbtxt            dynamic batching, inputs, outputs
    <name>/labels_<head>.txt       a head's labels, one a line
    <name>/tokenizer.json          for the client: token ids go in, padded with anything, under an attention mask
    <name>/1/model.onnx

What is written is run in ONNX Runtime and held against the bundle's own outputs before it is kept. Given up: the packed
pass (rows are padded again), token budgets, and batches of unlike length: Triton joins only requests of one shape.
"""

from __future__ import annotations

import shutil
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from models.architecture import Architecture
from models.bundle import TOKENIZER_FILE, Bundle
from models.convert.errors import ConversionError
from models.convert.padded import PaddedModel, head_outputs, output_names
from models.forward import build_forward
from models.heads import HeadSpec

TOLERANCE = 1e-4
MAX_BATCH = 64
QUEUE_DELAY_US = 2000
_LENGTHS = (9, 7, 4, 1)
_PROTOBUF_LIMIT_BYTES = 2_000_000_000 - 100_000_000  # weights over this go beside the graph
_INPUTS = ("input_ids", "attention_mask")
_EXTRA = ("onnx", "onnxscript", "onnxruntime")


def export_triton(bundle: Bundle, folder: Path) -> float:
    """Write the model to `folder`; give the largest difference from the bundle's own outputs.

    Raises
    ------
    ConversionError : a family without a packed trunk, the extra `export` not installed, or outputs that differ.
    """
    arch = bundle.spec.architecture
    if not isinstance(arch, Architecture):
        raise ConversionError(f"bundle {bundle} is a {arch.model_type}, which has no trunk here to export to ONNX")
    _require_extra()
    model = PaddedModel(bundle, arch).eval()
    (folder / "1").mkdir()
    write_onnx(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(config_pbtxt(bundle), encoding="utf-8")
    for head in bundle.spec.heads:
        if head.labels:
            (folder / _labels_file(head)).write_text("".join(f"{label}\n" for label in head.labels), encoding="utf-8")
    shutil.copyfile(bundle.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    return check_onnx(bundle, folder / "1" / "model.onnx", arch)


def write_onnx(model: PaddedModel, path: Path) -> None:
    """Trace the model with both axes free."""
    ids, mask = torch.zeros(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)  # one tensor is one input
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=model.trunk.arch.max_length)}
    size_bytes = sum(parameter.nbytes for parameter in model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own workings
        torch.onnx.export(
            model,
            (ids, mask),
            path,
            input_names=list(_INPUTS),
            output_names=[name for head in model.heads for name in output_names(head)],
            dynamic_shapes=(axes, axes),
            dynamo=True,
            external_data=size_bytes > _PROTOBUF_LIMIT_BYTES,
            verbose=False,
        )


def check_onnx(bundle: Bundle, path: Path, arch: Architecture) -> float:
    """Run the file in ONNX Runtime, on rows padded to one length, against the bundle's packed pass."""
    lengths = np.array(_LENGTHS, np.int32)
    ids = np.random.default_rng(0).integers(0, arch.vocab_size, lengths.sum(), dtype=np.int32)
    is_real_bs = np.arange(lengths.max()) < lengths[:, None]
    padded_bs = np.zeros(is_real_bs.shape, np.int64)
    padded_bs[is_real_bs] = ids
    session = import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    found = iter(session.run(None, {"input_ids": padded_bs, "attention_mask": is_real_bs.astype(np.int64)}))
    difference = 0.0
    for head, raw in zip(
        bundle.spec.heads, build_forward(bundle, "fp32", torch.device("cpu"))(ids, lengths), strict=True
    ):
        for name, want in zip(output_names(head), head_outputs(head, raw), strict=True):
            got = next(found)
            apart = float(np.abs((got[is_real_bs] if head.reads_tokens else got) - want.numpy()).max())
            if not apart <= TOLERANCE:
                raise ConversionError(
                    f"ONNX output {name} differs by {apart:.2g} from the bundle's, {TOLERANCE} is allowed"
                )
            difference = max(difference, apart)
    return difference


def _require_extra() -> None:
    for name in _EXTRA:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ConversionError(f"export to Triton needs {name}: pip install 'verbatim[export]'") from error


def config_pbtxt(bundle: Bundle) -> str:
    """The model's configuration; -1 is the length in tokens, and the batch axis is Triton's own."""
    inputs = ",\n".join(f'  {{ name: "{name}" data_type: TYPE_INT64 dims: [ -1 ] }}' for name in _INPUTS)
    outputs = ",\n".join(
        f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {_dims(head)} ]{_label_field(head)} }}'
        for head in bundle.spec.heads
        for name in output_names(head)
    )
    return f"""# {bundle}: texts of at most {bundle.spec.max_length} tokens
name: "{bundle.spec.name}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH}
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}
input [
{inputs}
]
output [
{outputs}
]
"""


def _dims(head: HeadSpec) -> str:
    return f"-1, {head.num_outputs}" if head.reads_tokens else str(head.num_outputs)


def _label_field(head: HeadSpec) -> str:
    """Triton's classification extension reads labels from a file."""
    return f' label_filename: "{_labels_file(head)}"' if head.labels and not head.reads_tokens else ""


def _labels_file(head: HeadSpec) -> str:
    return f"labels_{head.name}.txt"
