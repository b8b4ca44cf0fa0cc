"""A model folder: opens as it was saved, tied weights once, and says which file is broken."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from compress.errors import ArtifactError
from compress.models import folder as folders
from compress.models.folder import load_model, load_tokenizer, read_config, save_model, special_ids
from tests.tiny_run import random_teacher


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return random_teacher(tmp_path_factory.mktemp("source"))


@pytest.fixture
def copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def test_a_saved_model_opens_with_transformers_and_is_the_same(source, tmp_path):
    model = load_model(source)
    save_model(model, tmp_path, source)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert AutoTokenizer.from_pretrained(tmp_path)("a bird")["input_ids"] == load_tokenizer(source).encode("a bird").ids


def test_tied_weights_are_tied_and_stored_once(source, tmp_path):
    model = load_model(source)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    save_model(model, tmp_path, source)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118


def test_half_precision_weights_are_opened_in_float32(copy):
    model = load_model(copy).half()
    model.save_pretrained(copy)
    assert {parameter.dtype for parameter in load_model(copy).parameters()} == {torch.float32}


def test_the_tokenizer_class_opens_in_transformers_4_and_5(copy, tmp_path):
    (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend", "backend": "x"}))
    (tmp_path / "to").mkdir()
    folders.copy_tokenizer(copy, tmp_path / "to")
    assert json.loads((tmp_path / "to" / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }


def test_special_ids_come_from_the_generation_config_first(copy):
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5], "bos_token_id": None}))
    found = special_ids(copy)
    assert (found.bos, found.eos, found.pad) == (1, (2, 5), 0)
    (copy / "generation_config.json").unlink()
    assert special_ids(copy).eos == (2,)


BROKEN = [
    ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:1000]), "the model does not load"),
    ("model.safetensors", lambda path: path.write_bytes(b"\xff" * 100), "the model does not load"),
    (
        "model.safetensors",
        lambda path: path.unlink(),
        r"no model\*\.safetensors there; save the weights as safetensors",
    ),
    ("config.json", lambda path: path.write_text('{"model_type": "none-such"}'), "the model does not load"),
    ("config.json", lambda path: path.write_text("{"), r"config\.json: not JSON"),
    ("config.json", lambda path: path.write_text("[]"), r"config\.json: a JSON object is needed, found list"),
    ("config.json", lambda path: path.unlink(), "no config.json there; a model folder is needed"),
    ("tokenizer.json", lambda path: path.write_text('{"a'), r"tokenizer\.json: no tokenizer can be read from it"),
    ("tokenizer.json", lambda path: path.unlink(), r"no tokenizer\.json there; save the tokenizer in the fast format"),
    ("generation_config.json", lambda path: path.write_text("{"), r"generation_config\.json: not JSON"),
    (
        "tokenizer_config.json",
        lambda path: path.write_text("3"),
        r"tokenizer_config\.json: a JSON object is needed, found int",
    ),
]


@pytest.mark.parametrize(("name", "damage", "message"), BROKEN)
def test_a_broken_file_is_named(copy, tmp_path, name, damage, message):
    damage(copy / name)
    (tmp_path / "to").mkdir()
    with pytest.raises(ArtifactError, match=message):  # noqa: PT012 - whichever of them reads the file
        read_config(copy)
        special_ids(copy)
        load_tokenizer(copy)
        folders.copy_tokenizer(copy, tmp_path / "to")
        load_model(copy)


def test_weights_that_do_not_fit_the_config_are_refused(copy):
    config = read_config(copy)
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ArtifactError, match=r"missing keys in the weights: \['model\.layers\.3\."):
        load_model(copy)
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ArtifactError, match=r"unexpected keys in the weights"):
        load_model(copy)
