"""A checkpoint counts when it is whole; torn and damaged ones are passed over."""

from __future__ import annotations

import pytest

from compress.training.checkpoint import FOLDER, newest, resume_step, seal


def make(folder, step, sealed=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(step for _ in range(100)))
    if sealed:
        seal(checkpoint)
    return checkpoint


def test_sealing_drops_the_ones_before(tmp_path):
    for step in (2, 4, 10):
        last = make(tmp_path, step)
    assert list(tmp_path.iterdir()) == [last]
    assert newest(tmp_path) == last


def test_a_torn_one_is_removed_and_the_one_before_taken(tmp_path):
    whole = make(tmp_path, 4)
    make(tmp_path, 10, sealed=False)
    assert newest(tmp_path) == whole
    assert list(tmp_path.iterdir()) == [whole]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "list"])
def test_a_damaged_one_is_removed(tmp_path, damage):
    checkpoint = make(tmp_path, 4)
    weights = checkpoint / "model.safetensors"
    if damage == "flip":
        weights.write_bytes(bytes([5]) + weights.read_bytes()[1:])
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "remove":
        weights.unlink()
    else:
        (checkpoint / "complete.json").write_text("{")
    assert newest(tmp_path) is None
    assert not checkpoint.exists()


def test_the_step_to_go_on_from(tmp_path):
    assert resume_step(tmp_path) is None
    make(tmp_path / FOLDER, 12)
    assert resume_step(tmp_path) == 12
