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
    assert teacher.difference(tiny["onnx"], 299) == "vocabularies differ (teacher 300, row 299)"
    folder = shutil.copytree(tiny["torch"], tmp_path / "swapped")
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = settings["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    assert teacher.difference(folder, 300) == "vocabularies differ (2 tokens stand for different ids)"
