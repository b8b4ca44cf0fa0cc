"""Curves besides the report: what is refused, where files go, and that nothing of it reaches an artifact or its key."""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import pytest
import transformers.integrations

from compress.check import open_recipe
from compress.errors import MissingExtra, RecipeError, StageError
from compress.train.options import TrainOptions
from compress.train.stage import run
from compress.training.trackers import curve_callbacks, refuse_missing
from tests.training.tiny_fit import LENGTH, context, hashes, write_model

OPTIONS = TrainOptions(tokens=8 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=2, report_to=("tensorboard",))
EXTRA = "tensorboard needs an extra that is not installed. Install it: pip install 'compress-workbench[tensorboard]'"


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_where_curves_go_is_no_part_of_the_key():
    assert "report_to" not in OPTIONS.model_dump(mode="json")
    assert OPTIONS.report_to == ("tensorboard",)


@pytest.mark.usefixtures("nothing_installed")
def test_a_tracker_that_is_not_installed_is_refused_before_weights_are_loaded(tmp_path, monkeypatch):
    source = write_model(tmp_path / "source")
    (source / "model.safetensors").unlink()
    with pytest.raises(MissingExtra) as caught:
        run(OPTIONS, context(tmp_path, source))
    assert str(caught.value) == f"report_to: {EXTRA}"
    for name in ("wandb", "mlflow"):
        with pytest.raises(StageError) as caught:
            refuse_missing((name,))
        assert str(caught.value) == (
            f"report_to: {name} needs a package that is not installed. Install it: pip install {name}"
        )


def test_check_refuses_it_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.training.trackers.importlib.util.find_spec", lambda name: None)
    path = tmp_path / "r.yaml"
    path.write_text(
        f"recipe: 1\nname: r\nstudent: {{model: {write_model(tmp_path / 'source')}}}\n"
        "data: {train: {builtin: stories}}\nbenchmark: false\n"
        "stages:\n  - train: {tokens: 100, length: 16, report_to: [tensorboard]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        open_recipe(path)
    problem = caught.value.problems[0]
    assert (problem.line, problem.message) == (7, f"stages[0].train.report_to: {EXTRA}")


def test_tensorboard_files_stand_beside_the_artifact_and_a_resume_goes_on_in_them(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    source = write_model(tmp_path / "source")
    plain = context(tmp_path / "plain", source)
    run(OPTIONS.model_copy(update={"report_to": ()}), plain)

    class StopHere(BaseException):
        pass

    def stop(done, *_, **__):
        if done == 6 * 4 * LENGTH:
            raise StopHere

    watched = dataclasses.replace(context(tmp_path, source), curves=tmp_path / "curves" / "student")
    with pytest.raises(StopHere):
        run(OPTIONS, dataclasses.replace(watched, progress=stop))
    run(OPTIONS, watched)
    assert hashes(watched.target) == hashes(plain.target)
    events = EventAccumulator(str(watched.curves))
    events.Reload()
    names = {"train/loss", "train/cross_entropy", "train/grad_norm", "eval/loss", "eval/cross_entropy"}
    assert names <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))


def test_wandb_stays_offline_where_the_hub_is(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.integrations, "WandbCallback", lambda: "wandb")
    ctx = context(tmp_path, tmp_path)
    for given, offline, expected in ((None, "0", None), (None, "1", "offline"), ("online", "1", "online")):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        monkeypatch.setenv("WANDB_MODE", given or "")
        if given is None:
            monkeypatch.delenv("WANDB_MODE")
        assert curve_callbacks(("wandb",), ctx) == ["wandb"]
        assert os.environ.get("WANDB_MODE") == expected
    assert curve_callbacks((), ctx) == []


def test_the_first_process_alone_reports(tmp_path, monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    assert curve_callbacks(("tensorboard",), context(tmp_path, tmp_path)) == []
