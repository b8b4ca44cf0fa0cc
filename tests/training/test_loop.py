"""The Trainer wiring: the same bytes whatever happens on the way, and the numbers that were asked for."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from compress.errors import StageError
from compress.models.folder import load_model
from compress.train.options import TrainOptions
from compress.train.stage import run
from compress.training import loop, trainer
from compress.training.losses import UNCOUNTED
from compress.training.objective import CrossEntropy
from compress.training.windows import WindowSequence, load_examples, stack
from tests.references.training import slow_cross_entropy
from tests.training.tiny_fit import LENGTH, Data, context, hashes, write_model

OPTIONS = TrainOptions(tokens=16 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=4, learning_rate=3e-3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "source")


@pytest.fixture(scope="module")
def straight(source, tmp_path_factory):
    """The folder of a straight run."""
    folder = tmp_path_factory.mktemp("straight")
    run(OPTIONS, context(folder, source))
    return folder / "target"


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(folder):
    return load_model(folder).state_dict()


class Stop(BaseException):
    """Stands for a kill."""


def stop_after(monkeypatch, saves):
    """Kill the run while it writes the checkpoint after `saves` whole ones."""
    whole = []
    original = trainer.seal

    def seal(checkpoint, keep=None):
        if len(whole) == saves:
            (checkpoint / "optimizer.pt").write_bytes(b"torn")
            raise Stop
        original(checkpoint, keep)
        whole.append(checkpoint)

    monkeypatch.setattr(trainer, "seal", seal)
    return whole


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(source, straight, tmp_path):
    run(OPTIONS, context(tmp_path / "a", source))
    assert hashes(tmp_path / "a" / "target") == hashes(straight)
    run(OPTIONS, context(tmp_path / "b", source, seed=1))
    different = {name for name, digest in hashes(tmp_path / "b" / "target").items() if digest != hashes(straight)[name]}
    assert different == {"model.safetensors", "log.jsonl"}


@pytest.mark.parametrize("saves", [0, 1, 3])
def test_a_resume_equals_a_straight_run_bit_for_bit(source, straight, tmp_path, monkeypatch, saves):
    with monkeypatch.context() as patch:
        whole = stop_after(patch, saves)
        with pytest.raises(Stop):
            run(OPTIONS, context(tmp_path, source))
    torn = tmp_path / "scratch" / "training" / f"checkpoint-{4 * (saves + 1)}"
    assert torn.is_dir()
    assert [path.name for path in whole] == [f"checkpoint-{4 * (index + 1)}" for index in range(saves)]
    steps = []
    resumed = dataclasses.replace(
        context(tmp_path, source), progress=lambda done, total, unit="", note="": steps.append(done)
    )
    assert run(OPTIONS, resumed).facts["optimizer"] == "muon"
    assert len(steps) == 16 - 4 * saves
    assert hashes(tmp_path / "target") == hashes(straight)


def test_a_resume_from_the_last_step_has_nothing_left_to_do(source, straight, tmp_path):
    first = context(tmp_path, source)
    run(OPTIONS, first)
    shutil.rmtree(first.target)
    first.target.mkdir()
    steps = []
    again = dataclasses.replace(first, progress=lambda done, total, unit="", note="": steps.append(done))
    run(OPTIONS, again)
    assert steps == []
    assert hashes(first.target) == hashes(straight)


def test_the_resume_reads_the_checkpoint(source, tmp_path, monkeypatch):
    """A mark in the checkpoint's log shows up in the result."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stop):
            run(OPTIONS, context(tmp_path, source))
    checkpoint = tmp_path / "scratch" / "training" / "checkpoint-8"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    state["log_history"][0]["loss"] = 123.0
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    trainer.seal(checkpoint)
    run(OPTIONS, context(tmp_path, source))
    assert log_of(tmp_path / "target")[0]["loss"] == 123.0


def test_the_log_has_every_step_once_and_validation_once_a_point(straight):
    log = log_of(straight)
    names = {"step", "tokens", "loss", "cross_entropy", "learning_rate", "gradient_norm"}
    assert all(
        entry.keys() in (names, {"step", "tokens", "validation_loss", "validation_cross_entropy"}) for entry in log
    )
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 17))
    assert [entry["step"] for entry in log if "validation_loss" in entry] == [4, 8, 12, 16]
    assert all(entry["tokens"] == entry["step"] * 4 * LENGTH for entry in log)
    assert not any("time" in name or "second" in name or name == "epoch" for entry in log for name in entry)
    assert log[-2]["loss"] < log[0]["loss"]


