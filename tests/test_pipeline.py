"""What apply reuses, remakes and says; what an error, an interrupt and a damaged file leave behind."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from safetensors import SafetensorError

from compress import artifact, pipeline
from compress.contract import silent
from compress.errors import ArtifactError, StageError
from compress.recipe import read_recipe
from compress.run import StageClock, version_notes
from compress.stages import STAGES
from tests import fake_stages
from tests.tiny_run import random_teacher

TEXT = """\
recipe: 1
name: fake
teacher: {model: teacher}
data: {train: {files: [train.txt], separator: "---"}}
stages:
  - prune:    {id: small, remove: {layers: 1}}
  - train:    {id: student, tokens: 64}
  - quantize: {id: int8, bits: 8}
  - quantize: {id: int4, from: student, bits: 4}
benchmark: false
"""
ALL = ["small", "student", "int8", "int4"]


class Lines:
    """A Listener that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message):
        self.said.append(message)

    @contextmanager
    def task(self, label):
        yield silent


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return random_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def place(tmp_path, teacher, monkeypatch):
    """A folder with a recipe whose stages are fakes."""
    for word in ("prune", "train", "quantize"):
        monkeypatch.setitem(STAGES, word, dataclasses.replace(STAGES[word], run="tests.fake_stages:copy"))
    monkeypatch.setattr(pipeline, "measure_and_report", lambda run, nodes: {"ids": [node.id for node in nodes]})
    monkeypatch.setattr(fake_stages, "instead", {})
    shutil.copytree(teacher, tmp_path / "teacher")
    (tmp_path / "train.txt").write_text("one---two---three---four")
    (tmp_path / "recipe.yaml").write_text(TEXT)
    return tmp_path


def apply(place, fresh=False, **replacements):
    """Apply the recipe with words replaced; return which ids were made, and the lines that were said."""
    text = TEXT
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    (place / "recipe.yaml").write_text(text)
    fake_stages.made.clear()
    lines = Lines()
    pipeline.apply(read_recipe(place / "recipe.yaml"), place / "run", lines, fresh)
    return list(fake_stages.made), "\n".join(lines.said)


def leftovers(place):
    return [path.name for path in (place / "run").rglob("*") if path.name.startswith((".tmp-", ".old-"))]


def test_what_is_there_is_reused(place):
    assert apply(place)[0] == ALL
    made, said = apply(place)
    assert made == []
    assert said.count(": reused") == 4


def test_fresh_reuses_nothing(place):
    apply(place)
    made, said = apply(place, fresh=True)
    assert made == ALL
    assert said.count(": --fresh") == 4


def test_a_changed_option_remakes_its_stage_and_those_below(place):
    apply(place)
    made, said = apply(place, **{"bits: 8": "bits: 8, block: 64"})
    assert made == ["int8"]
    assert "int8 (quantize): made again: options.block was 32, is 64" in said
    made, said = apply(place, **{"tokens: 64": "tokens: 65"})
    assert made == ["student", "int8", "int4"]
    assert "student (train): made again: options.tokens was 64, is 65" in said
    assert "int4 (quantize): made again: parent changed" in said


def test_changed_data_and_seed_are_named(place):
    apply(place)
    (place / "train.txt").write_text("one---two---three---five")
    made, said = apply(place)
    assert made == ALL
    assert "small (prune): made again: data.calibration changed" in said
    assert "student (train): made again: data.train changed, data.validation changed, parent changed" in said
    assert "seed was 0, is 4" in apply(place, **{"name: fake": "name: fake\nseed: 4"})[1]


def test_the_same_text_in_another_file_changes_nothing(place):
    apply(place)
    (place / "train.txt").rename(place / "other.txt")
    assert apply(place, **{"train.txt": "other.txt"})[0] == []


