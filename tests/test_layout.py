"""The rooms of the project: who may import whom, and names that say something."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"models": set(), "cluster": set(), "jobs": {"models", "cluster"}, "serving": {"models", "cluster"}}
SAYS_NOTHING = {"utils.py", "common.py", "helpers.py", "misc.py"}
LIBRARIES = {"datasets", "evaluate", "tokenizers", "transformers", "torch", "ray", "numpy", "pandas"}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Top package of everything that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in sources(room):
        ours = set(imported(path)) & (ROOMS.keys() | {"tests"})
        assert ours <= ROOMS[room] | {room}, f"{path} imports {ours - ROOMS[room] - {room}}"


def test_models_know_no_ray() -> None:
    for path in sources("models"):
        assert "ray" not in imported(path), path


def test_names_say_something() -> None:
    for room in ROOMS:
        assert not SAYS_NOTHING & {path.name for path in sources(room)}


def test_no_root_folder_hides_a_library() -> None:
    assert not LIBRARIES & {path.name for path in ROOT.iterdir() if path.is_dir()}


def test_entry_points_hold_no_classes() -> None:
    """A class in a module that is run with -m would travel to workers by value."""
    for room in ROOMS:
        for path in sources(room):
            if path.name == "__main__.py":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)], path
