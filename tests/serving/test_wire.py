"""What crosses between ingress and replica arrives as it was sent."""

import pickle

import pyarrow as pa
import pytest

from serving.errors import HTTP_STATUS, RequestError
from serving.wire import (
    Attribution,
    BundleFacts,
    ExplainCall,
    ExplainReply,
    HeadFacts,
    Load,
    ScoreCall,
    ScoreReply,
    Stages,
)

TABLE = pa.table({"lang": ["en"], "num_tokens": pa.array([3], pa.int32()), "truncated": [False], "stars": [4.5]})


@pytest.mark.parametrize(
    "sent",
    [
        ScoreCall(("good", "质量"), ("stars",), 1.5),
        ScoreReply("tiny@0", (1,), TABLE, Stages(0.1, 0.2, 0.3), Load("r", 1, 2, 3, 4, 5.0)),
        ExplainCall("good", None, "positive", 3, 1.5),
        ExplainReply("tiny@0", "occlusion", "stars", "stars", 4.5, 9, False, (Attribution(0, 4, "good", 0.5),)),
        BundleFacts("tiny@0", ("en",), 64, "fp32", "cpu", (HeadFacts("a", "single", ("b",), (("a", "string"),)),), ""),
    ],
)
def test_messages_travel(sent: object) -> None:
    assert pickle.loads(pickle.dumps(sent)) == sent  # noqa: S301 - our own bytes


def test_errors_travel_with_all_they_say() -> None:
    sent = RequestError("overloaded", "full", field="texts", retry_after_s=1.2)
    got = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own bytes
    assert isinstance(got, RequestError)
    assert (got.code, got.status, str(got), got.field, got.retry_after) == ("overloaded", 429, "full", "texts", "2")


def test_every_code_is_an_error_status() -> None:
    assert {status for status in HTTP_STATUS.values() if not 400 <= status < 600} == set()
