"""The WordPiece vocabulary of a bundle: NFKC, lower case, every Han character a word of its own.

16,000 pieces cover the licensed text's Chinese characters and leave most room to English. Given up: words of several
Han characters, which would shorten Chinese by a third but can't be learnt from so little text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from models.masking import PLACEHOLDERS

PAD, UNKNOWN, FIRST, LAST, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, FIRST, LAST, MASK)
MIN_FREQUENCY = 3
CONTINUATION = "##"


def train_tokenizer(texts: Iterable[str], vocab_size: int, more_special: Sequence[str] = ()) -> Tokenizer:
    """Learn a vocabulary from clean, masked texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=64))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    names = (*SPECIAL, *more_special, *PLACEHOLDERS)
    special = [AddedToken(token, special=True, normalized=False) for token in names]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        limit_alphabet=vocab_size // 2,
        special_tokens=special,
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}",
        pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (FIRST, LAST)],
    )
    return tokenizer
