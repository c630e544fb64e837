"""The Serve application: `serve run serving.app:build config=serving/serving.yaml`, or as `import_path` in Serve's own
file with `args: {config: path}` or the settings themselves under `args`.

One ingress deployment, and one deployment for each version of each bundle. A changed setting is a rolling change: new
replicas are up and warm before old ones leave (`max_surge_percent`), and old ones finish what they have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from cluster.config import load_config, parse_config
from serving.ingress import Ingress
from serving.replica import Replica
from serving.settings import AutoscalingSettings, BundleSettings, ServingSettings

APP_NAME = "verbatim"
_MANY = 100_000  # requests at a replica: admission and the batcher count tokens, so Serve needn't count requests
_LEAVING_TAKES_S = 10.0  # beyond the longest request


def build(args: dict[str, Any]) -> Application:
    """Build the application from `config`, a path, or from the settings themselves.

    Raises
    ------
    SettingsError : one line for each fault.
    """
    settings = load_config(args["config"], (), ServingSettings) if "config" in args else _inline(args)
    return build_application(settings)


def build_application(settings: ServingSettings) -> Application:
    """Bind the ingress to the deployments of all versions."""
    options = _options(settings)
    replicas = {one.deployment: _replicas(one, options) for one in settings.bundles}
    ingress = _deployment(serve.ingress()(Ingress)).options(
        name="ingress",
        num_replicas=settings.ingress.num_replicas,
        ray_actor_options={"num_cpus": settings.ingress.num_cpus, "resources": settings.ingress.resources},
        **options,
    )
    application: Application = ingress.bind(settings, replicas)
    return application


def _inline(args: dict[str, Any]) -> ServingSettings:
    return parse_config(args, ServingSettings, "args")


def _options(settings: ServingSettings) -> dict[str, Any]:
    """What all deployments have in common."""
    return {
        "max_ongoing_requests": _MANY,
        "graceful_shutdown_timeout_s": settings.admission.deadline_s + _LEAVING_TAKES_S,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
        "max_surge_percent": 100,
        "logging_config": LoggingConfig(encoding="JSON", log_level=settings.log_level, enable_access_log=False),
    }


def _replicas(bundle: BundleSettings, options: dict[str, Any]) -> Application:
    scaling = bundle.autoscaling
    count = {"num_replicas": bundle.num_replicas} if scaling is None else {"autoscaling_config": _autoscaling(scaling)}
    deployment = _deployment(Replica).options(
        name=bundle.deployment,
        ray_actor_options={"num_cpus": bundle.num_cpus, "num_gpus": bundle.num_gpus},
        **count,
        **options,
    )
    application: Application = deployment.bind(bundle)
    return application


def _deployment(cls: Callable[..., Any]) -> Deployment:
    """Ray's annotation forgets the form without arguments."""
    deployment: Any = serve.deployment(cls)
    return cast(Deployment, deployment)


def _autoscaling(scaling: AutoscalingSettings) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=scaling.min,
        max_replicas=scaling.max,
        look_back_period_s=15,
        upscale_delay_s=scaling.upscale_delay_s,
        downscale_delay_s=scaling.downscale_delay_s,
        downscale_to_zero_delay_s=scaling.to_zero_delay_s,
        policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]
            policy_function="serving.autoscale:TokenBacklogPolicy",
            policy_kwargs={
                "target_backlog_s": scaling.target_backlog_s,
                "target_utilisation": scaling.target_utilisation,
            },
        ),
    )
