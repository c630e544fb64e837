"""What is written appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.convert.errors import ConversionError


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` that is renamed to it at the end, or removed.

    Raises
    ------
    ConversionError : `target` is there already.
    """
    if target.exists():
        raise ConversionError(f"{target} is there already; name a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
