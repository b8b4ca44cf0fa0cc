"""A fresh student: a Llama config from a few numbers, random weights from the seed, a tokenizer of its own where asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.artifact import write_text
from compress.models.folder import load_tokenizer, read_config, save_model, special_ids
from compress.models.options import StudentOptions

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
_INITIALIZER_RANGE = 0.02


def make_scratch(options: StudentOptions, texts: Iterable[str], teacher: Path | None, folder: Path, seed: int) -> None:
    """Write a Llama with random weights into `folder`.

    The tokenizer is trained on `texts` where options.vocab is given, else it is the teacher's.
    Numerics: weights are normal with deviation 0.02, as Llama's initialisation has them; seeded.
    """
    tokenizer_folder = folder
    if options.vocab:
        train_tokenizer(texts, options.vocab, folder)
        ids: dict[str, int | None] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        size = load_tokenizer(folder).get_vocab_size()
    else:
        if teacher is None:
            raise ValueError("init: scratch without vocab needs a teacher")
        tokenizer_folder = teacher
        special = special_ids(teacher)
        ids = {
            "bos_token_id": special.bos,
            "eos_token_id": special.eos[0] if special.eos else None,
            "pad_token_id": special.pad,
        }
        size = read_config(teacher)["vocab_size"]
    _write_model(options, size, ids, tokenizer_folder, folder, seed)


def _write_model(
    options: StudentOptions,
    vocabulary: int,
    ids: dict[str, int | None],
    tokenizer_folder: Path,
    folder: Path,
    seed: int,
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.ffn,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads or options.heads,
        max_position_embeddings=options.context or 512,
        tie_word_embeddings=True,
        initializer_range=_INITIALIZER_RANGE,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    save_model(model, folder, tokenizer_folder)


def train_tokenizer(texts: Iterable[str], size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer of at most `size` tokens and write tokenizer.json: any text encodes without loss.

    Paper: Sennrich et al., arXiv 1508.07909 §3.2, over bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_text(
        folder / "tokenizer_config.json",
        '{\n  "bos_token": "<s>",\n  "eos_token": "</s>",\n  "pad_token": "<pad>",\n  "tokenizer_class": "PreTrainedTokenizerFast"\n}\n',
    )
