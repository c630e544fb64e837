"""Hugging Face folders whose weights are pickled, as those of before 2023 are.

Everything else reads safetensors alone, so the folder is made over once, on import. Given up: weights in several files.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from models.bundle import WEIGHTS_FILE
from models.convert.errors import ConversionError
from models.convert.safe_load import load_pickled

PICKLED_FILE = "pytorch_model.bin"


def without_pickle(source: Path, folder: Path) -> Path:
    """Fill the empty `folder` with links to what is in `source`, and the pickled weights as safetensors; give it back.

    Raises
    ------
    ConversionError : the pickle asks for code, is damaged, or holds something that isn't a tensor.
    """
    loaded = load_pickled(source / PICKLED_FILE)
    if wrong := sorted(name for name, tensor in loaded.items() if not isinstance(tensor, torch.Tensor)):
        raise ConversionError(f"{source / PICKLED_FILE} must hold tensors alone; these aren't: {', '.join(wrong[:5])}")
    for path in source.iterdir():
        if path.name != PICKLED_FILE:
            (folder / path.name).symlink_to(path.resolve())
    # Copies: tied weights share their memory, which safetensors refuses.
    save_file({name: tensor.clone() for name, tensor in loaded.items()}, folder / WEIGHTS_FILE, {"format": "pt"})
    return folder
