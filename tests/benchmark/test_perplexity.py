from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from compress.benchmark import row as row_module
from compress.benchmark.options import PerplexityOptions
from compress.benchmark.perplexity import measure_perplexity
from compress.benchmark.row import Row
from compress.benchmark.teacher import TeacherLogits
from compress.data.corpus import Corpus
from compress.models.decoder import open_decoder
from tests.benchmark.conftest import make_corpus
from tests.models.tiny_decoder import make_torch_folder
from tests.references import quality as reference

OPTIONS = PerplexityOptions(length=16, windows=9)


def open_row(folder: Path) -> Row:
    return Row(folder, open_decoder(folder))


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_equals_the_reference(tiny: dict[str, Path], corpus: Corpus, exact: dict[str, Any], name: str) -> None:
    counted = corpus.counted.copy()
    counted[5:40:3] = False
    partly = replace(corpus, counted=counted)
    windows = partly.windows(16, 9)
    result = measure_perplexity(open_row(tiny[name]), partly, OPTIONS, TeacherLogits(tiny["other"]))
    assert result["perplexity"].value == pytest.approx(math.exp(reference.mean_nll(exact["torch"], *windows)), rel=1e-5)
    kl, same = reference.divergence(exact["other"], exact["torch"], *windows)
    assert result["kl_to_teacher"].value == pytest.approx(kl, rel=1e-4)
    assert result["top1_agreement"].value == pytest.approx(same, abs=1e-9)
    assert result["perplexity"].conditions["tokens"] == int(windows[1][:, 1:].sum())
    assert result["perplexity"].conditions["join"] == "bos"


