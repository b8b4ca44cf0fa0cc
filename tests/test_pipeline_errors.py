"""What errors, interrupts, kills, full disks and damaged files leave behind: nothing half-made, and a message."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from compress import artifact
from compress.errors import ArtifactError, StageError
from tests import fake_stages
from tests.fake_stages import ALL, apply, leftovers, prepare
from tests.tiny_run import random_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return random_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def place(tmp_path, teacher, monkeypatch):
    return prepare(tmp_path, teacher, monkeypatch)


def flip(path, where=100):
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "model.safetensors has another sha256 than was written": lambda folder: flip(folder / "model.safetensors"),
    r"config.json has 10 bytes, \d+ were written": lambda folder: os.truncate(folder / "config.json", 10),
    "tokenizer.json is missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "adapter_config.json was not written with it": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    r"artifact.json: not readable \(JSONDecodeError": lambda folder: os.truncate(folder / "artifact.json", 50),
    r"artifact.json: not readable \(KeyError": lambda folder: (folder / "artifact.json").write_text("{}"),
    r"artifact.json: not readable \(TypeError": lambda folder: (folder / "artifact.json").write_text("[1]"),
    r"artifact.json: not readable \(UnicodeDecodeError": lambda folder: (folder / "artifact.json").write_bytes(b"\xff"),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_artifact_is_named_and_made_again(place, words):
    apply(place)
    folder = place / "run" / "torch" / "student"
    before = (folder / "artifact.json").read_bytes()
    DAMAGES[words](folder)
    made, said = apply(place)
    assert made == ["student"]
    assert re.search(f"student \\(train\\): made again: .*{words}", said), said
    assert (folder / "artifact.json").read_bytes() == before
    assert artifact.damage(artifact.read(folder)) == ""


def test_manifests_of_other_values_are_damage(place):
    apply(place)
    manifest = place / "run" / "torch" / "int8" / "artifact.json"
    entry = json.loads(manifest.read_text())
    for wrong in ({"files": []}, {"files": {"a": 1}}, {"schema": 9}, {"made": {}}, {"facts": None}, {"skipped": 3}):
        manifest.write_text(json.dumps(entry | wrong))
        assert apply(place)[0] == ["int8"], wrong
    manifest.write_text(json.dumps(entry | {"files": {"config.json": {}}}))
    assert "config.json has " in apply(place)[1]


def test_a_file_of_the_user_beside_the_model_is_no_damage(place):
    apply(place)
    (place / "run" / "torch" / "student" / "notes.md").write_text("mine")
    assert apply(place)[0] == []


def test_a_damaged_artifact_as_teacher_is_refused(place):
    apply(place)
    shutil.rmtree(place / "teacher")
    shutil.copytree(place / "run" / "torch" / "student", place / "teacher")
    flip(place / "teacher" / "model.safetensors")
    with pytest.raises(
        ArtifactError, match=r"teacher: damaged, model\.safetensors has another sha256 than was written\. Make"
    ):
        apply(place)
    (place / "teacher" / "artifact.json").unlink()
    assert apply(place)[0] == ALL


@pytest.mark.parametrize("identity", ALL)
def test_an_interrupt_in_any_stage_leaves_what_was_finished(place, identity):
    def interrupt(context):
        (context.scratch / "checkpoint").write_text("x")
        raise KeyboardInterrupt

    fake_stages.instead[identity] = interrupt
    with pytest.raises(KeyboardInterrupt):
        apply(place)
    assert leftovers(place) == []
    assert not (place / "run" / "torch" / identity).exists()
    assert len(list((place / "run" / ".scratch").glob("*/checkpoint"))) == 1
    del fake_stages.instead[identity]
    made, _ = apply(place)
    assert made == ALL[ALL.index(identity) :]
    assert not (place / "run" / ".scratch").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_a_full_disk_is_said_in_words(place, error):
    def fill(context):
        raise error

    fake_stages.instead["student"] = fill
    with pytest.raises(StageError, match=r"^student \(train\): the disk is full; .* Make room and apply again$"):
        apply(place)
    assert leftovers(place) == []
    assert (place / "run" / "torch" / "small" / "artifact.json").is_file()
    fake_stages.instead.clear()
    assert apply(place)[0] == ["student", "int8", "int4"]


def test_a_full_disk_while_artifact_json_is_written(place, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(artifact.os, "fsync", full)
        with pytest.raises(StageError, match="the disk is full"):
            apply(place)
    assert leftovers(place) == []
    assert apply(place)[0] == ALL


def test_a_defect_is_not_explained_away(place):
    def fail(context):
        raise RuntimeError("a defect")

    fake_stages.instead["student"] = fail
    with pytest.raises(RuntimeError, match="a defect"):
        apply(place)
    assert leftovers(place) == []


def test_too_little_memory_is_said_in_words(place):
    def fail(context):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    fake_stages.instead["student"] = fail
    with pytest.raises(StageError, match=r"^student \(train\): there is not enough memory"):
        apply(place)


def test_an_error_of_a_stage_names_it(place):
    def fail(context):
        raise StageError("no good")

    fake_stages.instead["int4"] = fail
    with pytest.raises(StageError, match=r"^int4 \(quantize\): no good$"):
        apply(place)


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_the_renames_leaves_nothing_half_made(place, monkeypatch, renames):
    apply(place)
    done = []
    rename = artifact.Path.rename

    def counted(path, target):
        if len(done) == renames:
            raise Killed
        done.append(path)
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(artifact.Path, "rename", counted)
        patch.setattr(artifact.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            apply(place, **{"tokens: 64": "tokens: 65", "bits: 8": "bits: 8, block: 64"})
    assert leftovers(place)
    made, _ = apply(place, **{"tokens: 64": "tokens: 65", "bits: 8": "bits: 8, block: 64"})
    assert made == (ALL[1:] if renames < 2 else ALL[2:])
    assert leftovers(place) == []
    assert (
        json.loads((place / "run" / "torch" / "student" / "artifact.json").read_text())["made"]["options"]["tokens"]
        == 65
    )


HOLD = """
import sys, time
from pathlib import Path
from compress.artifact import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_in_use_is_refused_and_a_dead_process_holds_nothing(place):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(place / "run")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(
        ArtifactError, match="another compress is working in this run folder; wait for it, or give --out"
    ):
        apply(place)
    assert fake_stages.made == []
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert apply(place)[0] == ALL


def test_a_run_folder_that_cannot_be_written_is_refused(place):
    (place / "run").write_text("a file")
    with pytest.raises(ArtifactError, match=r"run: this run folder cannot be written \(.*\); give another with --out"):
        apply(place)
