"""The RayService manifest: fields that KubeRay knows, settings that the service takes, and gRPC behind TLS only."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.config import parse_config
from serving.__main__ import LEANER
from serving.settings import ServingSettings
from serving.v2.protos import SERVICE

PATH = Path(__file__).parents[2] / "serving" / "kuberay" / "rayservice.yaml"

# Fields of ray.io/v1 that are used here; the API server refuses or drops a misspelt one.
CLUSTER_FIELDS = {
    *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"),
    *("headGroupSpec", "workerGroupSpecs"),
}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def documents() -> dict[str, Manifest]:
    return {one["kind"]: one for one in yaml.safe_load_all(PATH.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def cluster(documents: dict[str, Manifest]) -> Manifest:
    found: Manifest = documents["RayService"]["spec"]["rayClusterConfig"]
    return found


@pytest.fixture(scope="module")
def deployed(documents: dict[str, Manifest]) -> ServeDeploySchema:
    return ServeDeploySchema(**yaml.safe_load(documents["RayService"]["spec"]["serveConfigV2"]))


@pytest.fixture(scope="module")
def settings(deployed: ServeDeploySchema) -> ServingSettings:
    return parse_config(deployed.applications[0].args, ServingSettings, "the manifest")


def test_known_fields(documents: dict[str, Manifest], cluster: Manifest) -> None:
    assert documents.keys() == {"RayService", "ConfigMap", "Service", "NetworkPolicy"}
    assert documents["RayService"]["apiVersion"] == "ray.io/v1"
    assert documents["RayService"]["spec"].keys() == {"serveConfigV2", "rayClusterConfig"}
    assert cluster.keys() == CLUSTER_FIELDS
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == GROUP_FIELDS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_serve_and_the_service_take_what_stands_there(deployed: ServeDeploySchema, settings: ServingSettings) -> None:
    (application,) = deployed.applications
    assert (application.import_path, application.runtime_env) == ("serving.app:build", {})
    assert [bundle.name for bundle in settings.bundles] == ["starter"]


def containers_of_ray(cluster: Manifest) -> list[Manifest]:
    return [
        container
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        for container in group["template"]["spec"]["containers"]
        if container["name"].startswith("ray-")
    ]


def test_serve_s_switches_are_those_of_a_local_service(cluster: Manifest) -> None:
    """A process with other switches than its neighbour can't be reached by it."""
    for container in containers_of_ray(cluster):
        env = {one["name"]: one["value"] for one in container["env"]}
        assert {name: value for name, value in env.items() if name.startswith("RAY_SERVE_")} == LEANER


def test_ray_authenticates_in_every_container_of_ray(cluster: Manifest) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    containers = containers_of_ray(cluster)
    assert len(containers) == 2
    for container in containers:
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_grpc_is_on_loopback_beside_a_front_with_tls(
    documents: dict[str, Manifest], cluster: Manifest, settings: ServingSettings, deployed: ServeDeploySchema
) -> None:
    assert settings.grpc is not None
    assert (settings.grpc.host, settings.grpc.tls_front) == ("127.0.0.1", False)
    front = documents["ConfigMap"]["data"]["front.conf"]
    assert re.findall(r"listen (.*);", front) == ["8443 ssl"]
    assert re.findall(r"grpc_pass (.*);", front) == [f"grpc://{settings.grpc.address}"]
    assert settings.ingress.listen is not None
    assert settings.ingress.listen.host == "127.0.0.1"
    ports = {settings.ingress.listen.port, settings.grpc.port, deployed.http_options.port}
    assert len(ports) == 3, "Serve's proxy, gRPC and the ingress stand in one pod"
    assert re.findall(r"proxy_pass (.*);", front) == [f"http://127.0.0.1:{settings.ingress.listen.port}"]
    assert f"/{SERVICE}/".startswith(re.findall(r"location (\S+) \{\s+grpc_pass", front)[0])
    pinned = settings.ingress.resources
    assert pinned == {"front": 1}
    assert cluster["headGroupSpec"]["rayStartParams"]["resources"] == '"{\\"front\\": 1}"'
    names = [one["name"] for one in cluster["headGroupSpec"]["template"]["spec"]["containers"]]
    assert names == ["ray-head", "front"]


def test_clients_reach_the_front_alone_and_need_a_key(
    documents: dict[str, Manifest], cluster: Manifest, settings: ServingSettings
) -> None:
    labels = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"] == labels
    assert [port["targetPort"] for port in documents["Service"]["spec"]["ports"]] == [8443]
    open_to_all = [rule["ports"] for rule in documents["NetworkPolicy"]["spec"]["ingress"] if "from" not in rule]
    assert open_to_all == [[{"port": 8443}]]
    spec = cluster["headGroupSpec"]["template"]["spec"]
    mounted = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert settings.auth.keys_file == "/etc/verbatim/keys.yaml"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes[mounted["/etc/verbatim"]]["secret"] == {"secretName": "verbatim-keys"}
