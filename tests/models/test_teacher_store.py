from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import ArtifactError
from compress.models import teacher_store
from compress.models.cache import cache_folder
from compress.models.teacher_store import Contents, TeacherStore, fingerprint_windows
from compress.models.top_logits import TopLayout, decode

LAYOUT = TopLayout(300, 4, 2)
WINDOWS, POSITIONS = 23, 9
CONTENTS = Contents(LAYOUT, WINDOWS, POSITIONS, {"teacher": "t", "seed": 0})
# Four shards, the last one of two windows.
SHARD = 7 * CONTENTS.window_bytes
RECORDS = np.random.default_rng(0).integers(0, 256, (WINDOWS, POSITIONS, LAYOUT.record_bytes), dtype=np.uint8)

# Writes the same store in another process; the arguments: parent, file that notes what was written, calls before the end.
OTHER = """
import os, sys, time
from pathlib import Path
import numpy as np
from compress.models import teacher_store
from tests.models import test_teacher_store as here
teacher_store._SHARD_BYTES, teacher_store._TOKENS_AT_ONCE = here.SHARD, 2 * here.POSITIONS
calls = 0
def write(part):
    global calls
    calls += 1
    if calls > int(sys.argv[3]):
        os._exit(9)
    with open(sys.argv[2], "a") as file:
        file.write(f"{part.start}\\n")
    time.sleep(0.02)
    return here.RECORDS[part]
store = teacher_store.TeacherStore.open_or_write(here.CONTENTS, write, parent=Path(sys.argv[1]))
assert (np.concatenate(store._shards) == here.RECORDS).all()
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_store, "_SHARD_BYTES", SHARD)
    monkeypatch.setattr(teacher_store, "_TOKENS_AT_ONCE", 2 * POSITIONS)


class Writer:
    """Gives the records, and notes for which windows it was asked."""

    def __init__(self, stop_at: int | None = None, error: BaseException | None = None) -> None:
        self.asked: list[int] = []
        self.stop_at, self.error = stop_at, error

    def __call__(self, part: slice) -> np.ndarray:
        if self.stop_at is not None and part.stop > self.stop_at and self.error:
            raise self.error
        self.asked += range(part.start, part.stop)
        return RECORDS[part]


def open_store(parent: Path, writer: Callable[[slice], np.ndarray], **settings: Any) -> TeacherStore:
    return TeacherStore.open_or_write(CONTENTS, writer, parent=parent, **settings)


def bytes_of(parent: Path) -> dict[str, bytes]:
    folder = parent / CONTENTS.key
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def run_other(parent: Path, notes: Path, calls: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", OTHER, str(parent), str(notes), str(calls)], cwd=root)


def test_reads_what_was_written_in_any_order(tmp_path: Path) -> None:
    store = open_store(tmp_path, Writer())
    windows = np.array([22, 0, 7, 6, 7], dtype=np.int64)
    expected = decode(LAYOUT, RECORDS[windows])
    ids, log_chances, weights = store.rows(windows)
    assert ids.shape == (5, POSITIONS, LAYOUT.columns)
    np.testing.assert_array_equal(ids, expected.ids)
    np.testing.assert_array_equal(log_chances, expected.log_chances)
    np.testing.assert_array_equal(weights, expected.weights)
    assert store.size_bytes == RECORDS.size
    assert store.rows(windows[:0])[0].shape == (0, POSITIONS, LAYOUT.columns)


def test_is_written_once_and_shared(tmp_path: Path) -> None:
    first, again = Writer(), Writer()
    seen: list[tuple[float, float, str]] = []
    open_store(tmp_path, first, progress=lambda done, total, unit="", note="": seen.append((done, total, unit)))
    assert first.asked == list(range(WINDOWS))
    assert seen[-1] == (WINDOWS * POSITIONS, WINDOWS * POSITIONS, "tokens")
    before = bytes_of(tmp_path)
    open_store(tmp_path, again)
    assert again.asked == []
    assert bytes_of(tmp_path) == before
    assert sorted(before) == [f"0000{number}.top" for number in range(4)] + ["store.json"]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        open_store(tmp_path / name, Writer())
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_what_determines_the_bytes_determines_the_key() -> None:
    others = [
        Contents(TopLayout(300, 5, 2), WINDOWS, POSITIONS, CONTENTS.made),
        Contents(TopLayout(300, 4, 3), WINDOWS, POSITIONS, CONTENTS.made),
        Contents(TopLayout(301, 4, 2), WINDOWS, POSITIONS, CONTENTS.made),
        Contents(LAYOUT, WINDOWS + 1, POSITIONS, CONTENTS.made),
        Contents(LAYOUT, WINDOWS, POSITIONS + 1, CONTENTS.made),
        Contents(LAYOUT, WINDOWS, POSITIONS, {"teacher": "t", "seed": 1}),
    ]
    assert len({CONTENTS.key, *(other.key for other in others)}) == 7
    assert Contents(LAYOUT, WINDOWS, POSITIONS, {"seed": 0, "teacher": "t"}).key == CONTENTS.key
    ids = np.arange(12, dtype=np.int64).reshape(3, 4)
    assert fingerprint_windows(ids) == fingerprint_windows(np.asfortranarray(ids))
    assert len({fingerprint_windows(each) for each in (ids, ids.reshape(4, 3), ids + 1)}) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")])
def test_goes_on_after_what_stopped_it(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        open_store(tmp_path, Writer(stop_at=17, error=error))
    assert sorted(bytes_of(tmp_path)) == ["00000.top", "00001.top", "store.json"]
    rest = Writer()
    open_store(tmp_path, rest)
    assert rest.asked == list(range(14, WINDOWS))
    open_store(tmp_path / "straight", Writer())
    assert bytes_of(tmp_path) == bytes_of(tmp_path / "straight")


def test_a_killed_process_leaves_whole_shards(tmp_path: Path) -> None:
    assert run_other(tmp_path, tmp_path / "notes", 6).wait(60) == 9
    assert any(path.name.startswith(".tmp-") for path in (tmp_path / CONTENTS.key).iterdir())
    rest = Writer()
    open_store(tmp_path, rest)
    assert rest.asked == list(range(7, WINDOWS))
    open_store(tmp_path / "straight", Writer())
    assert bytes_of(tmp_path) == bytes_of(tmp_path / "straight")


def test_two_processes_write_one_store_between_them(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    processes = [run_other(tmp_path, notes, 1000) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    asked = notes.read_text().split()
    assert len(asked) == len(set(asked)) == 13


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[11] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_shard_is_written_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    open_store(tmp_path, Writer())
    before = bytes_of(tmp_path)
    damage(tmp_path / CONTENTS.key / "00001.top")
    again = Writer()
    open_store(tmp_path, again)
    assert again.asked == list(range(7, 14))
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("text", ["", "[]", '{"shards": 1}', '{"key": "other", "shards": {}}'])
def test_without_its_list_all_is_written_again(tmp_path: Path, text: str) -> None:
    open_store(tmp_path, Writer())
    before = bytes_of(tmp_path)
    (tmp_path / CONTENTS.key / "store.json").write_text(text)
    again = Writer()
    open_store(tmp_path, again)
    assert again.asked == list(range(WINDOWS))
    assert bytes_of(tmp_path) == before


def test_checksums_are_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        open_store(tmp_path, Writer())
    monkeypatch.setattr(teacher_store.artifact, "sha256_of", lambda path: pytest.fail(f"{path} is read again"))
    store = open_store(tmp_path, Writer())
    assert json.loads((store.folder / "store.json").read_text())["shards"].keys() == {
        f"0000{number}.top" for number in range(4)
    }


def test_says_that_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_store, "_WAIT_SECONDS", 0.01)
    folder = tmp_path / CONTENTS.key
    folder.mkdir()
    held = teacher_store.FileLock(folder / ".lock", is_singleton=False)
    held.acquire()
    said: list[str] = []

    def progress(done: float, total: float, unit: str = "", note: str = "") -> None:
        said.append(note)
        held.release()

    open_store(tmp_path, Writer(), progress=progress)
    assert said[0] == "another compress writes these answers"


def test_a_full_disk_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    writer = Writer()
    with monkeypatch.context() as small:
        small.setattr(teacher_store.shutil, "disk_usage", lambda _: usage(RECORDS.size - 1))
        with pytest.raises(
            ArtifactError, match="the teacher's answers take 0 MB, 0 MB are free there; set COMPRESS_CACHE"
        ):
            open_store(tmp_path, writer)
    assert (writer.asked, bytes_of(tmp_path)) == ([], {})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(teacher_store.os, "fsync", full)
        with pytest.raises(
            ArtifactError, match=r"the teacher's answers cannot be stored \(No space left on device\); set"
        ):
            open_store(tmp_path, Writer())
    assert bytes_of(tmp_path) == {}
    assert open_store(tmp_path, Writer()).size_bytes == RECORDS.size


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be stored \(Not a directory\)"):
        open_store(tmp_path / "file", Writer())


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"records of \(9, 17\) bytes a window are needed, got \(2, 9, 16\)"):
        open_store(tmp_path, lambda part: RECORDS[part, :, :-1])
    store = open_store(tmp_path, Writer())
    for wrong in (-1, WINDOWS):
        with pytest.raises(IndexError, match="windows are numbered from 0 to 22"):
            store.rows(np.array([0, wrong]))
    with pytest.raises(ValueError, match="a store needs a window and a position in it, got 0 and 5"):
        Contents(LAYOUT, 0, 5, {})


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    store = TeacherStore.open_or_write(CONTENTS, Writer())
    assert store.folder == tmp_path / "here" / "teacher-logits" / CONTENTS.key
    monkeypatch.delenv("COMPRESS_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "compress"
