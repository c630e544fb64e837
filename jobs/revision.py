"""Which code is running: the git commit where there is a checkout, and a digest of the sources in any case.

A job that was submitted to a cluster or installed from a wheel has no checkout, but its sources are the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("cluster", "jobs", "models", "serving")


def code_revision() -> str:
    """For example `4b41ad1+src.0d9c6f3a2b1e`, with `-dirty` after a commit that has local changes."""
    source = f"src.{source_digest()}"
    commit = _commit()
    return f"{commit}+{source}" if commit else source


def source_digest() -> str:
    """Digest of all Python sources of the program."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str | None:
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    command = [git, "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
    return found.stdout.strip() or None
