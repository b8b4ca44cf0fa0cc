"""Several processes do what one does: the same curves, one artifact, and no process that waits for one that is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from torch.distributed import HashStore

from compress.check import open_recipe
from compress.cli import main
from compress.distributed import (
    FirstProcessError,
    Launch,
    Process,
    Silent,
    is_first,
    meet,
    process,
    refuse_sharding,
    windows_per_piece,
)
from compress.errors import CommandError, StageError
from compress.pipeline import apply
from tests import fsdp_on_cpu
from tests.tiny_run import environment, random_teacher

RECIPE = """\
recipe: 1
name: tiny
seed: 3
teacher: {model: %s}
data: {train: {builtin: stories, seed: 2, documents: 100}}
stages:
  - train:   {id: trained, tokens: 3072, length: 32, batch: 8, accumulate: 2, checkpoints: 6, optimizer: adamw}
  - distill: {id: student, tokens: 2048, length: 32, batch: 8, checkpoints: 2}
  - quantize: {id: int4, from: teacher, bits: 4}
  - distill: {id: healed, tokens: 1536, length: 32, batch: 8, accumulate: 2, checkpoints: 1}
benchmark: false
"""
LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "bf16", "--dynamo_backend", "no", "--main_process_port", "0"),
)


def start(*launcher, recipe, out, what=("-m", "compress"), **variables):
    command = [sys.executable, *(("-m", *launcher) if launcher else ()), *what, "apply", str(recipe), "--out", str(out)]
    return subprocess.Popen(
        command, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(started):
    said, news = started.communicate(timeout=300)
    assert started.returncode == 0, news
    return said, news


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    path = folder / "tiny.yaml"
    path.write_text(RECIPE % json.dumps(str(random_teacher(folder / "teacher"))), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alone(recipe):
    """The run folder of one process."""
    out = recipe.parent / "alone"
    assert apply(open_recipe(recipe)[0], out, Silent())["rows"]
    return out


def check_same_as_alone(out: Path, alone: Path) -> None:
    # Muon rounds its steps to bfloat16, and a weight between two codes may go to either
    for name, bound in (("trained", 1e-4), ("student", 5e-3), ("healed", 5e-2)):
        folders = [run / "torch" / name for run in (alone, out)]
        logs = [[json.loads(line) for line in (each / "log.jsonl").read_text().splitlines()] for each in folders]
        assert [entry.keys() for entry in logs[0]] == [entry.keys() for entry in logs[1]]
        for one, other in zip(*logs, strict=True):
            assert one == pytest.approx(other, abs=1e-3)
        one, other = (load_file(each / "model.safetensors") for each in folders)
        assert one.keys() == other.keys()
        assert max(float((one[key] - other[key]).abs().max()) for key in one) < bound
        made = [json.loads((each / "artifact.json").read_text()) for each in folders]
        assert made[0]["key"] == made[1]["key"]
    assert not list(out.rglob(".tmp-*"))
    assert not list(out.rglob("checkpoint-*"))


def kill_tree(started):
    found = psutil.Process(started.pid)
    for each in [*found.children(recursive=True), found]:
        each.kill()
    started.communicate()


def test_two_processes_go_on_after_a_kill_and_give_the_curve_of_one(recipe, alone, tmp_path):
    """Begun by accelerate launch, whose config file asks for bf16 and is not obeyed, and finished by torchrun."""
    out = tmp_path / "run"
    begun = start(*ACCELERATE, recipe=recipe, out=out)
    while begun.poll() is None and not list(out.glob(".scratch/*/training/checkpoint-*/complete.json")):
        time.sleep(0.01)
    kill_tree(begun)
    assert not (out / "torch" / "student").exists()
    said, news = finish(start(*TORCHRUN, recipe=recipe, out=out))
    assert "trained (train): making, going on from step " in news
    assert "student (distill): done in" in news
    assert said.count("| teacher ") == 1, said
    assert news.count("report.html") == 1
    check_same_as_alone(out, alone)


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_torchrun_starts_both_anew_where_one_is_killed(rank, recipe, alone, tmp_path):
    out = tmp_path / "run"
    started = start(*TORCHRUN, "--max-restarts", "1", recipe=recipe, out=out)
    while started.poll() is None and not list(out.glob(".scratch/*/training/checkpoint-*/complete.json")):
        time.sleep(0.01)
    workers = psutil.Process(started.pid).children(recursive=True)
    next(each for each in workers if each.environ().get("RANK") == rank).kill()
    _, news = finish(started)
    assert "trained (train): making, going on from step " in news
    check_same_as_alone(out, alone)


@pytest.mark.slow
def test_weights_in_pieces_give_the_curve_of_one_process_and_a_whole_artifact(recipe, alone, tmp_path):
    out = tmp_path / "run"
    finish(start(*TORCHRUN, recipe=recipe, out=out, what=(fsdp_on_cpu.__file__,), **fsdp_on_cpu.ENVIRONMENT))
    check_same_as_alone(out, alone)


def test_a_process_that_nobody_launched_is_alone():
    assert process({}) == Process(0, 1, 0, launched=False)
    assert process(LAUNCHED) == Process(1, 2, 1, launched=True)
    assert process(LAUNCHED | {"RANK": "0"}).first
    assert not process(LAUNCHED).first
    assert is_first({})
    assert not is_first(LAUNCHED)
    with pytest.raises(CommandError) as caught:
        process({"RANK": "0", "MASTER_ADDR": "localhost"})
    assert str(caught.value) == (
        "a launcher has set RANK and not WORLD_SIZE, MASTER_PORT; start compress with torchrun or accelerate launch, "
        "or unset them"
    )


def test_nothing_else_reads_what_a_launcher_sets():
    names = ('"RANK"', '"WORLD_SIZE"', '"LOCAL_RANK"', '"MASTER_ADDR"')
    readers = [
        path.name
        for path in Path("compress").resolve().rglob("*.py")
        if any(name in path.read_text(encoding="utf-8") for name in names)
    ]
    assert readers == ["distributed.py"]


def test_a_batch_is_shared_evenly_or_refused():
    assert windows_per_piece(8, 1, 1) == 8
    assert windows_per_piece(24, 3, 4) == 2
    with pytest.raises(
        ValueError, match="batch is 8 windows over all processes, and 3 processes cannot share it evenly; use 6 or 9"
    ):
        windows_per_piece(8, 1, 3)
    with pytest.raises(ValueError, match="and 4 processes with 2 pieces each cannot share it evenly; use 8"):
        windows_per_piece(4, 2, 4)


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_made(recipe, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    for name, value in (LAUNCHED | {"WORLD_SIZE": "3"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CommandError) as caught:
        apply(open_recipe(recipe)[0], out, Silent())
    assert str(caught.value) == (
        "stages[0].train: batch is 8 windows over all processes, and 3 processes with 2 pieces each cannot share it evenly; "
        "use 6 or 12"
    )
    assert not out.exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "argv", ["compress", "apply", str(recipe), "--out", str(out)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"error: {caught.value}\n")


def test_fsdp_that_does_not_work_is_refused():
    asked = {"ACCELERATE_USE_FSDP": "true"}
    with pytest.raises(CommandError, match="FSDP of version 1 is not supported; use version 2"):
        refuse_sharding("cuda", asked)
    with pytest.raises(CommandError, match="FSDP needs GPUs, and there is none here"):
        refuse_sharding("cpu", asked | {"FSDP_VERSION": "2"})
    assert refuse_sharding("cuda", asked | {"FSDP_VERSION": "2"}) is None
    assert refuse_sharding("cpu", {"ACCELERATE_USE_FSDP": "false"}) is None


def two():
    store = HashStore()
    return [Launch(Process(rank, 2, rank, launched=True), store) for rank in (0, 1)]


def later(function, *given):
    thread = threading.Thread(target=lambda: (time.sleep(0.3), function(*given)))
    thread.start()
    return thread


def test_processes_meet_whatever_those_before_them_left_in_the_store():
    store, found = HashStore(), []

    def come(rank, delay):
        time.sleep(delay)
        found.append(meet(Process(rank, 3, rank, launched=True), store))

    words = []
    for delays in ((0.0, 0.1, 0.1), (0.3, 0.0, 0.1), (0.1, 0.3, 0.0)):
        threads = [threading.Thread(target=come, args=pair) for pair in enumerate(delays)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        words.append(found[0])
        found.clear()
    assert len(set(words)) == 3


def test_a_process_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr("compress.distributed._MEET_SECONDS", 0.1)
    with pytest.raises(StageError) as caught:
        meet(Process(0, 3, 0, launched=True), HashStore())
    assert str(caught.value) == "process 0 of 3 waited for 1, 2, in vain; are all of them started?"
    with pytest.raises(StageError, match="process 2 of 3 waited for 0, in vain"):
        meet(Process(2, 3, 2, launched=True), HashStore())


def test_the_others_wait_for_the_first_ones_word():
    first, other = two()
    later(first.tell, "node/a", "train")
    assert other.hear("node/a") == "train"
    assert other.hear("node/a") == "train"


def fail(launch, error):
    with launch.reporting():
        raise error


def test_who_waits_hears_that_the_first_one_failed():
    first, other = two()
    with pytest.raises(StageError, match="the disk is full"):
        fail(first, StageError("the disk is full"))
    with pytest.raises(FirstProcessError, match="the disk is full"):
        other.hear("node/a")
    with pytest.raises(FirstProcessError):
        fail(other, StageError("the disk is full"))  # the same happened here: the first one says it


def test_the_first_one_says_what_another_failed_of():
    first, other = two()
    later(lambda: other.tell("failed/1", "the loss is nan"))
    with pytest.raises(StageError) as caught:
        fail(first, RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1"))
    assert str(caught.value) == "process 1 of 2 failed: the loss is nan"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("words", ["a defect", "Connection closed by peer"])
def test_an_error_that_nobody_explains_stays_what_it_is(rank, words, monkeypatch):
    monkeypatch.setattr("compress.distributed._LAST_WORD_SECONDS", 0.1)
    with pytest.raises(RuntimeError, match=words):
        fail(two()[rank], RuntimeError(words))


def test_alone_there_is_nobody_to_tell():
    alone = Launch()
    alone.tell("node/a", "train")
    with pytest.raises(StageError, match="no"), alone.reporting():
        raise StageError("no")
    with alone.group("a", "cpu"):
        assert os.environ.get("RANK") is None
