"""What a bundle answers, as tensors: their names, types and shapes, and their data out of a table of scores.

N texts give, for each head, under the head's own name:
`single`     BYTES [N], the label;                    and `<head>.prob` FP32 [N, C];
`ordinal`    FP32 [N], the expected value;            and `<head>.prob` FP32 [N, C];
`multi`      BYTES [N], a JSON list of labels each;   and `<head>.prob` FP32 [N, C];
`token`      BYTES [N], a JSON list of spans each: objects as `/v1/score` gives them;
`embedding`  FP32 [N, D].
Besides: `lang` BYTES [N], `num_tokens` INT32 [N], `truncated` BOOL [N]; and `clean_text` BYTES [N], in whose characters
spans count, where a head marks spans. The C labels are told, in their order, by the model's configuration under
`labels.<head>`. A head's name holds no dot, so nothing clashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic_core import to_json

from models.heads import SENTIMENT
from serving.v2.tensors import OutputTensor
from serving.wire import BundleFacts, HeadFacts

_DIMENSION = re.compile(r"\[(\d+)\]$")
_AS_JSON = ("multi", "token")
_EVERY_ANSWER = (("lang", "BYTES"), ("num_tokens", "INT32"), ("truncated", "BOOL"))


@dataclass(frozen=True)
class Output:
    """A tensor that a bundle gives: from which columns, and of which head; None: of no head."""

    name: str
    datatype: str
    columns: tuple[str, ...]
    head: str | None = None
    labels: tuple[str, ...] = ()
    size: int | None = None  # of the second dimension
    is_json: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions; -1 is the number of texts."""
        return (-1,) if self.size is None else (-1, self.size)

    def read(self, table: pa.Table) -> OutputTensor:
        """Take the tensor out of a table of scores, a row a text."""
        if self.labels:
            columns = [table[name].to_numpy() for name in self.columns]
            return OutputTensor(self.name, self.datatype, np.stack(columns, axis=1))
        column = table[self.columns[0]]
        if self.datatype == "BYTES":
            encode = to_json if self.is_json else str.encode
            return OutputTensor(self.name, self.datatype, [encode(value) for value in column.to_pylist()])
        if self.size is not None:
            vectors = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return OutputTensor(self.name, self.datatype, vectors.reshape(-1, self.size))
        return OutputTensor(self.name, self.datatype, column.to_numpy())


def outputs_of(facts: BundleFacts) -> dict[str, Output]:
    """Every tensor that a bundle gives, by name, in order."""
    listed = [output for head in facts.heads for output in _of_head(head)]
    listed += [Output(name, datatype, (name,)) for name, datatype in _EVERY_ANSWER]
    if any(head.kind == "token" for head in facts.heads):
        listed.append(Output("clean_text", "BYTES", ("clean_text",)))
    return {output.name: output for output in listed}


def _of_head(head: HeadFacts) -> Iterator[Output]:
    (answer, arrow_type), *probs = head.columns
    if head.kind == "embedding":
        yield Output(head.name, "FP32", (answer,), head.name, size=_dimension(arrow_type))
        return
    datatype = "FP32" if head.kind == "ordinal" else "BYTES"
    yield Output(head.name, datatype, (answer,), head.name, is_json=head.kind in _AS_JSON)
    if probs:
        by_label = _by_label(head, [name for name, _ in probs])
        yield Output(
            f"{head.name}.prob", "FP32", tuple(by_label.values()), head.name, tuple(by_label), size=len(by_label)
        )


def _by_label(head: HeadFacts, columns: list[str]) -> dict[str, str]:
    """Probability columns by label, in the columns' order, without those of labels that the head doesn't know."""
    prefix = "prob_" if head.name == SENTIMENT else f"prob_{head.name}_"
    labels = {prefix + label: label for label in head.labels}
    return {labels[column]: column for column in columns if column in labels}


def _dimension(arrow_type: str) -> int:
    found = _DIMENSION.search(arrow_type)
    assert found, arrow_type
    return int(found[1])
