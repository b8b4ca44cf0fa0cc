from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.benchmark.teacher import TeacherLogits
from compress.data.corpus import Corpus
from tests.models.tiny_encoder import make_encoder_folder


def count_calls(teacher: TeacherLogits, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    run = teacher.decoder.logits

    def counted(ids: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        calls.append(len(ids))
        return run(ids, lengths)

    monkeypatch.setattr(teacher.decoder, "logits", counted)
    return calls


def test_an_encoder_is_no_teacher(tiny: dict[str, Path], tmp_path: Path) -> None:
    teacher = TeacherLogits(make_encoder_folder(tmp_path / "encoder"))
    said = "the teacher, BertForSequenceClassification is no causal language model"
    assert teacher.difference(tiny["torch"], 300) == said


def test_kept_logits_are_computed_once(
    tiny: dict[str, Path], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, _ = corpus.windows(16, 6)
    with TeacherLogits(tiny["torch"], tmp_path / "scratch") as teacher:
        calls = count_calls(teacher, monkeypatch)
        first = [teacher.logits(windows, slice(start, start + 2)).copy() for start in (0, 2, 4)]
        again = [teacher.logits(windows, slice(start, start + 3)) for start in (0, 3)]
        assert calls == [2, 2, 2]
        np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
        np.testing.assert_array_equal(first[1], TeacherLogits(tiny["torch"]).logits(windows, slice(2, 4)))
        other, _ = corpus.windows(12, 2)
        assert teacher.logits(other, slice(0, 2)).shape == (2, 12, 300)
        assert calls == [2, 2, 2, 2]
        del again
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("limited", [True, False])
def test_beyond_the_limit_or_without_scratch_it_is_live(
    tiny: dict[str, Path], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    windows, _ = corpus.windows(16, 2)
    size = 2 * 16 * 300 * 4
    teacher = TeacherLogits(tiny["torch"], tmp_path, size - 1) if limited else TeacherLogits(tiny["torch"])
    calls = count_calls(teacher, monkeypatch)
    for _ in range(2):
        teacher.logits(windows, slice(0, 2))
    assert calls == [2, 2]
    assert list(tmp_path.iterdir()) == []


def test_says_why_vocabularies_differ(tiny: dict[str, Path], tmp_path: Path) -> None:
    teacher = TeacherLogits(tiny["torch"])
    assert teacher.difference(tiny["onnx"], 300) == ""
    # the same tokenizer, and one row less: the tokens that both have are compared
    assert teacher.difference(tiny["onnx"], 299) == ""
    assert teacher.common(tiny["onnx"], 299).tolist() == list(range(299))
    assert teacher.common(tiny["onnx"], 300) is None
    folder = shutil.copytree(tiny["torch"], tmp_path / "swapped")
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = settings["model"]["vocab"]
    a, b = vocabulary["a"], vocabulary["b"]
    vocabulary["a"], vocabulary["b"] = b, a
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    said = f"'a' is {a} for the teacher and {b} for the row; 'b' is {b} for the teacher and {a} for the row"
    assert teacher.difference(folder, 300) == f"vocabularies differ ({said})"
    assert teacher.difference(folder, 299) == "vocabularies differ (teacher 300, row 299)"


def test_what_changes_no_id_is_no_difference(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny["torch"], tmp_path / "other")
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(settings | {"decoder": None}, indent=1), encoding="utf-8")
    teacher = TeacherLogits(tiny["torch"])
    assert teacher.difference(folder, 300) == ""
    assert teacher.common(folder, 300) is None


def test_tokens_without_a_row_in_the_teacher_are_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny["torch"], tmp_path / "row")
    teacher = TeacherLogits(tiny["torch"])

    class Small:
        vocabulary = 299

    teacher._decoder = Small()  # type: ignore[assignment]
    last = max(
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"].items(),
        key=lambda each: each[1],
    )
    said = f"the teacher has 299 rows, and none for the student's token {last[0]!r} (299)"
    assert teacher.difference(folder, 300) == f"vocabularies differ ({said})"


def test_a_store_is_of_the_common_tokens(
    tiny: dict[str, Path], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    windows, _ = corpus.windows(16, 3)
    common = np.arange(5, 290, dtype=np.int64)
    teacher = TeacherLogits(tiny["torch"])
    whole, part = teacher.store(windows), teacher.store(windows, common)
    assert whole.folder != part.folder
    logits = teacher.logits(windows, slice(0, 3))[:, :-1]
    np.testing.assert_array_equal(whole.rows(np.arange(3))[0][..., 0], logits.argmax(-1))
    np.testing.assert_array_equal(part.rows(np.arange(3))[0][..., 0], logits[..., common].argmax(-1))
