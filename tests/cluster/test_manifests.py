"""The cluster files can be read by what reads them, say how Ray authenticates, and run a job that exists."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.config import load_config
from jobs.score.settings import ScoreSettings

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "cluster" / "launcher.yaml"
RAYJOB = ROOT / "cluster" / "kuberay" / "rayjob.yaml"
INSTALLED_AT = "/opt/verbatim/"

# Fields of ray.io/v1 that are used here; the API server refuses or drops a misspelt one.
JOB_FIELDS = {
    *("entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes"),
    *("ttlSecondsAfterFinished", "rayClusterSpec"),
}
CLUSTER_FIELDS = {
    *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"),
    *("headGroupSpec", "workerGroupSpecs"),
}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture
def job() -> dict[str, Any]:
    found: dict[str, Any] = read(RAYJOB)["spec"]
    return found


def containers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = job["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield from group["template"]["spec"]["containers"]


def test_ray_takes_the_launcher_file() -> None:
    prepared = prepare_config(read(LAUNCHER))
    validate_config(prepared)
    assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == 2


def test_every_node_of_the_launcher_starts_with_the_token() -> None:
    config = read(LAUNCHER)
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert [command for command in commands if "ray start" in command] == [
            command for command in commands if "RAY_AUTH_MODE=token ray start" in command
        ]
        assert any("ray start" in command for command in commands)
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "export RAY_AUTH_MODE=token" in LAUNCHER.read_text(encoding="utf-8"), "the client needs it too"


def test_rayjob_has_known_fields(job: dict[str, Any]) -> None:
    manifest, cluster = read(RAYJOB), job["rayClusterSpec"]
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert job.keys() == JOB_FIELDS
    assert cluster.keys() == CLUSTER_FIELDS
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == GROUP_FIELDS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert cluster["enableInTreeAutoscaling"]


def test_rayjob_says_how_ray_authenticates_in_every_container(job: dict[str, Any]) -> None:
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert [{"name": "RAY_AUTH_MODE", "value": "token"} in container["env"] for container in containers(job)] == [
        True,
        True,
        True,
    ]


def test_every_container_has_credentials_and_a_place_for_bundles(job: dict[str, Any]) -> None:
    for container in containers(job):
        assert container["envFrom"] == [{"secretRef": {"name": "verbatim-s3"}}]
        [mount] = container["volumeMounts"]
        cache = next(pair["value"] for pair in container["env"] if pair["name"] == "VERBATIM_CACHE")
        assert cache.startswith(f"{mount['mountPath']}/")
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("path", [LAUNCHER, RAYJOB], ids=["launcher", "rayjob"])
def test_the_command_named_there_exists(path: Path) -> None:
    plain = path.read_text(encoding="utf-8").replace("\\\n", "\n")
    command = re.search(r"python -m (\S+) (\S+\.yaml)((?:[\s#]+[\w.]+=\S+)+)", plain)
    assert command is not None
    module, config, overrides = command.groups()
    assert importlib.util.find_spec(f"{module}.__main__") is not None
    given = ROOT / config.removeprefix(INSTALLED_AT)
    settings = load_config(given, re.findall(r"[\w.]+=\S+", overrides), ScoreSettings)
    assert (settings.input, settings.output) == ("s3://BUCKET/feedback", "s3://BUCKET/scored")
