"""A fresh student: the shape that was asked for, seeded weights, a tokenizer that loses nothing."""

from __future__ import annotations

import pytest
import torch

from compress.models.families import shape_of
from compress.models.folder import load_model, load_tokenizer, read_config, special_ids
from compress.models.options import StudentOptions
from compress.models.scratch import make_scratch
from tests.references.tiny_families import CONFIGS, DECODERS, tiny_config
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


def write_teacher(folder, family, **changes):
    """Write what a fresh student takes of a teacher: config, generation config and tokenizer; no weights."""
    folder.mkdir()
    tiny_config(family, **changes).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 5]}')
    return folder


@pytest.mark.parametrize("family", CONFIGS)
def test_without_vocab_it_is_of_the_teachers_family_as_its_class_begins(tmp_path, family):
    spread = {"init_std" if family == "opt" else "initializer_range": 0.5}
    teacher = write_teacher(tmp_path / "teacher", family, tied=False, **spread)
    (tmp_path / "a").mkdir()
    make_scratch(StudentOptions(init="scratch", layers=2, hidden=16, heads=2), (), teacher, tmp_path / "a", 0)
    before, after = read_config(teacher), read_config(tmp_path / "a")
    shape, kept = shape_of(after), shape_of(before)
    assert (shape.layers, shape.hidden, shape.heads, shape.ffn, shape.context) == (2, 16, 2, kept.ffn, kept.context)
    assert after["model_type"] == family
    assert after["architectures"] == before["architectures"]
    same = ("rope_parameters", "hidden_act", "rms_norm_eps", "tie_word_embeddings", "sliding_window", "eos_token_id")
    assert {key: after.get(key) for key in same} == {key: before.get(key) for key in same}
    assert special_ids(tmp_path / "a").eos == ((2, 5) if family in DECODERS else (2,))
    model = load_model(tmp_path / "a")
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=torch.arange(3, 9)[None])[0]).all()
    matrices = torch.cat([weight.detach().flatten() for weight in model.parameters() if weight.ndim > 1])
    assert float(matrices.std()) == pytest.approx(0.5, rel=0.2)


def test_the_seed_alone_decides_in_the_teachers_family_too(tmp_path):
    teacher = write_teacher(tmp_path / "teacher", "gemma3_text")
    found = [hashes(make(tmp_path / name, seed, teacher)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert found[0] == found[1]
    assert found[0]["model.safetensors"] != found[2]["model.safetensors"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"hidden": 30},
            "hidden: a width of 30 beside 4 heads, and a llama model needs a width that is an even multiple",
        ),
        ({"hidden": 30, "vocab": 300}, "hidden: a width of 30 beside 4 heads, and a llama model needs a width that is"),
        (
            {"kv_heads": 3},
            "kv_heads: 3 key/value heads do not divide 4 query heads; the nearest legal values are 2 and 4",
        ),
    ],
)
def test_sizes_that_are_not_legal_are_refused_before_anything_is_written(tmp_path, more, message):
    teacher = write_teacher(tmp_path / "teacher", "llama")
    with pytest.raises(ValueError, match="^" + message):
        make(tmp_path / "a", teacher=teacher, **more)
    assert list((tmp_path / "a").iterdir()) == []


def test_without_vocab_and_teacher_there_are_no_tokens(tmp_path):
    with pytest.raises(ValueError, match=r"^init: scratch without vocab needs a teacher$"):
        make(tmp_path / "a")
