"""Teacher and student of one tokenizer, and other rows of padding: their tokens' chances alone are learned, either way round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from compress.distill.stage import vocabulary
from compress.distill.teachers import LiveTeacher
from compress.errors import StageError
from compress.models.folder import load_model
from tests.training.tiny_fit import VOCABULARY, context, write_model


def padded(folder: Path, rows: int) -> Path:
    """Write a tiny model, then rows behind its tokenizer's ids that it finds likely."""
    model = LlamaForCausalLM.from_pretrained(write_model(folder, seed=1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(rows, mean_resizing=False)
    model.get_input_embeddings().weight.data[VOCABULARY:] *= 30
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    return {size: padded(tmp_path / str(size), VOCABULARY + size) for size in (4, 16)}


@pytest.mark.parametrize(("teacher", "student"), [(16, 4), (4, 16)])
def test_the_teachers_chances_are_those_of_its_tokens_alone(folders, tmp_path, teacher, student):
    tokens = vocabulary(context(tmp_path / "run", folders[student], teacher=folders[teacher]))
    model = load_model(folders[teacher])
    ids = torch.arange(24).view(2, 12) * 7 % VOCABULARY
    found = LiveTeacher(model, tokens, 1.0).window_logits(ids).double().softmax(-1)
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, :-1].double()
    # the padding was likely: left in, it would have taken most of what there is
    assert whole.softmax(-1)[..., VOCABULARY:].sum(-1).mean() > 0.1
    assert found.shape == (2, 11, VOCABULARY + student)
    torch.testing.assert_close(found[..., :VOCABULARY], whole[..., :VOCABULARY].softmax(-1))
    assert float(found[..., VOCABULARY:].sum()) == 0.0


def test_models_with_as_many_rows_need_no_map(folders, tmp_path):
    assert vocabulary(context(tmp_path / "run", folders[4], teacher=folders[4])) is None


def test_another_tokenizer_is_refused_before_weights_are_read(folders, tmp_path):
    tokenizer = folders[4] / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"w7"', '"x7"'))
    for size in (4, 16):
        (folders[size] / "model.safetensors").unlink()
    with pytest.raises(StageError) as refused:
        vocabulary(context(tmp_path / "run", folders[16], teacher=folders[4]))
    assert str(refused.value) == (
        "distill: teacher and student have different tokenizers: 'x7' (7) is a token of the teacher alone; "
        "'w7' (7) is a token of the student alone. Start from a student with the teacher's tokenizer"
    )
