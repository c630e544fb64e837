"""Which URIs a client may name: those under a prefix that the settings allow, and nothing that could lead out of it.

Refused whatever the prefix: `..`, a backslash, percent signs, `::` (fsspec's chains), control characters. Given up:
links inside a local folder that lead out of it; allow no folder that others may write to.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.errors import RequestError

_LEADS_OUT = ("\\", "%", "::", "?", "#")


def check_place(uri: str, allowed: Sequence[str], field: str) -> None:
    """Refuse a URI outside the allowed prefixes.

    Raises
    ------
    RequestError : forbidden.
    """
    leads_out = any(sign in uri for sign in _LEADS_OUT) or ".." in uri.split("/") or not uri.isprintable()
    if leads_out or not any(_is_below(uri, prefix) for prefix in allowed):
        raise RequestError("forbidden", "the place isn't under a prefix that the operator allows", field=field)


def _is_below(uri: str, prefix: str) -> bool:
    root = prefix.rstrip("/")
    return uri.rstrip("/") == root or uri.startswith(f"{root}/")
