"""A fresh student: random weights from the seed in a smaller config of the teacher's family, or a Llama with its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.artifact import write_text
from compress.models.folder import load_tokenizer, read_config, save_model
from compress.models.options import StudentOptions
from compress.models.student import fresh_config, llama_problems

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
_INITIALIZER_RANGE = 0.02
_GENERATION = "generation_config.json"


def make_scratch(options: StudentOptions, texts: Iterable[str], teacher: Path | None, folder: Path, seed: int) -> None:
    """Write a model with random weights into `folder`.

    Where options.vocab is given it is a Llama, and its tokenizer is trained on `texts`. Else it is of the teacher's family, with
    the teacher's tokenizer, special tokens and settings, and `texts` are not read.
    Numerics: weights are as the model's own class initialises them, float32; seeded.

    Raises ValueError where the sizes are not legal, or a teacher is needed and missing.
    """
    if options.vocab:
        if problems := llama_problems(options):
            raise ValueError("; ".join(f"{name}: {words}" for name, words in problems))
        train_tokenizer(texts, options.vocab, folder)
        save_model(_llama(options, load_tokenizer(folder).get_vocab_size(), seed), folder, folder)
        return
    if teacher is None:
        raise ValueError("init: scratch without vocab needs a teacher")
    save_model(_of_family(fresh_config(options, read_config(teacher)), teacher, seed), folder, teacher)


def _llama(options: StudentOptions, vocabulary: int, seed: int) -> Any:
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
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _of_family(config: dict[str, Any], teacher: Path, seed: int) -> Any:
    import torch
    from transformers import AutoConfig, GenerationConfig

    from compress.models.skeleton import model_class, prove_shapes

    prove_shapes(config)
    built = AutoConfig.for_model(**config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)._from_config(built, dtype=torch.float32)
    if (teacher / _GENERATION).is_file():
        model.generation_config = GenerationConfig.from_pretrained(teacher, local_files_only=True)
    return model


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