def test_the_teachers_own_row(tiny: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    for teacher in (TeacherLogits(tiny["torch"]), TeacherLogits(tiny["torch"], tmp_path)):
        result = measure_perplexity(open_row(tiny["torch"]), corpus, OPTIONS, teacher)
        assert (result["kl_to_teacher"].value, result["top1_agreement"].value) == (0.0, 1.0)
    result = measure_perplexity(open_row(tiny["onnx"]), corpus, OPTIONS, teacher)
    assert 0 <= (result["kl_to_teacher"].value or 0.0) < 1e-6


def test_a_stored_teacher_runs_once_for_all_recipes(
    tiny: dict[str, Path], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    live = measure_perplexity(open_row(tiny["torch"]), corpus, OPTIONS, TeacherLogits(tiny["other"]))
    first = measure_perplexity(open_row(tiny["torch"]), corpus, OPTIONS, TeacherLogits(tiny["other"]), stored=True)
    again = TeacherLogits(tiny["other"])
    assert measure_perplexity(open_row(tiny["torch"]), corpus, OPTIONS, again, stored=True) == first
    assert again._decoder is None
    assert first["perplexity"] == live["perplexity"]
    assert first["top1_agreement"].value == live["top1_agreement"].value
    assert first["kl_to_teacher"].value == pytest.approx(live["kl_to_teacher"].value, rel=0.03)
    assert first["kl_to_teacher"].conditions["teacher_logits"] == "stored, top 50 + 10 samples"
    assert "teacher_logits" not in live["kl_to_teacher"].conditions
    assert [path.name for path in tmp_path.iterdir()] == ["teacher-logits"]


def test_batches_change_nothing(tiny: dict[str, Path], corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    row, teacher = open_row(tiny["onnx"]), TeacherLogits(tiny["other"])
    whole = measure_perplexity(row, corpus, OPTIONS, teacher)
    monkeypatch.setattr(row_module, "_BATCH_ROWS", 2)
    parts = measure_perplexity(row, corpus, OPTIONS, teacher)
    assert [parts[name].value for name in parts] == pytest.approx([whole[name].value for name in whole], rel=1e-6)


def test_repeats(tiny: dict[str, Path], corpus: Corpus) -> None:
    runs = [measure_perplexity(open_row(tiny["onnx"]), corpus, OPTIONS, TeacherLogits(tiny["other"])) for _ in range(2)]
    assert runs[0] == runs[1]


def test_says_how_many_windows_there_were(tiny: dict[str, Path], corpus: Corpus) -> None:
    options = PerplexityOptions(length=16, windows=10_000)
    conditions = measure_perplexity(open_row(tiny["torch"]), corpus, options)["perplexity"].conditions
    assert (conditions["windows"], conditions["windows_asked"]) == (len(corpus.ids) // 16, 10_000)


def test_reasons(tiny: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    row = open_row(tiny["torch"])

    def reasons(text: Corpus, options: PerplexityOptions, teacher: Path | None = None) -> list[str]:
        result = measure_perplexity(row, text, options, TeacherLogits(teacher) if teacher else None)
        return [result[name].reason for name in ("perplexity", "kl_to_teacher", "top1_agreement")]

    no_teacher = "there is no teacher to compare with"
    assert reasons(corpus, OPTIONS) == ["", no_teacher, no_teacher]
    few = "the evaluation text has fewer than 100000 tokens: not one window"
    assert reasons(corpus, PerplexityOptions(length=100_000), tiny["other"]) == [few] * 3
    long = "windows of 80 tokens are longer than the context of 64"
    assert reasons(corpus, PerplexityOptions(length=80)) == [long, no_teacher, no_teacher]
    none = replace(corpus, counted=np.zeros_like(corpus.counted))
    assert reasons(none, OPTIONS)[0] == "no token of the windows is counted"
    alien = replace(corpus, ids=np.where(corpus.ids == 5, 5, 999))
    found = "the text holds token 999, the model has tokens 0 to 299: the tokenizer is not its own"
    assert reasons(alien, OPTIONS)[0] == found
    larger = make_torch_folder(tmp_path / "larger", vocab=310)
    differ = "vocabularies differ (teacher 310, row 300)"
    assert reasons(corpus, OPTIONS, larger) == ["", differ, differ]


@pytest.mark.parametrize("larger", ["teacher", "row"])
def test_a_padded_model_is_compared_over_the_common_tokens(
    tiny: dict[str, Path], corpus: Corpus, tmp_path: Path, larger: str
) -> None:
    padded = tmp_path / "padded"
    shutil.copytree(tiny["other"], padded)
    model = LlamaForCausalLM.from_pretrained(padded)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(320, mean_resizing=False)
        model.save_pretrained(padded)
    folders = {"teacher": tiny["torch"], "row": tiny["torch"]} | {larger: padded}
    found = measure_perplexity(open_row(folders["row"]), corpus, OPTIONS, TeacherLogits(folders["teacher"]))
    whole = {"teacher": tiny["torch"], "row": tiny["torch"]} | {larger: tiny["other"]}
    slow = measure_perplexity(open_row(whole["row"]), corpus, OPTIONS, TeacherLogits(whole["teacher"]))
    assert found["kl_to_teacher"].value == pytest.approx(slow["kl_to_teacher"].value, rel=1e-5)
    assert found["top1_agreement"].value == slow["top1_agreement"].value
    assert found["kl_to_teacher"].conditions["common_tokens"] == 300
    assert "common_tokens" not in slow["kl_to_teacher"].conditions


def test_broken_logits_give_a_reason(tiny: dict[str, Path], corpus: Corpus) -> None:
    row = open_row(tiny["torch"])

    class Broken:
        vocabulary, context, format = 300, 64, "torch"

        def logits(self, ids: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
            return np.full((*ids.shape, 300), np.nan, dtype=np.float32)

    broken: Any = Broken()
    found = measure_perplexity(Row(row.folder, broken), corpus, OPTIONS, TeacherLogits(tiny["torch"]))
    for name in ("perplexity", "kl_to_teacher", "top1_agreement"):
        assert (found[name].value, found[name].reason) == (None, "not finite (nan): the model's logits are broken")


def test_stories3m_gives_the_published_perplexity() -> None:
    assets = os.environ.get("COMPRESS_ASSETS")
    if not assets:
        pytest.skip("COMPRESS_ASSETS is not set: no stories3M")
    folder = Path(assets) / "models" / "stories3M"
    text = (Path(assets) / "data" / "tinystories-eval.txt").read_text(encoding="utf-8")
    stories = [story.strip() for story in text.split("<|endoftext|>") if story.strip()][:130]
    options = PerplexityOptions(length=256, windows=96)
    found = measure_perplexity(open_row(folder), make_corpus(folder, stories, joining=1), options)["perplexity"]
    assert found.conditions["windows"] == 96
    assert found.value == pytest.approx(6.035, rel=1e-3)
