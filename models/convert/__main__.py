"""`python -m models.convert import|export …`: bring checkpoints in as bundles, and take bundles out.

Exit codes: 0 what was asked for is written and was checked by a forward pass; 2 something that was given can't be used,
and nothing is written.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

IMPORT_HELP = """\
Read a Megatron-LM checkpoint (BERT or GPT: a release's zip, a folder of mp_rank_… shards, a torch_dist folder)
or a Hugging Face folder, check it by a forward pass, and write a bundle to OUT. A GPT becomes a Hugging Face GPT-2
folder. Only tensors and plain data are unpickled: a checkpoint that asks for more is refused."""
EXPORT_HELP = """\
Write a bundle as a Hugging Face folder of one head, or as a model of a Triton repository (ONNX, all heads), and check
it against the bundle's own outputs. Triton needs the extra 'export'."""


def main(arguments: list[str] | None = None) -> int:
    """Parse, convert, say what was found and made."""
    parser = argparse.ArgumentParser(prog="python -m models.convert", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    _add_import(commands.add_parser("import", help="make a bundle of a checkpoint", description=IMPORT_HELP))
    _add_export(commands.add_parser("export", help="take a bundle to another program", description=EXPORT_HELP))
    given = parser.parse_args(arguments)
    _quieten()
    try:
        lines = _import(given) if given.command == "import" else _export(given)
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print("\n".join(lines))  # noqa: T201
    return 0


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--name", help="the bundle's name (the folder's unless given)")
    parser.add_argument("--tokenizer", type=Path, help="the checkpoint's tokenizer.json, or the next two")
    parser.add_argument("--vocab", type=Path, help="BERT's vocab.txt or GPT's vocab.json")
    parser.add_argument("--merges", type=Path, help="GPT's merges.txt")
    case = parser.add_mutually_exclusive_group()
    case.add_argument("--cased", action="store_const", const=True, dest="cased", help="vocab.txt keeps upper case")
    case.add_argument("--uncased", action="store_const", const=False, dest="cased", help="vocab.txt is lower case")
    parser.add_argument("--heads", type=int, help="attention heads, for old checkpoints that don't say")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="what `score` and `serve` take: a name, folder or URI")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder; of Triton, the repository")
    parser.add_argument("--to", choices=["huggingface", "triton"], required=True)
    parser.add_argument("--head", help="of a Hugging Face folder: which head, if there are several")


def _quieten() -> None:
    """Progress bars of loading, and the ONNX exporter's notes on packages it doesn't need, say nothing to a user."""
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415 - importing transformers takes seconds

    disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)


def _import(given: argparse.Namespace) -> list[str]:
    from models.convert.importing import import_any  # noqa: PLC0415 - see above
    from models.convert.vocabulary import TokenizerFiles  # noqa: PLC0415 - see above

    files = TokenizerFiles(given.tokenizer, given.vocab, given.merges, given.cased)
    return import_any(given.source, given.out, given.name or given.out.name, files, given.heads)


def _export(given: argparse.Namespace) -> list[str]:
    from models.convert.exporting import export  # noqa: PLC0415 - see above

    return export(given.bundle, given.out, given.to, given.head)


if __name__ == "__main__":
    sys.exit(main())
