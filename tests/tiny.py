"""A bundle with random weights, small enough to build in a moment: two layers, and one token a character.

Its scores mean nothing, but they differ from text to text, and so show every mix-up of rows.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from models.architecture import Architecture, Family
from models.bundle import TOKENIZER_FILE, Bundle, BundleSpec, save_bundle
from models.heads import HeadSpec
from models.trunk import Trunk
from models.weights import to_transformers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = [chr(code) for code in range(33, 127)] + list(
    "的一是不了好差很我你他她它们产品质量服务快慢喜欢讨厌送货价格贵便宜电池发热手机餐厅味道酒店房间"
)
HEADS = (
    HeadSpec(name="sentiment", labels=("negative", "neutral", "positive"), temperature=1.5),
    HeadSpec(name="stars", kind="ordinal", labels=("1", "2", "3", "4", "5")),
)


def tiny_bundle(
    folder: Path,
    *,
    seed: int = 0,
    name: str = "tiny",
    max_length: int = 64,
    family: Family = "megatron-bert",
    heads: tuple[HeadSpec, ...] = HEADS,
) -> Bundle:
    """Write a bundle to the new folder `folder`; another seed is another model."""
    folder.mkdir(parents=True)
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(SPECIAL + CHARACTERS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / TOKENIZER_FILE))
    arch = Architecture(
        family=family,
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=max_length + (family in ("roberta", "xlm-roberta")),  # these leave out the first
    )
    generator = torch.Generator().manual_seed(seed)
    trunk = Trunk(arch)
    for parameter in trunk.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    tensors = to_transformers(trunk)
    for head in heads:
        if head.kind != "embedding":
            tensors[f"heads.{head.name}.weight"] = torch.randn(len(head.labels), 32, generator=generator)
            tensors[f"heads.{head.name}.bias"] = torch.randn(len(head.labels), generator=generator)
    spec = BundleSpec(
        name=name, languages=("zh", "en"), max_length=max_length, architecture=arch, heads=heads, files={}
    )
    return save_bundle(folder, spec, tensors, "# A bundle for tests\n")
