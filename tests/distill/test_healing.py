"""Distill of a quantized student: the defaults, what is validated is what is written, and a resume."""

from __future__ import annotations

import json

import pytest
import torch

from compress.contract import Context
from compress.distill import stage
from compress.distill.options import HIDDEN_WEIGHT, DistillOptions
from compress.models import quantized
from compress.quantize.options import QuantizeOptions
from compress.quantize.stage import run as quantize
from compress.train.options import TrainOptions
from compress.train.stage import run as train
from compress.training import loop, trainer
from compress.training.rounding import rounded_weights
from tests.distill.test_stage import kl
from tests.training.tiny_fit import LENGTH, Data, context, hashes, trained_model, write_model

OPTIONS = DistillOptions(tokens=40 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=4, learning_rate=3e-3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return trained_model(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def early(teacher, tmp_path_factory):
    """The teacher before it had learned all: of so small a model the rounding alone costs next to nothing."""
    folder = tmp_path_factory.mktemp("early")
    options = TrainOptions(tokens=25 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=0, learning_rate=1e-2)
    train(options, context(folder, teacher.parent / "source"))
    return folder / "target"


@pytest.fixture(scope="module")
def int4(early, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int4")
    quantize(QuantizeOptions(bits=4, block=32, symmetric=False), Context(early, folder, folder, 0))
    return folder


def test_healing_lowers_kl_and_what_is_validated_is_what_is_written(teacher, early, int4, tmp_path):
    data = Data()
    outcome = stage.run(OPTIONS, context(tmp_path, int4, data, teacher=teacher, origin=early))
    target = tmp_path / "target"
    assert quantized.is_quantized(target)
    before, after = kl(int4, teacher, data), kl(target, teacher, data)
    assert after < before / 1.5
    last = [json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()][-1]
    assert last["validation_forward_kl"] == pytest.approx(after, rel=1e-3)
    assert outcome.facts["loss"] == {"forward_kl": 1.0, "hidden_mse": HIDDEN_WEIGHT}
    assert outcome.facts["optimizer"] == "adamw"


def test_the_sizes_of_the_inputs_are_measured_before_the_first_step(teacher, early, int4, tmp_path, monkeypatch):
    sizes = []

    def note(learner, *_):
        sizes.extend(rounding.input_sizes.clone() for _, rounding, _ in rounded_weights(learner.model))
        return optimizer(learner, *_)

    optimizer = trainer.make_optimizer
    monkeypatch.setattr(trainer, "make_optimizer", note)
    options = OPTIONS.model_copy(update={"tokens": 4 * LENGTH})
    stage.run(options, context(tmp_path, int4, teacher=teacher, origin=early))
    assert len(sizes) > 10
    for size in sizes:
        assert float(size.std()) > 0.01
        assert float(size.log().mean()) == pytest.approx(0, abs=1e-4)


def test_a_resume_equals_a_straight_run(teacher, early, int4, tmp_path, monkeypatch):
    straight, broken = (context(tmp_path / name, int4, teacher=teacher, origin=early) for name in ("one", "two"))
    stage.run(OPTIONS, straight)

    class PulledPlugError(Exception):
        pass

    def pull(done, total, *_, **__):
        if done > 0.6 * total:
            raise PulledPlugError

    with pytest.raises(PulledPlugError):
        stage.run(OPTIONS, context(tmp_path / "two", int4, teacher=teacher, origin=early, progress=pull))
    assert loop.newest(tmp_path / "two" / "scratch" / loop.FOLDER) is not None
    stage.run(OPTIONS, broken)
    assert hashes(tmp_path / "two" / "target") == hashes(tmp_path / "one" / "target")


def test_a_student_with_states_of_its_own_is_healed_by_forward_kl_alone(teacher, tmp_path):
    other, folder = write_model(tmp_path / "other", seed=9), tmp_path / "int8"
    folder.mkdir()
    quantize(QuantizeOptions(bits=8), Context(other, folder, folder, 0))
    torch.manual_seed(0)
    options = OPTIONS.model_copy(update={"tokens": 4 * LENGTH})
    outcome = stage.run(options, context(tmp_path / "healed", folder, teacher=teacher, origin=other))
    assert outcome.facts["loss"] == {"forward_kl": 1.0}
