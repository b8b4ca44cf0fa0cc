"""Fading: what guides a student inside loses its weight over the run; never without effect, never to nothing."""

from __future__ import annotations

import dataclasses
import json

import pytest

from compress.distill import stage
from compress.distill.options import HIDDEN_WEIGHT, DistillOptions
from compress.errors import StageError
from tests.training.tiny_fit import LENGTH, context, write_model

OPTIONS = DistillOptions(tokens=8 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=4, learning_rate=5e-3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("teacher") / "source")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("student") / "source", seed=5, layers=1)


def test_hidden_states_guide_less_and_less_where_they_fade(teacher, tmp_path):
    options = OPTIONS.model_copy(update={"loss": {"forward_kl": 1.0, "hidden_mse": 3.0}, "tokens": 8 * 4 * LENGTH})
    for fade in (True, False):
        ctx = context(tmp_path / str(fade), teacher, teacher=teacher)
        student = write_model(tmp_path / f"student-{fade}", seed=5)
        stage.run(options.model_copy(update={"fade": fade}), dataclasses.replace(ctx, source=student))
        entries = [json.loads(line) for line in (ctx.target / "log.jsonl").read_text().splitlines()]
        learned = [entry for entry in entries if "loss" in entry]
        assert len(learned) == 8
        for entry in learned:
            weight = 3.0 * (1 - (entry["step"] - 1) / 8) if fade else 3.0
            assert entry["loss"] == pytest.approx(entry["forward_kl"] + weight * entry["hidden_mse"], rel=1e-4)
        last = [entry for entry in entries if "validation_loss" in entry][-1]
        weight = 0.0 if fade else 3.0  # what is validated is what the run ends with
        expected = last["validation_forward_kl"] + weight * last["validation_hidden_mse"]
        assert last["validation_loss"] == pytest.approx(expected, rel=1e-4)


def test_fading_of_nothing_and_to_nothing_is_refused(teacher, student, tmp_path):
    for loss in ("forward_kl", "cross_entropy"):
        with pytest.raises(ValueError, match=rf"fade is for hidden_mse, .*, and the loss is {loss}; add one"):
            DistillOptions(tokens=1, loss=loss, fade=True)
    with pytest.raises(ValueError, match="fade would leave nothing to learn at the end; add one of forward_kl"):
        DistillOptions(tokens=1, loss="hidden_mse", fade=True)
    options = OPTIONS.model_copy(update={"loss": None, "fade": True})
    with pytest.raises(StageError, match="fade is for losses of hidden states and attention, and none is meant here"):
        stage.run(options, context(tmp_path, student, teacher=teacher))
    kept = DistillOptions(tokens=1, fade=False).resolved(True)
    assert (kept.fade, kept.weights()) == (False, {"forward_kl": 1.0, "hidden_mse": HIDDEN_WEIGHT})
