"""Where training computes: what the settings say, or a GPU wherever torch sees one."""

from __future__ import annotations

from typing import Literal

import torch

from jobs.finetune.settings import FinetuneError

Device = Literal["auto", "cpu", "cuda"]


def choose_device(asked: Device) -> torch.device:
    """The device to train on.

    Raises
    ------
    FinetuneError : a GPU was asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if asked == "cuda" and not has_gpu:
        raise FinetuneError(f"device is cuda, but torch {torch.__version__} sees no GPU on this machine")
    return torch.device("cuda" if asked != "cpu" and has_gpu else "cpu")
