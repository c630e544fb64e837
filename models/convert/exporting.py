"""From a bundle to another program's files: the whole way of `export`."""

from __future__ import annotations

from pathlib import Path

from models.bundle import Bundle
from models.convert.check import check_export
from models.convert.placing import whole_or_nothing
from models.convert.to_huggingface import export_huggingface
from models.convert.to_triton import export_triton
from models.fetch import fetch


def export(reference: str, target: Path, to: str, head: str | None) -> list[str]:
    """Export a bundle; give lines that say what was made."""
    bundle = fetch(reference)
    return _huggingface(bundle, target, head) if to == "huggingface" else _triton(bundle, target)


def _huggingface(bundle: Bundle, target: Path, head_name: str | None) -> list[str]:
    with whole_or_nothing(target) as part:
        head = export_huggingface(bundle, part, head_name)
        difference = check_export(bundle, part, head)
    return [f"checked: logits within {difference:.1g} of the bundle's", f"{bundle}, head {head.name} -> {target}"]


def _triton(bundle: Bundle, repository: Path) -> list[str]:
    with whole_or_nothing(repository / bundle.spec.name) as part:
        difference = export_triton(bundle, part)
    return [
        f"checked: ONNX Runtime within {difference:.1g} of the bundle's outputs",
        f"{bundle} -> {repository / bundle.spec.name}",
    ]
