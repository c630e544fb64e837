"""What a pretraining gives: of an encoder a bundle for `jobs.finetune`, of a GPT a Hugging Face GPT-2 folder.

Made from the last checkpoint, wherever and by however many workers it was trained. A bundle needs a head: it gets an
`embedding`, the mean of the states, which scores nothing until it is fine-tuned. Written in a scratch folder, checked
by a forward pass, then put file by file; the file that names the others comes last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from cluster.stores import Store
from jobs.train.checkpoints import Checkpoint
from jobs.train.curves import read_curve
from jobs.train.networks import MaskedLanguageModel
from jobs.train.pretrain_card import write_card
from jobs.train.trainer import Job, build_model
from models.bundle import CARD_FILE, SPEC_FILE, TOKENIZER_FILE, BundleSpec, save_bundle
from models.heads import HeadSpec
from models.weights import to_transformers

BUNDLE, GPT_FOLDER = "bundle", "gpt"
_TRUNK = "trunk."


def write_result(job: Job, checkpoint: Checkpoint, output: Store, num_tokens: int) -> str:
    """Write the result below `output`; give where it lies."""
    model = build_model(job)
    model.load_state_dict(checkpoint.model_tensors())
    card = write_card(job, read_curve(output), num_tokens, sum(p.numel() for p in model.trunk.parameters()))
    with tempfile.TemporaryDirectory(prefix="verbatim-") as scratch:
        folder = Path(scratch)
        if isinstance(model, MaskedLanguageModel):
            _write_bundle(job, model, folder, card)
            return _put(folder, output.child(BUNDLE), last=(SPEC_FILE,))
        _write_gpt(job, {name.removeprefix(_TRUNK): tensor for name, tensor in model.state_dict().items()}, folder)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        return _put(folder, output.child(GPT_FOLDER), last=("config.json",))


def _write_bundle(job: Job, model: MaskedLanguageModel, folder: Path, card: str) -> None:
    (folder / TOKENIZER_FILE).write_text(job.tokenizer, encoding="utf-8")
    spec = BundleSpec(
        name=job.settings.name,
        languages=tuple(job.settings.languages),
        max_length=job.settings.architecture.max_length,
        architecture=job.architecture,
        heads=(HeadSpec(name="embedding", kind="embedding", size=job.architecture.hidden_size, pooling="mean"),),
        files={},
    )
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in to_transformers(model.trunk).items()}
    save_bundle(folder, spec, tensors, card)


def _write_gpt(job: Job, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415 - see above

    from models.convert.check import check_gpt  # noqa: PLC0415 - importing transformers takes seconds
    from models.convert.folders import write_gpt  # noqa: PLC0415 - see above

    disable_progress_bar()
    write_gpt(job.architecture, tensors, Tokenizer.from_str(job.tokenizer), folder, tanh_gelu=True)
    check_gpt(folder)


def _put(folder: Path, store: Store, last: Sequence[str]) -> str:
    """Put all files; while they change, the file by which a reader knows the folder is away."""
    for name in last:
        store.delete(name)
    for path in sorted(folder.iterdir(), key=lambda path: (path.name in last, path.name)):
        store.put(path.name, path.read_bytes())
    return store.root
