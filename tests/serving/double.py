"""A backend without a model and a cluster without jobs, for tests of the protocols: every text gets the same scores."""

import pyarrow as pa
from fastapi import FastAPI

from serving.jobs.cluster import Cluster, Progress
from serving.jobs.messages import State
from serving.service import Service
from serving.settings import ServingSettings
from serving.web.http import build_http
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

VECTOR = [0.6, 0.8]
VECTORS = pa.list_(pa.float32(), 2)


class DoubleBackend:
    """Answers at once."""

    async def score(self, deployment: str, call: ScoreCall) -> ScoreReply:
        count = len(call.texts)
        columns = {
            "lang": pa.array(["en"] * count, pa.string()),
            "num_tokens": pa.array([len(text) for text in call.texts], pa.int32()),
            "truncated": pa.array([False] * count, pa.bool_()),
            "sentiment": pa.array(["positive"] * count, pa.string()),
            "prob_positive": pa.array([1.0] * count, pa.float32()),
            "vector": pa.array([VECTOR] * count, VECTORS),
        }
        load = Load("double", 0, 1, count, 512, 1000.0)
        return ScoreReply("double@0", tuple(range(count)), pa.table(columns), Stages(0.0, 0.0, 0.0), load)

    async def explain(self, deployment: str, call: ExplainCall) -> ExplainReply:
        found = (Attribution(0, 1, call.text[:1], 0.5),)
        return ExplainReply("double@0", "occlusion", call.head or "sentiment", "prob_positive", 1.0, 1, False, found)

    async def facts(self, deployment: str) -> BundleFacts:
        labels = ("positive",)
        heads = (
            HeadFacts("sentiment", "single", labels, (("sentiment", "string"), ("prob_positive", "float"))),
            HeadFacts("vector", "embedding", (), (("vector", str(VECTORS)),)),
        )
        return BundleFacts("double@0", ("en",), 512, "fp32", "cpu", heads, "# Double\n")


class DoubleCluster:
    """Jobs end as `state` says, at once; what was submitted is kept."""

    def __init__(self, state: State = "queued") -> None:
        self.state, self.exit_code = state, None
        self.submitted: dict[str, str] = {}

    async def submit(self, job_id: str, entrypoint: str) -> None:
        self.submitted[job_id] = entrypoint

    async def progress(self, job_id: str) -> Progress:
        return Progress(self.state, self.exit_code)

    async def stop(self, job_id: str) -> None:
        self.state = "cancelled" if self.state in ("queued", "running") else self.state


def double_app(settings: ServingSettings, cluster: Cluster | None = None) -> FastAPI:
    """The HTTP application over the doubles."""
    return build_http(Service(settings, DoubleBackend()), cluster or DoubleCluster())
