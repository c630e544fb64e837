"""A pretraining from settings to result: check, tokenizer, tokens, steps, result. Each part goes on where it stopped.

Below `output` stand `tokenizer.json`, `tokens/`, `checkpoints/`, `curve.csv`, `tensorboard/`, and in the end `bundle/`
or `gpt/`. Whatever can be known to be wrong is said before any work starts.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from tokenizers import Tokenizer

from cluster.stores import Store, open_store
from jobs.train.checkpoints import Checkpoint, newest
from jobs.train.crew import Crew
from jobs.train.documents import Slice, plan_slices, read_documents
from jobs.train.encoding import choose_words
from jobs.train.masking import Vocabulary
from jobs.train.parent import follow
from jobs.train.pretrain_settings import GPT, PretrainError, PretrainSettings, TokenizerSettings
from jobs.train.recipe import check_recipe, recipe_of
from jobs.train.result import write_result
from jobs.train.roles import END_OF_TEXT, ENDS, FIRSTS, LASTS, find_role
from jobs.train.tokenizer import PAD, train_tokenizer
from jobs.train.tokens import TokenStore, make_tokens
from jobs.train.trainer import CHECKPOINTS, Job, Trainer
from models.architecture import Architecture
from models.bundle import TOKENIZER_FILE, Bundle
from models.fetch import fetch
from models.precision import choose_precision

log = logging.getLogger("verbatim.train")


def pretrain(settings: PretrainSettings) -> str:
    """Pretrain, or what is left of it; give where the result lies.

    Raises
    ------
    ValueError, OSError : settings, data, tokenizer or checkpoint can't be used.
    TrainingError : training broke off.
    """
    parent = fetch(settings.bundle) if settings.bundle else None
    settings = follow(settings, parent) if parent else settings
    device = _choose_device(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    output = open_store(settings.output)
    before = newest(output.child(CHECKPOINTS))
    slices = plan_slices(settings.data)
    with _session(settings, device):
        job = prepare(settings, output, slices, device, before, parent=parent)
        if settings.workers == 1:
            Trainer(job, Crew(0, 1, torch.device(device))).run()
        else:
            from jobs.train.team import run_team  # noqa: PLC0415 - one process needs no Ray

            run_team(job, device)
    last = newest(output.child(CHECKPOINTS))
    assert last is not None, "a run ends with a checkpoint"
    return write_result(job, last, output, TokenStore(job.tokens).num_tokens)


def prepare(
    settings: PretrainSettings,
    output: Store,
    slices: Sequence[Slice],
    device: str,
    before: Checkpoint | None,
    *,
    parent: Bundle | None = None,
) -> Job:
    """Tokenizer and tokens, made or found; what every worker must know."""
    tokenizer = _tokenizer(settings, output, slices)
    words = choose_words(settings.objective.chinese_words)
    recipe = recipe_of(settings, tokenizer, words)
    if before is not None:
        check_recipe(before, recipe)
    output.put(TOKENIZER_FILE, tokenizer.to_str(pretty=True).encode())
    return Job(
        settings=settings,
        architecture=parent.packed_architecture if parent else _architecture(settings, tokenizer),
        tokens=make_tokens(output, slices, tokenizer, words, on_ray=settings.workers > 1),
        tokenizer=tokenizer.to_str(),
        words=words,
        precision=choose_precision(settings.precision, on_gpu=device == "cuda"),
        recipe=recipe,
    )


def _architecture(settings: PretrainSettings, tokenizer: Tokenizer) -> Architecture:
    pad = tokenizer.token_to_id(PAD)
    return settings.architecture.build(
        tokenizer.get_vocab_size(), pad if pad is not None else tokenizer.token_to_id("<pad>") or 0
    )


def _tokenizer(settings: PretrainSettings, output: Store, slices: Sequence[Slice]) -> Tokenizer:
    """The tokenizer that was given, or learnt before, or now."""
    is_gpt = settings.architecture.family == GPT
    if settings.tokenizer.use is not None:
        tokenizer = _read_tokenizer(settings.tokenizer.use)
    elif output.exists(TOKENIZER_FILE):
        tokenizer = _parse(output.read_bytes(TOKENIZER_FILE), output.uri(TOKENIZER_FILE))
    else:
        tokenizer = _learn(settings.tokenizer, slices, is_gpt=is_gpt)
    _check_roles(tokenizer, is_gpt=is_gpt)
    return tokenizer


def _learn(settings: TokenizerSettings, slices: Sequence[Slice], *, is_gpt: bool) -> Tokenizer:
    log.info("learning a vocabulary of %d pieces", settings.vocab_size)
    each = -(-settings.max_texts // len(slices))
    texts = (text for one in slices for text in islice(read_documents(one), each))
    return train_tokenizer(texts, settings.vocab_size, (END_OF_TEXT,) if is_gpt else ())


def _read_tokenizer(where: str) -> Tokenizer:
    """A `tokenizer.json`, or the one of a folder or bundle, in any store."""
    uri = where if where.endswith(".json") else f"{where.rstrip('/')}/{TOKENIZER_FILE}"
    try:
        return _parse(open_store(uri).read_bytes(), uri)
    except FileNotFoundError as error:
        raise PretrainError(f"tokenizer.use: there is no {uri}") from error


def _parse(data: bytes, uri: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise PretrainError(f"{uri} isn't a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _check_roles(tokenizer: Tokenizer, *, is_gpt: bool) -> None:
    if is_gpt:
        find_role(tokenizer, "end-of-text", ENDS)
        return
    find_role(tokenizer, "first", FIRSTS)
    find_role(tokenizer, "last", LASTS)
    Vocabulary.of(tokenizer)


def _choose_device(settings: PretrainSettings) -> str:
    """Where to train. On a cluster `auto` goes by the machine that starts the run, as precision does."""
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu and settings.workers == 1:
        raise PretrainError(f"device is cuda, but torch {torch.__version__} sees no GPU on this machine")
    return "cuda" if settings.device == "cuda" or (settings.device == "auto" and has_gpu) else "cpu"


@contextlib.contextmanager
def _session(settings: PretrainSettings, device: str) -> Iterator[None]:
    """Be connected to a Ray that has room for the workers, if there are several."""
    if settings.workers == 1:
        yield
        return
    from cluster.session import session  # noqa: PLC0415 - one process needs no Ray
    from jobs.train.team import check_room  # noqa: PLC0415 - see above

    with session(settings.ray_address):
        check_room(settings.workers, is_gpu=device == "cuda")
        yield
