"""API keys: who asks, for which models, at what rate. Only digests of keys are kept.

A key is 256 random bits, so one SHA-256 of it can't be turned back; a slow hash is for passwords, which people choose.
The file is looked at again at most once a second and read anew when it has changed, so keys come and go without a
restart; a file that can't be used leaves the last good keys in force and says so in the log. Every key of the file is
compared, in constant time, whichever fits.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cluster.config import Settings, SettingsError, load_config
from serving.admission import Clock, TokenRate
from serving.errors import RequestError

_LOOK_EVERY_S = 1.0
_SCHEME = "bearer"
_PREFIX = "vb_"

logger = logging.getLogger("ray.serve")


class Key(Settings):
    """What the file says of one key."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    models: Annotated[tuple[str, ...] | None, Field(strict=False)] = None  # None: all
    tokens_per_minute: int | None = Field(default=None, ge=1)

    def may_use(self, model: str) -> None:
        """Refuse a model outside the key's scope."""
        if self.models is not None and model not in self.models:
            raise RequestError("forbidden", f"this key is for the models {list(self.models)}", field="model")


class KeyFile(Settings):
    """The keys file. Two keys may share a name, so that an old one stays valid while clients move to the new."""

    keys: Annotated[tuple[Key, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _digests_differ(self) -> KeyFile:
        if len({key.sha256 for key in self.keys}) != len(self.keys):
            raise ValueError("keys: the same sha256 stands there twice")
        return self


class Keyring:
    """The keys of a file, as it is now. Each of `share` processes grants its even part of a key's rate.

    Raises
    ------
    SettingsError : the file can't be used when the service starts.
    """

    def __init__(self, path: str | Path, clock: Clock = time.monotonic, *, share: int = 1) -> None:
        self._path, self._clock, self._share = Path(path), clock, share
        self._rates: dict[str, TokenRate] = {}
        self._keys: tuple[Key, ...] = ()
        self._stamp = self._file_stamp()
        self._looked_at = clock()
        self._read()

    def check(self, authorization: str | None) -> Key:
        """Find the key of an Authorization header.

        Raises
        ------
        RequestError : unauthenticated.
        """
        self._look_again()
        scheme, _, presented = (authorization or "").partition(" ")
        digest = digest_of(presented.strip()) if scheme.lower() == _SCHEME else ""
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise RequestError("unauthenticated", "a valid key is needed: Authorization: Bearer <key>")
        return found[0]

    def rate(self, key: Key) -> TokenRate | None:
        """The key's allowance; None if it has no limit."""
        if key.tokens_per_minute is None:
            return None
        part = max(1, key.tokens_per_minute // self._share)
        rate = self._rates.get(key.name)
        if rate is None or rate.tokens_per_minute != part:
            rate = self._rates[key.name] = TokenRate(part, self._clock)
        return rate

    def _look_again(self) -> None:
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._read()
        except SettingsError as error:
            logger.error("keys file can't be used, the last good keys stay in force", extra={"fault": _plain(error)})

    def _read(self) -> None:
        self._keys = load_config(self._path, (), KeyFile).keys

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hex; what the file holds."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """Make a key of 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def _plain(error: SettingsError) -> str:
    """The kind of fault without values of the file."""
    return f"{type(error).__name__} at {type(error.__cause__).__name__}"
