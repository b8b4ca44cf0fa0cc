"""The two phases of a quantized student: codes, then scales alone."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from compress.contract import Context
from compress.models.quantized import QuantizedFile
from compress.quantize.options import QuantizeOptions
from compress.quantize.stage import run as quantize
from compress.train.options import TrainOptions
from compress.train.stage import run as train
from compress.training import phases
from compress.training.optimizer import GRID_RATE, make_optimizer
from compress.training.phases import SCALES_RATE, steps_with_codes, two_phases
from compress.training.rounding import fix_codes, open_student, rounded_weights
from tests.training.tiny_fit import LENGTH, context, hashes, write_model

OPTIONS = TrainOptions(tokens=50 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=10, learning_rate=3e-3)

TYPICAL = 0.01


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "source")


@pytest.fixture(scope="module", params=[True, False], ids=["symmetric", "asymmetric"])
def int4(request, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int4")
    quantize(QuantizeOptions(bits=4, symmetric=request.param), Context(source, folder, folder, 0))
    return folder


def rates(options, steps, model):
    optimizer = make_optimizer(model, "adamw", 1.0, 0.0)
    schedule = two_phases(optimizer, options, steps, TYPICAL)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_the_schedule_is_gone_through_twice_and_scales_go_slowly_the_first_time(int4, name):
    options = OPTIONS.model_copy(update={"schedule": name, "warmup": 0.1})
    found = rates(options, 100, open_student(int4))
    first = steps_with_codes(100)
    assert first == 80
    matrices, _, scales = zip(*found, strict=True)
    assert matrices[0] == matrices[first] == 0.0
    assert matrices[8] == matrices[first + 2] == 1.0
    assert scales[:first] == pytest.approx([GRID_RATE * rate for rate in matrices[:first]])
    # what suits codes says nothing of scales
    assert scales[first:] == pytest.approx([SCALES_RATE * TYPICAL * rate for rate in matrices[first:]])
    if name == "constant":
        assert matrices[first - 1] == matrices[-1] == 1.0
    else:
        assert 0 < matrices[first - 1] < 0.03
        assert 0 < matrices[-1] < 0.06


def test_a_run_of_a_few_steps_learns_codes_alone():
    assert [steps_with_codes(steps) for steps in (1, 4, 5, 10)] == [1, 4, 4, 8]


def test_fixed_codes_stay_and_scales_move(int4):
    model = open_student(int4)
    fix_codes(model)
    before = {name: rounding.to_stored(learned) for name, rounding, learned in rounded_weights(model)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ids = torch.arange(32).reshape(2, LENGTH)
    for _ in range(5):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        assert all(learned.grad is None for _, _, learned in rounded_weights(model))
        optimizer.step()
    for name, rounding, learned in rounded_weights(model):
        after = rounding.to_stored(learned)
        assert (after.codes == before[name].codes).all()
        assert (after.scales != before[name].scales).any()


def test_the_gradient_of_scales_is_that_of_the_product(int4):
    model = open_student(int4)
    fix_codes(model)
    _, rounding, learned = next(rounded_weights(model))
    slope = torch.randn(learned.shape, generator=torch.Generator().manual_seed(0))
    (rounding(learned) * slope).sum().backward()

    def value(change):
        with torch.no_grad():
            rounding.scale_changes[0, 0] += change
            rounding.forget()
            found = float((rounding(learned).double() * slope).sum())
            rounding.scale_changes[0, 0] -= change
        return found

    step = 1e-3 * float(rounding.unit)
    assert float(rounding.scale_changes.grad[0, 0]) == pytest.approx((value(step) - value(-step)) / 2 / step, rel=1e-2)


def test_the_stage_fixes_codes_at_four_fifths(int4, tmp_path, monkeypatch):
    noted = []

    def note(learner: nn.Module) -> None:
        fix_codes(learner)
        noted.append({name: rounding.to_stored(learned) for name, rounding, learned in rounded_weights(learner.model)})

    monkeypatch.setattr(phases, "fix_codes", note)
    train(OPTIONS, context(tmp_path, int4))
    assert len(noted) == 10  # of 50 steps
    moved = 0
    with QuantizedFile(tmp_path / "target") as written, QuantizedFile(int4) as before:
        for name, fixed in noted[0].items():
            last = written.read(name)
            assert (last.codes == fixed.codes).all()
            assert (last.scales != fixed.scales).any()
            moved += int((before.read(name).codes != fixed.codes).sum())
    assert moved > 100


@pytest.mark.parametrize("at", [0.5, 0.85, 0.95])
def test_a_resume_in_either_phase_equals_a_straight_run(int4, tmp_path, at):
    class PulledPlugError(Exception):
        pass

    def pull(done, total, *_, **__):
        if done > at * total:
            raise PulledPlugError

    train(OPTIONS, context(tmp_path / "straight", int4))
    broken = context(tmp_path / "broken", int4)
    with pytest.raises(PulledPlugError):
        train(OPTIONS, dataclasses.replace(broken, progress=pull))
    train(OPTIONS, broken)
    assert hashes(tmp_path / "broken" / "target") == hashes(tmp_path / "straight" / "target")


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_alone_do_not_undo_what_codes_learned(source, tmp_path, bits):
    train(OPTIONS.model_copy(update={"learning_rate": 1e-2}), context(tmp_path / "trained", source))
    trained, folder = tmp_path / "trained" / "target", tmp_path / "quantized"
    folder.mkdir()
    quantize(QuantizeOptions(bits=bits), Context(trained, folder, folder, 0))
    for rate in (None, 1e-3):  # the product's own, and one that is high for these codes
        ctx = context(tmp_path / f"{bits}-{rate}", folder, origin=trained)
        train(OPTIONS.model_copy(update={"learning_rate": rate}), ctx)
        losses = {
            entry["step"]: entry["validation_loss"]
            for entry in map(json.loads, (ctx.target / "log.jsonl").read_text().splitlines())
            if "validation_loss" in entry
        }
        assert losses[50] < losses[40] + 0.002


def test_patience_counts_once_the_codes_are_fixed(int4, tmp_path):
    ctx = context(tmp_path, int4)
    train(OPTIONS.model_copy(update={"patience": 1}), ctx)
    steps = [json.loads(line)["step"] for line in (ctx.target / "log.jsonl").read_text().splitlines()]
    assert max(steps) > steps_with_codes(50)


def test_the_default_rate_follows_the_grid(source, tmp_path):
    rates = {}
    for bits in (4, 8):
        folder = tmp_path / str(bits)
        folder.mkdir()
        quantize(QuantizeOptions(bits=bits), Context(source, folder, folder, 0))
        ctx = context(tmp_path / f"run-{bits}", folder)
        options = OPTIONS.model_copy(update={"learning_rate": None, "tokens": 4 * LENGTH})
        rates[bits] = train(options, ctx).facts["learning_rate"]
    assert 12 < rates[4] / rates[8] < 22
