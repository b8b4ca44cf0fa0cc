"""One layer out of n: the same bytes as the teacher's layers, alone, in their order, with all else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress.models.folder import load_model, read_config
from compress.models.pruning_record import read_record
from compress.models.teacher_layers import take_layers
from tests.references.tiny_families import CONFIGS, tiny_model
from tests.training.tiny_fit import hashes


def teacher_folder(folder, family, tied=True, **changes):
    tiny_model(family, tied, torch.float32, **changes).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def logits_of_some(model, layers, ids):
    """The slow way: the teacher itself, with every other layer bypassed. Layers of these families are called in a loop."""
    base = model.base_model
    stack = next(module for module in base.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == 4)
    gives_tuple = "GPTNeoBlock" in type(stack[0]).__name__
    for index in set(range(4)) - set(layers):
        stack[index].forward = lambda stream, *_, **__: (stream,) if gives_tuple else stream
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False)[0]


@pytest.mark.parametrize("family", CONFIGS)
def test_it_is_the_teacher_without_the_other_layers(family, tmp_path):
    if family in ("gemma2", "gemma3_text"):
        # written as the hub has them: the kinds of layers are left to the class
        source = teacher_folder(tmp_path / "teacher", family, **({"layer_types": None} if family == "gemma2" else {}))
    else:
        source = teacher_folder(tmp_path / "teacher", family)
    (tmp_path / "student").mkdir()
    facts = take_layers(source, 3, tmp_path / "student")
    assert facts == {"layers": {"before": 4, "after": 2, "kept": [0, 3]}}
    ids = torch.arange(20)[None] % 60 + 3
    student = load_model(tmp_path / "student")
    with torch.no_grad():
        found = student(input_ids=ids)[0]
    torch.testing.assert_close(found, logits_of_some(load_model(source), [0, 3], ids), rtol=1e-4, atol=1e-5)


def test_weights_are_the_teachers_bytes_and_what_was_kept_is_recorded(tmp_path):
    source = teacher_folder(tmp_path / "teacher", "llama", tied=False)
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5], "bos_token_id": 1}))
    (tmp_path / "student").mkdir()
    take_layers(source, 2, tmp_path / "student")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "student"))
    named = {
        name.replace("layers.1.", "layers.2.") if ".layers.1." in name else name: weight
        for name, weight in after.items()
    }
    assert len(named) == len(before) * 1 - 2 * sum(".layers.0." in name for name in before)
    assert all(torch.equal(weight, before[name]) for name, weight in named.items())
    record = read_record(tmp_path / "student")
    assert (list(record), record["layers"].score) == (["layers"], "every")
    assert record["layers"].kept.tolist() == [True, False, True, False]
    assert np.isnan(record["layers"].scores).all()
    assert json.loads((tmp_path / "student" / "generation_config.json").read_text())["eos_token_id"] == [2, 5]


def test_the_same_teacher_gives_the_same_bytes(tmp_path):
    source = teacher_folder(tmp_path / "teacher", "qwen2")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        take_layers(source, 2, tmp_path / name)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert read_config(tmp_path / "a")["layer_types"] == ["sliding_attention", "full_attention"]


def test_more_than_there_is_is_refused_before_weights_are_read(tmp_path):
    source = teacher_folder(tmp_path / "teacher", "llama")
    (source / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^the teacher has 4 layers, fewer than 5; use at most 4$"):
        take_layers(source, 5, tmp_path)
