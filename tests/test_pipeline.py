"""What apply reuses, makes again and says."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from compress import artifact, pipeline
from compress.run import StageClock, version_notes
from tests.fake_stages import ALL, apply, prepare
from tests.tiny_run import random_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return random_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def place(tmp_path, teacher, monkeypatch):
    return prepare(tmp_path, teacher, monkeypatch)


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


SCRATCH = """\
recipe: 1
name: scratch
student: {init: scratch, layers: 1, hidden: 32, ffn: 48, heads: 4, context: 64, vocab: 300}
data: {train: {builtin: stories, documents: 30}}
stages: [train: {tokens: 64, length: 32}]
benchmark: false
"""


def test_a_start_from_scratch_is_made_once(place):
    _, said = apply(place, text=SCRATCH)
    assert "start (start): making" in said
    assert (place / "run" / "torch" / "start" / "model.safetensors").is_file()
    made, said = apply(place, text=SCRATCH, **{"tokens: 64": "tokens: 65"})
    assert made == ["train"]
    assert "start (start): reused" in said
    made, said = apply(place, text=SCRATCH, **{"layers: 1": "layers: 2"})
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
