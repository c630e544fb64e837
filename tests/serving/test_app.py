"""The application that Serve is given: a deployment for each version, from a path or from the settings themselves."""

from typing import Any

import pytest
from ray.serve._private.build_app import build_app
from ray.serve.config import AutoscalingConfig

from cluster.config import SettingsError
from serving.app import build
from tests.serving.test_settings import ONE, SHIPPED


def deployments(args: dict[str, Any]) -> dict[str, Any]:
    built = build_app(build(args), name="verbatim", default_runtime_env={})
    assert built.ingress_deployment_name == "ingress"
    return {one.name: one for one in built.deployments}


def test_the_shipped_file_as_serve_run_passes_it() -> None:
    assert set(deployments({"config": str(SHIPPED)})) == {"ingress", "starter:1"}


def test_every_version_has_its_own_size() -> None:
    bundles = [
        {**ONE, "share": 0.9, "num_replicas": 3, "num_gpus": 0.5},
        {**ONE, "version": "2", "share": 0.1, "autoscaling": {"min": 0, "max": 4, "target_backlog_s": 2.0}},
    ]
    found = deployments({"bundles": bundles})
    assert found["starter:1"].num_replicas == 3
    assert found["starter:1"].ray_actor_options["num_gpus"] == 0.5
    scaling: AutoscalingConfig = found["starter:2"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 4)
    assert scaling.policy.policy_kwargs == {"target_backlog_s": 2.0, "target_utilisation": 0.7}


def test_faults_are_told_when_it_is_built() -> None:
    with pytest.raises(SettingsError, match="args: settings can't be used"):
        build({"bundles": []})
