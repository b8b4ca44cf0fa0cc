"""A fresh student: the shape that was asked for, seeded weights, a tokenizer that loses nothing."""

from __future__ import annotations

import pytest
import torch

from compress.models.folder import load_model, load_tokenizer, read_config, special_ids
from compress.models.options import StudentOptions
from compress.models.scratch import make_scratch
from tests.training.tiny_fit import hashes, write_model

TEXTS = ["a bird sees a tree", "the tree sees the bird", "où? 鳥 🐦"] * 3
SHAPE = {"layers": 2, "hidden": 32, "ffn": 48, "heads": 4, "kv_heads": 2, "context": 64}


def make(folder, seed=0, teacher=None, **more):
    folder.mkdir()
    make_scratch(StudentOptions(init="scratch", **(SHAPE | more)), TEXTS, teacher, folder, seed)
    return folder


def test_it_has_the_shape_that_was_asked_for(tmp_path):
    folder = make(tmp_path / "a", vocab=300)
    config = read_config(folder)
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    assert [config[name] for name in names] == [2, 32, 48, 4, 2]
    assert config["max_position_embeddings"] == 64
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] == load_tokenizer(folder).get_vocab_size() <= 300
    ids = special_ids(folder)
    assert (ids.bos, ids.eos, ids.pad) == (1, (2,), 0)


def test_weights_are_normal_and_small(tmp_path):
    weights = torch.cat(
        [
            weight.detach().flatten()
            for weight in load_model(make(tmp_path / "a", vocab=300)).parameters()
            if weight.ndim > 1
        ]
    )
    assert float(weights.std()) == pytest.approx(0.02, rel=0.05)
    assert float(weights.mean()) == pytest.approx(0, abs=0.001)


def test_the_seed_alone_decides(tmp_path):
    torch.manual_seed(1)
    first = hashes(make(tmp_path / "a", vocab=300))
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert hashes(make(tmp_path / "b", vocab=300)) == first
    assert hashes(make(tmp_path / "c", seed=1, vocab=300))["model.safetensors"] != first["model.safetensors"]
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_any_text_goes_through_the_tokenizer_and_back(tmp_path):
    tokenizer = load_tokenizer(make(tmp_path / "a", vocab=300))
    for text in ("a bird sees a tree", "ÄÖ ß 猫\n\t 🐈‍⬛", " two  spaces ", "\x00"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_without_vocab_the_tokenizer_is_the_teachers(tmp_path):
    teacher = write_model(tmp_path / "teacher")
    folder = make(tmp_path / "a", teacher=teacher)
    assert (folder / "tokenizer.json").read_bytes() == (teacher / "tokenizer.json").read_bytes()
    assert read_config(folder)["vocab_size"] == read_config(teacher)["vocab_size"]
    assert special_ids(folder).bos == special_ids(teacher).bos
