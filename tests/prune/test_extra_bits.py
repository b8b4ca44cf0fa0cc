"""Bits by use: those that the model itself says, drawn together, and the choice by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from compress.data.corpus import Corpus
from compress.prune.extra_bits import choose_by_model, measure_extra_bits
from compress.prune.spelling import spelling_of
from compress.prune.vocabulary import choose_tokens, count_tokens
from tests.prune.tiny_tokenizers import (
    SIZE,
    TEXT,
    as_json,
    byte_level,
)


def corpus_of(tokenizer: Tokenizer, texts: list[str]) -> Corpus:
    parts = [[0, *tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    ids = np.array([index for part in parts for index in part], dtype=np.int64)
    starts = np.cumsum([0, *map(len, parts)]).astype(np.int64)
    return Corpus(ids, np.ones(len(ids), dtype=bool), starts, np.array([len(text) for text in texts]), (), "")


def tiny_llama(size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.5
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def bits_of(model: LlamaForCausalLM, ids: list[int]) -> float:
    with torch.no_grad():
        chances = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    return -sum(float(chances[place - 1, ids[place]]) for place in range(1, len(ids))) / np.log(2)


def test_extra_bits_equal_what_the_model_says_of_each_window():
    library = byte_level()
    model, corpus = tiny_llama(SIZE), corpus_of(library, TEXT)
    parts = spelling_of(as_json(library)).parts
    token = library.token_to_id("Ġthe")
    differences = []
    for document, _, _ in corpus.documents():
        for place in np.flatnonzero(document == token):
            whole = document[max(0, place - 28) : place + 9].tolist()
            apart = whole[:1] + [each for index in whole[1:] for each in (parts[token] if index == token else [index])]
            uses = whole[1:].count(token)
            differences.append((bits_of(model, apart) - bits_of(model, whole)) / uses)
    found = measure_extra_bits(model, corpus, {token: parts[token]})
    assert 5 < len(differences) <= 12
    assert found == {token: pytest.approx(np.mean(differences), abs=1e-3)}
    assert measure_extra_bits(model, corpus, {token: parts[token]}, most=1) == {
        token: pytest.approx(differences[0], abs=1e-3)
    }


def test_windows_over_the_context_are_left_out():
    library = byte_level()
    corpus, parts = corpus_of(library, TEXT), spelling_of(as_json(library)).parts
    wanted = {token: parts[token] for token in sorted(parts) if token in corpus.ids}
    torch.manual_seed(0)
    whole, short = (
        GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, n_embd=8, n_layer=1, n_head=1, n_positions=positions)).eval()
        for positions in (512, 16)
    )
    assert measure_extra_bits(whole, corpus, wanted).keys() > measure_extra_bits(short, corpus, wanted).keys()


def test_extra_bits_of_several_tokens_are_drawn_together():
    library = byte_level()
    model, corpus = tiny_llama(SIZE), corpus_of(library, TEXT * 3)
    parts = {index: found for index, found in spelling_of(as_json(library)).parts.items() if index in corpus.ids}
    alone = {index: measure_extra_bits(model, corpus, {index: parts[index]})[index] for index in parts}
    together = measure_extra_bits(model, corpus, parts)
    middle = np.mean(list(alone.values()))
    assert together.keys() == alone.keys()
    assert len(alone) > 30
    for index, bits in alone.items():
        assert abs(together[index] - middle) <= abs(bits - middle) + 1e-3
    assert 0.1 < np.var(list(together.values())) / np.var(list(alone.values())) < 0.999


def test_the_choice_by_a_model_follows_its_bits_and_repeats():
    library = byte_level()
    entry, model, corpus = as_json(library), tiny_llama(SIZE), corpus_of(library, TEXT)
    kept = choose_by_model(model, entry, corpus, 300)
    assert kept == choose_by_model(model, entry, corpus, 300)
    assert len(kept) == 300
    counts = count_tokens(corpus, SIZE)
    assert sum(counts) == len(corpus.ids)
    assert kept != choose_tokens(entry, counts, 300)
    unused = corpus_of(library, ["."])
    assert choose_by_model(model, entry, unused, 390) == choose_tokens(entry, count_tokens(unused, SIZE), 390)
