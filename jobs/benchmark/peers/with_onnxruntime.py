"""ONNX Runtime on CPU: fp32, and int8 by its dynamic quantisation; token ids, length-sorted, tuned budget of slots.

Its transformer optimiser knows post-LN BERT; what it could fuse of this pre-LN graph stands in the row's note.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer

from jobs.benchmark.contender import Answer, Order, Setting, padded_batches, rectangle, softmax
from jobs.benchmark.peers.graph import export
from jobs.benchmark.work import Work

_BUDGETS = (256, 512, 1024, 2048, 4096)


class Session:
    """One session with all threads."""

    settings = tuple(Setting(budget) for budget in _BUDGETS)

    def __init__(self, order: Order, calibration: Work) -> None:
        path, fused = _optimised(order)
        if order.precision == "int8":
            path = _quantised(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = order.threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.note = f"length-sorted, {fused}" + (", dynamic quantisation" if order.precision == "int8" else "")

    def score(self, work: Work, setting: Setting) -> Answer:
        """Score token ids."""
        parts, slots = [], 0
        batches = padded_batches(work.lengths, setting.budget)
        for rows in batches:
            ids, mask = rectangle(work, rows)
            (logits,) = self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask})
            parts.append(softmax(logits))
            slots += ids.size
        probs = np.empty((len(work), parts[0].shape[1]), np.float32)
        probs[np.concatenate(batches)] = np.concatenate(parts)
        return Answer(probs, slots)


def _optimised(order: Order) -> tuple[Path, str]:
    """The exported graph after the optimiser, and what it fused."""
    plain = export(order)
    target = plain.with_name("optimised.onnx")
    config = json.loads((order.model_path / "config.json").read_text(encoding="utf-8"))
    sizes = {"num_heads": config["num_attention_heads"], "hidden_size": config["hidden_size"]}
    model = optimizer.optimize_model(str(plain), model_type="bert", opt_level=1, **sizes)
    model.save_model_to_file(str(target))
    fused = {name: count for name, count in model.get_fused_operator_statistics().items() if count}
    return target, "fused " + (", ".join(f"{count} {name}" for name, count in fused.items()) or "nothing")


def _quantised(path: Path) -> Path:
    target = path.with_name("int8.onnx")
    known = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # types behind fused operators aren't inferred
    quantize_dynamic(str(path), str(target), weight_type=QuantType.QInt8, per_channel=True, extra_options=known)
    return target
