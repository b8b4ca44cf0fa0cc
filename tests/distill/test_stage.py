"""Distill: nearer to the teacher, resumed like a straight run, refused where tokens mean something else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from compress.distill import stage
from compress.distill.options import DistillOptions
from compress.errors import StageError
from compress.models.folder import load_model, save_model
from compress.models.vocabulary import VocabularyMap, map_after, read_map
from compress.train.options import TrainOptions
from compress.train.stage import run as train
from compress.training import loop
from compress.training.losses import UNCOUNTED
from tests.references.training import slow_cross_entropy, slow_forward_kl
from tests.training.tiny_fit import LENGTH, Data, context, hashes, write_model

OPTIONS = DistillOptions(tokens=40 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=4, learning_rate=5e-3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    options = TrainOptions(tokens=60 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=0, learning_rate=1e-2)
    train(options, context(folder, write_model(folder / "source")))
    return folder / "target"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("student") / "source", seed=5, layers=1)


def logits_of(folder, ids):
    with torch.no_grad():
        return load_model(folder)(input_ids=torch.from_numpy(ids)).logits[:, :-1].numpy()


def kl(folder, teacher, data):
    ids, _ = data("validation", folder).windows(LENGTH)
    counted = np.ones((len(ids), LENGTH - 1), dtype=bool)
    return slow_forward_kl(logits_of(folder, ids), logits_of(teacher, ids), counted, 1.0) / counted.size


def test_distill_lowers_kl_to_the_teacher(teacher, student, tmp_path):
    data = Data()
    outcome = stage.run(OPTIONS, context(tmp_path, student, data, teacher=teacher))
    before, after = kl(student, teacher, data), kl(tmp_path / "target", teacher, data)
    assert after < before / 3
    assert outcome.facts["last_loss"] < outcome.facts["first_loss"] / 2


@pytest.mark.parametrize("loss", ["forward_kl", "cross_entropy", {"forward_kl": 0.7, "cross_entropy": 0.3}])
def test_the_first_loss_is_the_mix_that_was_asked_for(teacher, student, tmp_path, loss):
    options = OPTIONS.model_copy(update={"loss": loss, "temperature": 2.0, "tokens": 4 * LENGTH})
    ctx = context(tmp_path, student, Data(counted=0.6), teacher=teacher)
    outcome = stage.run(options, ctx)
    examples = loop.load_examples(ctx, options)
    batch = [loop.WindowSequence(examples, 4, 0)[index] for index in range(4)]
    ids = torch.stack([entry["input_ids"] for entry in batch]).numpy()
    targets = torch.stack([entry["labels"] for entry in batch]).numpy()[:, 1:]
    counted = targets != UNCOUNTED
    own, other = logits_of(student, ids), logits_of(teacher, ids)
    terms = {
        "forward_kl": slow_forward_kl(own, other, counted, 2.0),
        "cross_entropy": slow_cross_entropy(own, targets, UNCOUNTED),
    }
    expected = sum(weight * terms[name] for name, weight in options.weights().items()) / counted.sum()
    assert outcome.facts["first_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_student_that_is_the_teacher_begins_at_zero(teacher, tmp_path):
    options = OPTIONS.model_copy(update={"loss": "forward_kl", "tokens": 8 * 4 * LENGTH})
    outcome = stage.run(options, context(tmp_path, teacher, teacher=teacher))
    assert outcome.facts["first_loss"] == pytest.approx(0, abs=1e-6)
    assert outcome.facts["validation_loss"] < 0.1  # AdamW makes steps of rounding errors


def test_the_teacher_is_in_eval_mode_without_gradients_and_unchanged(teacher, student, tmp_path, monkeypatch):
    loaded, forward = [], []
    original = stage.load_model

    def watched(folder, device="cpu"):
        model = original(folder, device)
        loaded.append(model)
        if folder == teacher:
            model.register_forward_hook(
                lambda module, args, output: forward.append((module.training, output.logits.requires_grad))
            )
        return model

    monkeypatch.setattr(stage, "load_model", watched)
    before = hashes(teacher)
    stage.run(OPTIONS.model_copy(update={"tokens": 8 * 4 * LENGTH}), context(tmp_path, student, teacher=teacher))
    assert set(forward) == {(False, False)}
    assert all(parameter.grad is None for parameter in loaded[1].parameters())
    assert hashes(teacher) == before


def test_cross_entropy_alone_asks_no_teacher(teacher, student, tmp_path, monkeypatch):
    asked = []
    original = stage.load_model
    monkeypatch.setattr(
        stage, "load_model", lambda folder, device="cpu": asked.append(folder) or original(folder, device)
    )
    options = OPTIONS.model_copy(update={"loss": "cross_entropy", "tokens": 4 * LENGTH})
    stage.run(options, context(tmp_path, student, teacher=teacher))
    assert asked == [student]


def test_a_resume_equals_a_straight_run(teacher, student, tmp_path, monkeypatch):
    class StopError(BaseException):
        pass

    original, whole = loop.seal, []

    def seal(checkpoint):
        if whole:
            raise StopError
        original(checkpoint)
        whole.append(checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "seal", seal)
        with pytest.raises(StopError):
            stage.run(OPTIONS, context(tmp_path / "a", student, teacher=teacher))
    stage.run(OPTIONS, context(tmp_path / "a", student, teacher=teacher))
    stage.run(OPTIONS, context(tmp_path / "b", student, teacher=teacher))
    assert hashes(tmp_path / "a" / "target") == hashes(tmp_path / "b" / "target")


KEPT = [0, 1, 2, *range(5, 60, 2)]
BEGINS = [KEPT.index(index) if index in KEPT else index % 7 if index < 50 else -1 for index in range(60)]


def cut_student(teacher, folder, kept):
    """Write the teacher with the tokens `kept` alone, and the map of them."""
    model = load_model(teacher)
    rows = model.get_input_embeddings().weight.data[kept].clone()
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data.copy_(rows)
    save_model(model, folder, teacher)
    words = {f"w{index}": place for place, index in enumerate(kept)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    map_after(teacher, kept, BEGINS).write(folder)
    return folder


def test_a_student_with_fewer_tokens_learns_from_the_teachers_columns(teacher, tmp_path):
    kept = KEPT
    student = cut_student(teacher, tmp_path / "cut", kept)
    data = Data()
    for name, part in data.parts.items():
        data.parts[name] = dataclasses.replace(part, ids=part.ids % len(kept))
    options = OPTIONS.model_copy(update={"loss": "forward_kl", "tokens": 4 * LENGTH, "learning_rate": 1e-9})
    stage.run(options, context(tmp_path / "a", student, data, teacher=teacher))
    assert read_map(tmp_path / "a" / "target") == read_map(student)

    other = cut_student(write_model(tmp_path / "other", seed=7), tmp_path / "other-cut", kept)
    options = options.model_copy(update={"temperature": 2.0})
    ctx = context(tmp_path / "b", other, data, teacher=teacher)
    found = stage.run(options, ctx).facts["first_loss"]
    examples = loop.load_examples(ctx, options)
    ids = torch.stack([loop.WindowSequence(examples, 4, 0)[index]["input_ids"] for index in range(4)]).numpy()
    counted = np.ones((4, LENGTH - 1), dtype=bool)
    chances = np.exp(logits_of(teacher, np.array(kept)[ids]).astype(np.float64) / 2.0)
    gathered = np.zeros((*chances.shape[:-1], len(kept)))
    for index, begin in enumerate(BEGINS):
        gathered[..., begin] += chances[..., index] * (begin >= 0)
    asked = 2.0 * np.log(gathered)
    assert found == pytest.approx(slow_forward_kl(logits_of(other, ids), asked, counted, 2.0) / counted.sum(), rel=1e-5)


def test_other_tokens_are_refused_before_any_weight_is_loaded(teacher, student, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(StageError, match="distill needs a teacher, the recipe has none; add teacher"):
        stage.run(OPTIONS, context(tmp_path, student))
    other = write_model(tmp_path / "other", vocabulary=61)
    with pytest.raises(
        StageError, match="the teacher has 60 tokens, the student 61; both must have the same tokenizer"
    ):
        stage.run(OPTIONS, context(tmp_path, other, teacher=teacher))
    text = (other / "tokenizer.json").read_text()
    same_size = write_model(tmp_path / "same-size")
    (same_size / "tokenizer.json").write_text(text)
    with pytest.raises(StageError, match=r"teacher and student have different tokenizer\.json"):
        stage.run(OPTIONS, context(tmp_path, same_size, teacher=teacher))
    VocabularyMap("0" * 64, 60, tuple(range(60)), tuple(range(60))).write(same_size)
    with pytest.raises(
        StageError, match=r"^distill: the student's vocabulary was cut from another one than the teacher's"
    ):
        stage.run(OPTIONS, context(tmp_path, same_size, teacher=teacher))
