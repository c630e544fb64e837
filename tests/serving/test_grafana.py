"""The dashboard asks only for figures that are exported, by labels that they have."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.bundle import Bundle
from serving import gauges
from tests.serving.conftest import Start, entry

DASHBOARD = json.loads((Path(__file__).parents[2] / "serving" / "grafana.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES += [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
OURS = r"\b((?:ray_)?verbatim_\w+)"


@pytest.fixture
def exported(start: Start, tiny: Bundle) -> dict[str, set[str]]:
    """Names of samples, as /metrics gives them after a request and a refusal, with their labels; and Ray's."""
    client = start(entry(tiny))
    client.post("/v1/score", json={"texts": "good"})
    client.post("/v1/score", json={"texts": "good", "model": "none"})
    families: Any = text_string_to_metric_families(client.get("/metrics").text)
    found = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    replica = re.findall(r'Gauge\("(\w+)"', inspect.getsource(gauges))
    return found | {f"ray_{name}": {"name", "version", "bundle"} for name in replica}


def test_every_figure_that_is_asked_for_is_exported(exported: dict[str, set[str]]) -> None:
    asked = {name for query in QUERIES for name in re.findall(OURS, query)}
    assert asked <= exported.keys()
    shown = {name for name in exported if not name.endswith(("_count", "_sum", "_created"))}
    assert shown - asked == set(), "exported, but on no panel"


def test_every_label_that_is_asked_for_is_there(exported: dict[str, set[str]]) -> None:
    for query in QUERIES:
        names = re.findall(OURS, query)
        known = set.intersection(*(exported[name] for name in names))
        by = {label.strip() for part in re.findall(r"by \(([^)]*)\)", query) for label in part.split(",")}
        chosen = set(re.findall(r"[{,](\w+)=~", query))
        assert by | chosen <= known, query


def test_panels_show_what_an_operator_asks() -> None:
    titles = [panel["title"] for panel in PANELS]
    for wanted in ("Requests", "Refusals", "Tokens", "Queue", "Batch fill", "Unused budget", "Latency by stage"):
        assert wanted in titles
    assert "Padding" not in titles, "packed batches have none"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len(PANELS)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)
