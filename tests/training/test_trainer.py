"""What the Trainer is told: losses that are no numbers, terms, validation, and the end of patience."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from compress.errors import StageError
from compress.models.folder import load_model
from compress.train.options import TrainOptions
from compress.training.finish import facts_of
from compress.training.loop import fit
from compress.training.losses import UNCOUNTED
from compress.training.objective import CrossEntropy, Learner
from compress.training.trainer import best_step, is_over, validate
from compress.training.windows import WindowSequence, load_examples
from tests.references.training import slow_cross_entropy
from tests.training.tiny_fit import LENGTH, Data, context, write_model

OPTIONS = TrainOptions(tokens=16 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "source")


class Broken(CrossEntropy):
    """Gives no number at a call, and a second term that is twice the first and weighs a quarter."""

    def __init__(self, call=0):
        super().__init__()
        self.weights = {"cross_entropy": 1.0, "double": 0.25}
        self.call, self.calls = call, 0

    def sums(self, model, batch):
        total, terms = super().sums(model, batch)
        self.calls += 1
        factor = float("nan") if self.calls == self.call else 1.5
        return total * factor, terms | {"double": 2 * total.detach()}


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_windows(source, tmp_path):
    ctx = context(tmp_path, source)
    examples = load_examples(ctx, OPTIONS)
    windows = ", ".join(map(str, WindowSequence(examples, 64, ctx.seed).starts[4:8] // examples.ids.shape[1]))
    with pytest.raises(StageError) as caught:
        fit(load_model(source), examples, OPTIONS.model_copy(update={"checkpoints": 0}), Broken(call=2), ctx)
    assert str(caught.value) == (
        f"the loss is nan at step 2 (windows {windows} of train); use a lower learning_rate or precision: fp32"
    )


def test_each_term_is_a_mean_over_the_counted_tokens_of_its_steps(source, tmp_path, monkeypatch):
    monkeypatch.setattr("compress.training.loop.LOG_ENTRIES", 4)
    ctx = context(tmp_path, source, Data(counted=0.5))
    options = OPTIONS.model_copy(update={"accumulate": 2, "checkpoints": 2})
    log = fit(load_model(source), load_examples(ctx, options), options, Broken(), ctx).log
    learned = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in learned] == [4, 8, 12, 16]
    for entry in learned:
        assert entry["double"] == pytest.approx(2 * entry["cross_entropy"], rel=1e-6)
        # the loss is a mean of steps, the terms one of tokens: steps have about as many
        assert entry["loss"] == pytest.approx(1.5 * entry["cross_entropy"], rel=2e-2)
    for entry in (entry for entry in log if "validation_loss" in entry):
        assert entry["validation_loss"] == pytest.approx(1.5 * entry["validation_cross_entropy"], rel=1e-6)
        assert entry["validation_double"] == pytest.approx(2 * entry["validation_cross_entropy"], rel=1e-6)


def test_validation_is_the_mean_over_counted_tokens(source, tmp_path):
    examples = load_examples(context(tmp_path, source, Data(counted=0.5)), OPTIONS)
    model, objective = load_model(source), CrossEntropy()
    learner = Learner(model, objective).train()
    found = validate(learner, examples, 3)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(examples.validation_ids)).logits[:, :-1].numpy()
    targets = np.where(examples.validation_counted, examples.validation_ids, UNCOUNTED)[:, 1:]
    slow = slow_cross_entropy(logits, targets, UNCOUNTED) / (targets != UNCOUNTED).sum()
    assert found == pytest.approx({"loss": slow, "cross_entropy": slow}, rel=1e-5)
    assert found == pytest.approx(validate(learner, examples, 64), rel=1e-6)
    assert learner.training


class Worse(CrossEntropy):
    """Learns, and is told that its validation gets worse from the third one on."""

    def __init__(self, losses):
        super().__init__()
        self.losses = list(losses)

    def sums(self, model, batch):
        total, terms = super().sums(model, batch)
        if batch.part == "validation":
            counted = float((batch.targets != UNCOUNTED).sum())
            total = torch.tensor(self.losses[0] * counted)
            self.losses.pop(0)
        return total, terms


PATIENT = OPTIONS.model_copy(update={"patience": 2, "batch": 32, "tokens": 16 * 32 * LENGTH})
LOSSES = (5.0, 4.0, 3.0, 3.5, 3.2, 1.0, 1.0, 1.0)


def patient(source, folder, losses=LOSSES, **more):
    ctx = dataclasses.replace(context(folder, source), **more)
    examples = load_examples(ctx, PATIENT)
    model = load_model(source)
    return model, fit(model, examples, PATIENT, Worse(losses), ctx)


def test_patience_stops_and_keeps_the_weights_of_the_lowest_loss(source, tmp_path):
    model, fitted = patient(source, tmp_path)
    assert [entry["validation_loss"] for entry in fitted.log if "validation_loss" in entry] == [5.0, 4.0, 3.0, 3.5, 3.2]
    assert fitted.kept == 6
    facts = facts_of(fitted)
    assert (facts["steps"], facts["tokens"], facts["kept_step"]) == (10, 10 * 32 * LENGTH, 6)
    assert facts["validation_loss"] == 3.0
    left = sorted(path.name for path in (tmp_path / "scratch" / "training").iterdir())
    assert left == ["checkpoint-10", "checkpoint-6"]

    weights = {}

    def remember(done, total, unit="", note=""):
        if done == 6 * 32 * LENGTH:
            weights.update({name: value.clone() for name, value in other.state_dict().items()})

    ctx = dataclasses.replace(context(tmp_path / "other", source), progress=remember)
    other = load_model(source)
    fit(other, load_examples(ctx, PATIENT), PATIENT, Worse(LOSSES), ctx)
    assert weights
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_resume_after_the_end_of_patience_learns_no_more(source, tmp_path):
    model, fitted = patient(source, tmp_path)
    steps = []
    again, resumed = patient(source, tmp_path, (), progress=lambda done, *_, **__: steps.append(done))
    assert steps == []
    assert resumed == fitted
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_resume_counts_the_validations_before_it(source, tmp_path):
    class StopHere(BaseException):
        pass

    def stop(done, *_, **__):
        if done == 9 * 32 * LENGTH:
            raise StopHere

    straight, fitted = patient(source, tmp_path / "straight")
    with pytest.raises(StopHere):
        patient(source, tmp_path, progress=stop)
    model, resumed = patient(source, tmp_path, LOSSES[4:])
    assert resumed == fitted
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in model.state_dict().items())


def test_patience_without_a_validation_window_is_refused(source, tmp_path):
    ctx = context(tmp_path, source, Data(validation=LENGTH - 1))
    with pytest.raises(StageError) as caught:
        fit(load_model(source), load_examples(ctx, PATIENT), PATIENT, CrossEntropy(), ctx)
    assert str(caught.value) == "patience needs validation windows, and data.validation has less than one; leave it out"


def test_the_first_of_equal_losses_is_the_best():
    history = [{"eval_loss": loss, "step": step} for step, loss in ((2, 3.0), (4, 1.0), (6, 1.0))] + [{"loss": 0.0}]
    assert best_step(history) == 4
    assert is_over(history, 1)
    assert not is_over(history, 2)
    assert not is_over([], 1)
    assert best_step([]) is None
