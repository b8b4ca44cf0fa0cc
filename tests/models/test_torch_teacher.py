from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.errors import StageError
from compress.models.teacher_store import fingerprint_windows
from compress.models.top_logits import TopLayout, decode, uniforms
from compress.models.torch_teacher import TopTeacher, encode_logits

LAYOUT = TopLayout(60, 5, 3)
TABLE = torch.randn(60, 60, generator=torch.Generator().manual_seed(0)) * 3
IDS = torch.randint(60, (7, 11), generator=torch.Generator().manual_seed(1))
WINDOWS = np.arange(7) * 3


class Bigram:
    """Logits by the token read; notes how many windows it was asked for at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(ids))
        return TABLE[ids[:, :-1]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))


def test_encodes_every_position_with_its_own_draw() -> None:
    found = TopTeacher(Bigram(), LAYOUT, seed=4).encode_windows(IDS, WINDOWS)
    assert found.shape == (7, 10, LAYOUT.record_bytes)
    drawn = uniforms(4, WINDOWS, 10, 3)
    for row, place in ((0, 0), (6, 9), (3, 5)):
        expected = encode_logits(TABLE[IDS[row, place]][None], LAYOUT, drawn[row, place][None])
        np.testing.assert_array_equal(found[row, place], expected[0])


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TopTeacher(Bigram(), LAYOUT).encode_windows(IDS, WINDOWS)
    teacher = Bigram()
    monkeypatch.setattr("compress.models.torch_teacher._CALL_LOGITS", 2 * 10 * 60)
    np.testing.assert_array_equal(TopTeacher(teacher, LAYOUT).encode_windows(IDS, WINDOWS), whole)
    assert teacher.asked == [2, 2, 2, 1]
    monkeypatch.setattr("compress.models.torch_teacher._CALL_LOGITS", 1)
    part = TopTeacher(teacher, LAYOUT).encode_windows(IDS[2:4], WINDOWS[2:4])
    np.testing.assert_array_equal(part, whole[2:4])


def test_a_store_asks_the_teacher_once() -> None:
    teacher, ids = Bigram(), IDS.numpy()
    store = TopTeacher(teacher, LAYOUT).store(ids, {"teacher": "bigram"})
    assert teacher.asked == [7]
    again = TopTeacher(teacher, LAYOUT).store(ids, {"teacher": "bigram"})
    assert teacher.asked == [7]
    expected = decode(LAYOUT, TopTeacher(Bigram(), LAYOUT).encode_windows(IDS, np.arange(7)))
    np.testing.assert_array_equal(again.rows(np.array([5]))[0][0], expected.ids[5])
    made = {"teacher": "bigram", "windows": fingerprint_windows(ids), "seed": 0, "temperature": 1.0}
    assert store.contents.made == made


@pytest.mark.parametrize("change", ["seed", "temperature", "windows", "teacher"])
def test_another_question_is_another_store(change: str) -> None:
    first = TopTeacher(Bigram(), LAYOUT).store(IDS.numpy(), {"teacher": "bigram"})
    settings = {"seed": {"seed": 1}, "temperature": {"temperature": 2.0}}.get(change, {})
    ids = IDS.numpy()[::-1].copy() if change == "windows" else IDS.numpy()
    other = TopTeacher(Bigram(), LAYOUT, **settings).store(ids, {"teacher": "x" if change == "teacher" else "bigram"})
    assert other.folder != first.folder
    assert other.folder.parent == first.folder.parent


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_logits_that_are_no_numbers(value: float) -> None:
    def broken(ids: torch.Tensor) -> torch.Tensor:
        logits = TABLE[ids[:, :-1]].clone()
        logits[1, 2, 30] = value
        return logits

    with pytest.raises(StageError, match="the teacher's logits are not finite numbers"):
        TopTeacher(broken, LAYOUT).encode_windows(IDS, WINDOWS)


def test_takes_half_precision() -> None:
    drawn = uniforms(0, np.zeros(1, dtype=np.int64), 60, 3)[0]
    half = TABLE.bfloat16()
    np.testing.assert_array_equal(encode_logits(half, LAYOUT, drawn), encode_logits(half.float(), LAYOUT, drawn))


def test_keeps_every_token_of_a_small_vocabulary() -> None:
    layout = TopLayout(60, 60)
    found = decode(layout, TopTeacher(Bigram(), layout).encode_windows(IDS, WINDOWS))
    assert found.ids.shape == (7, 10, 60)
    exact = torch.log_softmax(TABLE[IDS[:, :-1]], -1).numpy()
    np.testing.assert_allclose(found.log_chances, np.take_along_axis(exact, found.ids, -1), atol=0.05)
