"""Tiny tokenizers of every kind that can be cut, trained on a few lines, and texts of any characters."""

from __future__ import annotations

import json
import random

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from compress.prune.vocabulary import least_tokens

TEXT = [
    "The red fox ran to the old barn, and the fox's friend ran there too.",
    "A blue bird sang in the tall tree; nobody heard the little bird.",
    "Tom gave the ball to his friend Mia. Mia said: \"Thank you, Tom!\"",
    "In the evening the friends were playing with the red ball near the barn.",
    "Ça coûte 3 €, naïve façade. Привет, мир! 你好",
]  # fmt: skip


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    train(
        tokenizer,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.add_special_tokens(["<|pad|>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def byte_fallback() -> Tokenizer:
    special = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    train(tokenizer, trainers.BpeTrainer(vocab_size=460, special_tokens=special, show_progress=False))
    entry = json.loads(tokenizer.to_str())
    entry["added_tokens"] = entry["added_tokens"][:3]
    entry["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(entry))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.enable_padding(pad_id=2, pad_token="</s>")
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    train(
        tokenizer,
        trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
        ),
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def train(tokenizer: Tokenizer, trainer: object) -> None:
    tokenizer.train_from_iterator(TEXT * 4, trainer)


SIZE = 408  # of byte_level()
KINDS = {"byte-level": byte_level, "byte-fallback": byte_fallback, "word-piece": word_piece}


def as_json(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())


def counted(tokenizer: Tokenizer, size: int | None = None) -> list[int]:
    counts = np.zeros(size or tokenizer.get_vocab_size(), dtype=int)
    for text in TEXT[:3]:
        np.add.at(counts, tokenizer.encode(text, add_special_tokens=False).ids, 1)
    return counts.tolist()


def half(tokenizer: Tokenizer) -> int:
    return (tokenizer.get_vocab_size() + least_tokens(as_json(tokenizer))) // 2


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of any characters: words of the training text, every script, emoji, controls, line ends."""
    rng = random.Random(seed)
    ranges = [
        (0, 0x20),
        (0x20, 0x7F),
        (0x80, 0x250),
        (0x400, 0x460),
        (0x4E00, 0x4F00),
        (0x1F600, 0x1F650),
        (0x2500, 0x2600),
    ]
    words = " ".join(TEXT).split()
    texts = []
    for _ in range(count):
        parts = [
            rng.choice(words)
            if rng.random() < 0.5
            else "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(6)))
            for _ in range(rng.randrange(1, 12))
        ]
        texts.append(rng.choice([" ", "", "\n", "  "]).join(parts))
    return texts


def loss(tokenizer: Tokenizer, text: str) -> object:
    """Return what is left of a text when it is encoded and decoded; for WordPiece also which words are unknown."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return tokenizer.decode(ids, skip_special_tokens=False), ids.count(tokenizer.token_to_id("[UNK]") or -1)