def test_a_changed_teacher_is_seen_and_its_readme_is_not(place):
    apply(place)
    (place / "teacher" / "README.md").write_text("hello")
    (place / "teacher" / "original").mkdir()
    (place / "teacher" / "original" / "params.json").write_text("{}")
    assert apply(place)[0] == []
    config = json.loads((place / "teacher" / "config.json").read_text())
    (place / "teacher" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    made, said = apply(place)
    assert made == ALL
    assert "small (prune): made again: parent changed" in said


def test_a_renamed_id_takes_over_what_is_there(place):
    apply(place)
    before = (place / "run" / "torch" / "student" / "artifact.json").read_bytes()
    made, said = apply(place, **{"id: student": "id: pupil", "from: student": "from: pupil"})
    assert made == []
    assert "pupil (train): taken from torch/student, which is the same" in said
    assert (place / "run" / "torch" / "pupil" / "artifact.json").read_bytes() == before
    assert artifact.damage(artifact.read(place / "run" / "torch" / "pupil")) == ""


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


def test_what_is_written_holds_no_times_and_no_paths(place):
    apply(place)
    first = {path.name: (path / "artifact.json").read_bytes() for path in (place / "run" / "torch").iterdir()}
    shutil.rmtree(place / "run")
    apply(place)
    second = {path.name: (path / "artifact.json").read_bytes() for path in (place / "run" / "torch").iterdir()}
    assert first == second
    assert str(place).encode() not in b"".join(first.values())
    entry = json.loads(first["student"])
    assert sorted(entry) == ["facts", "files", "key", "made", "schema", "skipped", "versions"]
    assert entry["skipped"] == [{"name": "lm_head.weight", "reason": "a test"}]


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


SCRATCH = """\
recipe: 1
name: scratch
student: {init: scratch, layers: 1, hidden: 32, ffn: 48, heads: 4, context: 64, vocab: 300}
data: {train: {builtin: stories, documents: 30}}
stages: [train: {tokens: 64, length: 32}]
benchmark: false
"""


def test_a_start_from_scratch_is_made_once(place, monkeypatch):
    monkeypatch.setitem(globals(), "TEXT", SCRATCH)
    _, said = apply(place)
    assert "start (start): making" in said
    assert (place / "run" / "torch" / "start" / "model.safetensors").is_file()
    made, said = apply(place, **{"tokens: 64": "tokens: 65"})
    assert made == ["train"]
    assert "start (start): reused" in said
    made, said = apply(place, **{"layers: 1": "layers: 2"})
    assert "start (start): made again: options.layers was 1, is 2" in said
    assert "train (train): made again: options.tokens was 65, is 64, parent changed" in said


def test_other_versions_are_said_and_change_no_key(place, monkeypatch):
    seen = []
    monkeypatch.setattr(pipeline, "measure_and_report", lambda run, nodes: seen.extend(version_notes(nodes)))
    apply(place)
    assert seen == []
    manifest = place / "run" / "torch" / "student" / "artifact.json"
    entry = json.loads(manifest.read_text())
    now = entry["versions"]["torch"]
    manifest.write_text(json.dumps(entry | {"versions": entry["versions"] | {"torch": "0.1"}}))
    assert apply(place)[0] == []
    assert seen == [f"student (train): made with other versions (torch 0.1, now {now}); --fresh makes it again"]


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


def test_times_that_cannot_be_read_remake_nothing(place):
    apply(place)
    for state in (place / "run" / ".state").glob("stage-*.json"):
        state.write_text("[]")
    assert apply(place)[0] == []


def test_the_clock_of_a_stage_goes_on_where_its_files_end(tmp_path):
    scratch = tmp_path / "scratch"
    assert StageClock(scratch).seconds() < 5
    mark = scratch / "seconds"
    (scratch / "checkpoint").write_text("x")
    os.utime(mark, (1000, 1000))
    for path in (scratch / "checkpoint", scratch):
        os.utime(path, (1060, 1060))
    assert 60 <= StageClock(scratch).seconds() < 65
    os.utime(mark, (2000, 2000))
    for path in (scratch / "checkpoint", scratch):
        os.utime(path, (1060, 1060))
    assert 60 <= StageClock(scratch).seconds() < 65
