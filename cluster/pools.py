"""How many actors of a kind the cluster has room for now.

Ray Data grows a pool only while its queue is long and its own budget for the stage allows, which on a small machine is
never (2 cores, actors of 0.9: it stayed at one). So a pool starts at what fits and grows only if the cluster does.
"""

from __future__ import annotations

import ray


def num_cores() -> int:
    """Cores of the cluster as it is, at least 1; must be connected to a Ray."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


def cores_per_gpu() -> float:
    """Cores beside each GPU, on the node that has the most; 0 without a GPU; must be connected to a Ray."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return max((node.get("CPU", 0) / node["GPU"] for node in nodes if node.get("GPU")), default=0)


def room_for(num_cpus: float, num_gpus: float) -> int:
    """Actors of this size that fit on the cluster's nodes as they are, at least 1; must be connected to a Ray."""
    fits = [
        min(
            int(node["Resources"].get("CPU", 0) // num_cpus),
            int(node["Resources"].get("GPU", 0) // num_gpus) if num_gpus else 2**30,
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    return max(1, sum(fits))
