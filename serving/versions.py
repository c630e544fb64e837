"""Which version of a bundle answers a request: by share, and the same one whenever the request's id is the same.

The id is hashed with the bundle's name, so a client that sends its own ids stays with one version on a retry, and two
bundles don't cut their traffic at the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from serving.errors import RequestError
from serving.settings import BundleSettings


def choose(
    bundles: Mapping[str, Sequence[BundleSettings]], name: str | None, version: str | None, request_id: str
) -> BundleSettings:
    """Find the version that answers.

    Raises
    ------
    RequestError : no such bundle or version, or no name where several are served.
    """
    if name is None:
        if len(bundles) > 1:
            raise RequestError("invalid_request", f"model must be one of {sorted(bundles)}", field="model")
        name = next(iter(bundles))
    versions = bundles.get(name)
    if versions is None:
        raise RequestError("not_found", f"no model of that name; served are {sorted(bundles)}", field="model")
    if version is None:
        return by_share(versions, name, request_id)
    for one in versions:
        if one.version == version:
            return one
    raise RequestError(
        "not_found", f"{name} has no such version; it has {[v.version for v in versions]}", field="version"
    )


def by_share(versions: Sequence[BundleSettings], name: str, request_id: str) -> BundleSettings:
    """Cut the line from 0 to 1 by the shares and see where the id falls. A share of 0 is never chosen."""
    digest = hashlib.blake2b(f"{name}\n{request_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64 * sum(version.share for version in versions)
    for version in versions:
        place -= version.share
        if place < 0:
            return version
    return next(version for version in reversed(versions) if version.share)
