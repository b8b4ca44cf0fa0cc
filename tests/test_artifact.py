"""A folder that has an artifact.json is finished; keys follow from what determines the bytes."""

from __future__ import annotations

import json

import pytest

from compress import artifact
from compress.errors import ArtifactError

SAID = {"facts": {"a": 1}, "skipped": [], "versions": {"torch": "0"}}


def make(folder, made=None, **files):
    with artifact.temporary_folder(folder) as temporary:
        for name, text in (files or {"config": "{}"}).items():
            (temporary / f"{name}.json").write_text(text)
        return artifact.finish(temporary, folder, made or {"stage": "x"}, SAID)


def test_what_is_written_is_read(tmp_path):
    found = make(tmp_path / "torch" / "a")
    assert artifact.read(tmp_path / "torch" / "a") == found
    assert found.key == artifact.key_of({"stage": "x"})
    assert found.files["config.json"] == {"size": 2, "sha256": artifact.sha256_of(found.path / "config.json")}
    assert artifact.damage(found) == ""
    assert [path.name for path in (tmp_path / "torch").iterdir()] == ["a"]


def test_finishing_again_replaces_the_whole_folder(tmp_path):
    make(tmp_path / "a", one="1", two="2")
    make(tmp_path / "a", {"stage": "y"}, one="3")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["artifact.json", "one.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_whoever_can_read_the_folder_can_read_its_files(tmp_path):
    with artifact.temporary_folder(tmp_path / "a") as temporary:
        (temporary / "model.safetensors").write_bytes(b"x")
        (temporary / "model.safetensors").chmod(0o600)
        folder = artifact.finish(temporary, tmp_path / "a", {}, SAID).path
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert (folder / "model.safetensors").stat().st_mode == plain.stat().st_mode


def fail_half_way(folder):
    with artifact.temporary_folder(folder) as temporary:
        (temporary / "file").write_text("x")
        raise ValueError("no")


def test_an_error_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no"):
        fail_half_way(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    assert artifact.read(tmp_path / "a") is None


def test_keys_do_not_follow_from_the_order_and_follow_from_every_value():
    assert artifact.key_of({"a": 1, "b": [1, 2]}) == artifact.key_of({"b": [1, 2], "a": 1})
    keys = {artifact.key_of(made) for made in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": [1]}, {"b": 1}, {"a": True})}
    assert len(keys) == 6
    with pytest.raises(ValueError, match="JSON compliant"):
        artifact.key_of({"a": float("nan")})


def test_a_fingerprint_reads_what_a_loader_reads(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    before = artifact.fingerprint_folder(tmp_path)
    for name in ("README.md", "log.jsonl", "artifact.json", ".hidden.json"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    assert artifact.fingerprint_folder(tmp_path) == before
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    assert artifact.fingerprint_folder(tmp_path) != before


def test_a_failed_write_leaves_the_old_text(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    artifact.write_text(file, "old\n")

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        artifact.write_text(file, "new")
    assert file.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [file]


def test_sweep_removes_what_kills_leave_and_nothing_else(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for name in (".tmp-a", ".old-a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / ".tmp-results.json").write_text("x")
    (tmp_path / ".old-link").symlink_to(tmp_path / "a")
    artifact.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "notes.txt"]
    artifact.sweep(tmp_path / "nowhere")


def test_a_lock_is_held_once_and_given_back(tmp_path):
    second = artifact.run_lock(tmp_path / "run")
    with artifact.run_lock(tmp_path / "run"), pytest.raises(ArtifactError, match="another compress is working"):
        second.__enter__()
    with artifact.run_lock(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_an_edited_manifest_does_not_match_its_key(tmp_path):
    made = make(tmp_path / "a")
    entry = json.loads((made.path / "artifact.json").read_text())
    (made.path / "artifact.json").write_text(json.dumps(entry | {"made": {"stage": "z"}}))
    assert artifact.damage(artifact.read(made.path)) == "artifact.json does not match its key"
    with pytest.raises(ArtifactError, match=r"a: damaged, artifact\.json does not match its key\. Make it again"):
        artifact.refuse_damaged(made.path)
    artifact.refuse_damaged(tmp_path)
