"""From a checkpoint of another program to what this one runs: the whole way of `import`.

BERT becomes a bundle of an encoder without heads (it gives embeddings; heads come with fine-tuning). GPT becomes a
Hugging Face GPT-2 folder, for there is no bundle of a generating model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import load_file

from models.architecture import Architecture
from models.bundle import WEIGHTS_FILE, Bundle, save_bundle
from models.checkpoint import CONFIG_FILE
from models.convert.check import check_gpt, check_scores, check_trunk
from models.convert.folders import write_bert, write_gpt
from models.convert.megatron import Checkpoint, read_megatron
from models.convert.pickled import PICKLED_FILE, without_pickle
from models.convert.placing import whole_or_nothing
from models.convert.vocabulary import TokenizerFiles, build_tokenizer, without_padding
from models.huggingface import make_bundle

_WORDS = "word_embeddings.weight"


def import_any(source: Path, target: Path, name: str, files: TokenizerFiles, num_heads: int | None) -> list[str]:
    """Import a Hugging Face folder or a Megatron-LM checkpoint; give lines that say what was found and made."""
    with whole_or_nothing(target) as part:
        if (source / CONFIG_FILE).is_file():
            lines = [f"a Hugging Face folder: {source}"]
            made = f"{_from_huggingface(source, part, name, lines)}"
        else:
            checkpoint = read_megatron(source, num_heads)
            lines = checkpoint.summary()
            made = _from_megatron(checkpoint, part, name, files, lines)
    return [*lines, f"{made} -> {target}"]


def _from_huggingface(source: Path, target: Path, name: str, lines: list[str]) -> Bundle:
    with tempfile.TemporaryDirectory(prefix="verbatim-") as scratch:
        if not (source / WEIGHTS_FILE).is_file() and (source / PICKLED_FILE).is_file():
            lines.append(f"its weights are pickled ({PICKLED_FILE}); only tensors are taken from there")
            source = without_pickle(source, Path(scratch))
        bundle = make_bundle(source, target, name)
        if isinstance(bundle.spec.architecture, Architecture):
            check_trunk(bundle, bundle.spec.architecture, source)
        else:
            check_scores(bundle)
    return bundle


def _from_megatron(checkpoint: Checkpoint, target: Path, name: str, files: TokenizerFiles, lines: list[str]) -> str:
    sizes = checkpoint.sizes
    tokenizer = build_tokenizer(files, sizes, checkpoint.tokenizer_type)
    words_vd = without_padding(checkpoint.tensors[_WORDS], tokenizer, sizes)
    lines.append(f"{len(words_vd)} words, {sizes.arch.vocab_size - len(words_vd)} padding rows cut off")
    tensors = {**checkpoint.tensors, _WORDS: words_vd}
    arch = sizes.arch.model_copy(update={"vocab_size": len(words_vd)})
    if sizes.family == "gpt":
        write_gpt(arch, tensors, tokenizer, target, sizes.tanh_gelu)
        check_gpt(target)
        return "a Hugging Face GPT-2 folder (there is no bundle of a GPT)"
    if sizes.tanh_gelu:
        lines.append("trained with the tanh form of GELU; it runs with the exact one, within 5e-4 an activation")
    with tempfile.TemporaryDirectory(prefix="verbatim-") as scratch:
        folder = Path(scratch)
        write_bert(arch, tensors, tokenizer, folder)
        spec = make_bundle(folder, target, name).spec
        # Its head reads the mean alone; the pooler is kept for the fine-tuning to come.
        bundle = save_bundle(target, spec, load_file(folder / WEIGHTS_FILE), _card(spec.name, checkpoint))
        difference = check_trunk(bundle, arch, folder)
    lines.append(f"checked: within {difference:.1g} of transformers on the same weights")
    return str(bundle)


def _card(name: str, checkpoint: Checkpoint) -> str:
    found = "\n".join(f"- {line}" for line in checkpoint.summary())
    return (
        f"# {name}\n\nImported from a Megatron-LM checkpoint, whose own terms apply; not trained further.\n\n{found}\n"
    )
