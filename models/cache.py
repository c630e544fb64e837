"""Where this machine keeps what it fetched or built: `$VERBATIM_CACHE`, else ~/.cache/verbatim. Never pruned."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder; it need not exist yet."""
    return Path(os.environ.get("VERBATIM_CACHE") or Path.home() / ".cache" / "verbatim")