def test_the_last_steps_are_logged_where_the_interval_does_not_divide_them(source, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_ENTRIES", 4)
    options = OPTIONS.model_copy(update={"tokens": 15 * 4 * LENGTH, "checkpoints": 0})
    outcome = run(options, context(tmp_path, source))
    assert [entry["step"] for entry in log_of(tmp_path / "target")] == [3, 6, 9, 12, 15]
    assert outcome.facts["steps"] == 15
    assert outcome.facts["tokens"] == 15 * 4 * LENGTH
    assert "validation_loss" not in outcome.facts


def test_the_first_loss_equals_the_slow_restatement(source, tmp_path):
    ctx = context(tmp_path, source, Data(counted=0.7))
    examples = load_examples(ctx, OPTIONS)
    before = load_model(source)
    fitted = loop.fit(load_model(source), examples, OPTIONS, CrossEntropy(), ctx)
    sequence = WindowSequence(examples, 64, ctx.seed)
    batch = stack([sequence[index] for index in range(4)])
    with torch.no_grad():
        logits = before(input_ids=batch["input_ids"]).logits[:, :-1].numpy()
    targets = batch["labels"][:, 1:].numpy()
    slow = slow_cross_entropy(logits, targets, UNCOUNTED) / (targets != UNCOUNTED).sum()
    assert fitted.log[0]["loss"] == pytest.approx(slow, rel=1e-5)
    assert fitted.log[0]["cross_entropy"] == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize(("optimizer", "bound"), [("adamw", 1e-5), ("muon", 2e-4)])
def test_accumulated_pieces_equal_the_whole_batch(source, tmp_path, optimizer, bound):
    """Pieces hold different numbers of counted tokens: means of means would differ. Muon rounds its steps to bfloat16."""
    data = Data(counted=0.4)
    for pieces in (1, 4):
        changed = {"accumulate": pieces, "tokens": 4 * 4 * LENGTH, "optimizer": optimizer}
        options = OPTIONS.model_copy(update=changed)
        run(options, context(tmp_path / str(pieces), source, data))
    whole, cut = (weights_of(tmp_path / name / "target") for name in ("1", "4"))
    assert max(float((whole[name] - cut[name]).abs().max()) for name in whole) < bound
    losses = [[entry["loss"] for entry in log_of(tmp_path / name / "target") if "loss" in entry] for name in ("1", "4")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_bf16_trains_and_keeps_float32_weights(source, straight, tmp_path):
    run(OPTIONS.model_copy(update={"precision": "bf16"}), context(tmp_path, source))
    weights = weights_of(tmp_path / "target")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    losses = [
        [entry["loss"] for entry in log_of(folder) if "loss" in entry] for folder in (tmp_path / "target", straight)
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_uncounted_tokens_are_no_targets(source, tmp_path):
    """Uncounted ids at the end of windows can be anything, as nothing counted stands behind them."""
    results = []
    for replacement in (5, 9):
        data = Data()
        part = data.parts["train"]
        ids, counted = part.ids.copy().reshape(-1, LENGTH), part.counted.copy().reshape(-1, LENGTH)
        ids[:, -4:], counted[:, -4:] = replacement, False
        data.parts["train"] = dataclasses.replace(part, ids=ids.reshape(-1), counted=counted.reshape(-1))
        run(OPTIONS, context(tmp_path / str(replacement), source, data))
        results.append(hashes(tmp_path / str(replacement) / "target")["model.safetensors"])
    assert results[0] == results[1]


def test_weights_that_are_no_numbers_are_not_written(source, tmp_path):
    class InfiniteGradient(CrossEntropy):
        def sums(self, model, batch):
            total, terms = super().sums(model, batch)
            return (total - total.detach()).abs().sqrt(), terms

    ctx = context(tmp_path, source)
    options = OPTIONS.model_copy(update={"tokens": 4 * LENGTH, "checkpoints": 0})
    with pytest.raises(StageError, match="the weights are not finite after step 1"):
        loop.fit(load_model(source), load_examples(ctx, options), options, InfiniteGradient(), ctx)


def test_a_recipe_decides_the_number_format_and_no_launcher(source, straight, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run(OPTIONS, context(tmp_path, source))
    assert hashes(tmp_path / "target") == hashes(straight)


def test_epochs_are_passes_over_the_windows(source, tmp_path):
    options = TrainOptions(epochs=1.5, length=LENGTH, batch=4, checkpoints=0)
    outcome = run(options, context(tmp_path, source))
    windows = 1600 // LENGTH
    assert outcome.facts["steps"] == round(1.5 * windows / 4)
    assert outcome.facts["tokens"] == outcome.facts["steps"] * 4 * LENGTH


def test_short_validation_is_left_out(source, tmp_path):
    outcome = run(OPTIONS, context(tmp_path, source, Data(validation=LENGTH - 1)))
    assert "validation_loss" not in outcome.facts
    assert outcome.facts["last_loss"] < outcome.facts["first_loss"]


@pytest.mark.parametrize(
    ("steps", "checkpoints", "expected"), [(16, 4, (1, 4)), (1000, 3, (5, 330)), (3, 10, (1, 1)), (450, 0, (2, 450))]
)
def test_checkpoints_fall_on_logged_steps(steps, checkpoints, expected):
    assert loop.intervals(steps, checkpoints) == expected


def test_a_trained_folder_opens_like_any_other(source, straight):
    assert sorted(hashes(straight)) == [
        "config.json",
        "generation_config.json",
        "log.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert weights_of(straight).keys() == weights_of(source).keys()
    assert json.loads((straight / "config.json").read_text()) == json.loads((source / "config.json").read_text())
