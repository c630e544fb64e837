"""A bundle: a folder that is all a model needs, named by what is in it.

    bundle.yaml         architecture, heads, limits, languages, and the SHA-256 of every other file that makes scores
    model.safetensors   the trunk under transformers' names, heads as `heads.<name>.weight` and `.bias`
    tokenizer.json      the Rust tokeniser
    README.md           the model card (not part of the digest: a better word in it isn't another model)

A bundle of adapters names its `base` instead of holding a trunk; they are merged when the weights are loaded.
The digest is that of `bundle.yaml`, which names the rest, so `name@digest` names every byte that can change a score.
Weights are safetensors only: nothing in a bundle can run code. Given up: weights can't be memory-mapped across
processes once they are cast to the device's precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError

from models.architecture import Architecture, ForeignArchitecture
from models.heads import HeadSpec
from models.tokeniser import Tokeniser

if TYPE_CHECKING:  # a worker that only tokenises doesn't pay for torch: two seconds and 200 MB
    import torch

SPEC_FILE = "bundle.yaml"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
CARD_FILE = "README.md"
DIGEST_CHARS = 12


class BundleError(ValueError):
    """A bundle that can't be used; the message names the folder, the file and what would be right."""


class BundleSpec(BaseModel):
    """The contents of `bundle.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    languages: tuple[str, ...] = Field(min_length=1)
    max_length: int = Field(ge=8)
    architecture: Architecture | ForeignArchitecture = Field(discriminator="family")
    heads: tuple[HeadSpec, ...] = Field(min_length=1)
    base: str | None = Field(default=None, pattern=rf"@[0-9a-f]{{{DIGEST_CHARS}}}$")  # where it is, and its digest
    files: dict[str, str]

    @model_validator(mode="after")
    def _fits_together(self) -> BundleSpec:
        if self.max_length > self.architecture.max_length:
            raise ValueError(
                f"max_length {self.max_length} is over the {self.architecture.max_length} positions there are"
            )
        names = [head.name for head in self.heads]
        if len(set(names)) != len(names):
            raise ValueError(f"heads must have different names, got {names}")
        return self


@dataclass(frozen=True)
class Bundle:
    """A checked bundle in a local folder. Picklable: it holds the spec, not the weights."""

    folder: Path
    spec: BundleSpec
    digest: str
    base: Bundle | None = None

    def __str__(self) -> str:
        return f"{self.spec.name}@{self.digest}"

    @cached_property
    def tokeniser(self) -> Tokeniser:
        """The bundle's tokeniser with the bundle's length limit."""
        return Tokeniser(self.folder / TOKENIZER_FILE, self.spec.max_length)

    @property
    def packed_architecture(self) -> Architecture:
        """The architecture, which training needs.

        Raises
        ------
        BundleError : the family has no packed trunk.
        """
        arch = self.spec.architecture
        if not isinstance(arch, Architecture):
            raise BundleError(f"bundle {self} is of the family {arch.model_type}, which has no packed trunk to train")
        return arch

    def read_by(self, names: Sequence[str] | None) -> Bundle:
        """The same bundle, answering with some of its heads; None: all but embeddings, if there are others.

        Raises
        ------
        BundleError : a head that it hasn't; the message names those that it has.
        """
        own = [head.name for head in self.spec.heads]
        if unknown := [name for name in names or () if name not in own]:
            raise BundleError(f"heads {unknown} aren't among those of bundle {self}: {own}")
        answering = [head.name for head in self.spec.heads if head.kind != "embedding"] or own
        wanted = answering if names is None else names
        heads = tuple(head for head in self.spec.heads if head.name in wanted)
        return replace(self, spec=self.spec.model_copy(update={"heads": heads}))

    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights, as stored; of adapters, merged with the base's."""
        from safetensors.torch import load_file  # noqa: PLC0415 - see above

        try:
            own = load_file(self.folder / WEIGHTS_FILE)
        except SafetensorError as error:
            raise BundleError(f"{self.folder / WEIGHTS_FILE} isn't a readable safetensors file: {error}") from error
        if self.base is None:
            return own
        from models.adapters import merge  # noqa: PLC0415 - see above

        assert isinstance(self.spec.architecture, Architecture), "load_bundle has looked"
        try:
            return merge(self.spec.architecture, self.base.tensors(), own)
        except ValueError as error:
            raise BundleError(f"{self.folder / WEIGHTS_FILE}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "spec": self.spec, "digest": self.digest, "base": self.base}


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle folder.

    Raises
    ------
    BundleError : no `bundle.yaml`, an unknown or wrong field, a file that is missing or isn't the one named there.
    """
    try:
        text = (folder / SPEC_FILE).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder} is no bundle: {SPEC_FILE} can't be read ({error.strerror})") from error
    spec = _parse(folder, text)
    for name, expected in sorted(spec.files.items()):
        path = folder / name
        if not path.is_file():
            raise BundleError(f"bundle {folder} lacks the file {name} that its {SPEC_FILE} names")
        if (found := _sha256(path)) != expected:
            raise BundleError(f"{path} isn't the file the bundle was made with: sha256 {found}, expected {expected}")
    return Bundle(folder, spec, hashlib.sha256(text).hexdigest()[:DIGEST_CHARS], _base(folder, spec))


def save_bundle(folder: Path, spec: BundleSpec, tensors: Mapping[str, torch.Tensor], card: str) -> Bundle:
    """Write a bundle whose `tokenizer.json` already stands in `folder`.

    The digests in `spec.files` are filled in here: of the weights, the tokeniser and any further file named there.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - see above

    save_file(dict(tensors), folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it to its owner alone
    files = {name: _sha256(folder / name) for name in sorted({TOKENIZER_FILE, WEIGHTS_FILE, *spec.files})}
    spec = spec.model_copy(update={"files": files})
    plain = spec.model_dump(mode="json", exclude_none=True)
    (folder / SPEC_FILE).write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return load_bundle(folder)


def _base(folder: Path, spec: BundleSpec) -> Bundle | None:
    """What a bundle of adapters adapts, fetched and checked."""
    if spec.base is None:
        return None
    from models.fetch import fetch  # noqa: PLC0415 - which finds folders, and loads them by this file

    try:
        base = fetch(spec.base)
    except BundleError as error:
        raise BundleError(f"bundle {folder} is made of adapters to {spec.base}, which can't be had: {error}") from error
    if base.spec.architecture != spec.architecture or not isinstance(spec.architecture, Architecture):
        raise BundleError(f"bundle {folder} is made of adapters to another architecture than that of its base {base}")
    return base


def _parse(folder: Path, text: bytes) -> BundleSpec:
    try:
        spec = BundleSpec.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise BundleError(f"{folder / SPEC_FILE} isn't a bundle description: {error}") from error
    missing = {TOKENIZER_FILE, WEIGHTS_FILE} - spec.files.keys()
    if missing:
        raise BundleError(f"{folder / SPEC_FILE}: files must give the sha256 of {sorted(missing)}")
    for name in spec.files:
        if Path(name).name != name:
            raise BundleError(f"{folder / SPEC_FILE}: files must stand in the bundle itself, got {name!r}")
    return spec


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
