"""OpenVINO on CPU: fp32, bf16 by its precision hint, int8 by NNCF's quantisation of weights and activations.

Token ids, length-sorted; the budget of slots and the number of streams are tuned. With several streams, batches run
side by side on a thread each, which its authors advise for throughput.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import nncf
import numpy as np
import openvino
from numpy.typing import NDArray

from jobs.benchmark.contender import Answer, Order, Setting, padded_batches, rectangle, softmax
from jobs.benchmark.peers.graph import export
from jobs.benchmark.work import Work

_BUDGETS = (256, 512, 1024, 2048, 4096)
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class Compiled:
    """One compiled model a number of streams."""

    def __init__(self, order: Order, calibration: Work) -> None:
        streams = sorted({1, order.threads})
        self.settings = tuple(Setting(budget, num) for num in streams for budget in _BUDGETS)
        model = openvino.Core().read_model(str(export(order)))
        if order.precision == "int8":
            model = _quantised(model, calibration)
        self._compiled: Callable[[int], Any] = cache(lambda num: _compile(model, order, num))
        self.note = "length-sorted" + (", NNCF weights and activations" if order.precision == "int8" else "")

    def score(self, work: Work, setting: Setting) -> Answer:
        """Score token ids."""
        found: dict[int, NDArray[np.float32]] = {}

        def keep(request: Any, index: int) -> None:
            found[index] = softmax(request.get_output_tensor(0).data)

        queue = openvino.AsyncInferQueue(self._compiled(setting.streams), setting.streams)
        queue.set_callback(keep)
        batches, slots = padded_batches(work.lengths, setting.budget), 0
        for index, rows in enumerate(batches):
            ids, mask = rectangle(work, rows)
            queue.start_async({"input_ids": ids, "attention_mask": mask}, index)
            slots += ids.size
        queue.wait_all()
        probs = np.empty((len(work), found[0].shape[1]), np.float32)
        for index, rows in enumerate(batches):
            probs[rows] = found[index]
        return Answer(probs, slots)


def _compile(model: Any, order: Order, num_streams: int) -> Any:
    properties = {
        "INFERENCE_NUM_THREADS": order.threads,
        "NUM_STREAMS": num_streams,
        "INFERENCE_PRECISION_HINT": _HINTS[order.precision],
        "ENABLE_CPU_PINNING": False,  # contenders take turns on the same cores
    }
    return openvino.Core().compile_model(model, "CPU", properties)


def _quantised(model: Any, calibration: Work) -> Any:
    def inputs(row: int) -> dict[str, NDArray[np.int64]]:
        ids, mask = rectangle(calibration, np.array([row]))
        return {"input_ids": ids, "attention_mask": mask}

    examples = nncf.Dataset(list(range(len(calibration))), inputs)
    return nncf.quantize(
        model,
        examples,
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(calibration),
    )
