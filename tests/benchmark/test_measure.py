from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from compress.benchmark.measure import NAMES, QUALITY_UNITS, measure, measure_quality
from compress.benchmark.options import BenchmarkOptions, LatencyOptions, PerplexityOptions
from compress.benchmark.teacher import TeacherLogits
from compress.contract import measurement_from_json
from compress.data.corpus import Corpus, Example
from compress.errors import ArtifactError
from tests.models.tiny_encoder import make_encoder_folder

OPTIONS = BenchmarkOptions(
    perplexity=PerplexityOptions(length=16, windows=4), latency=LatencyOptions(prompt=8, new=4, threads=1, warmup=1)
)


def test_gives_every_name_and_survives_json(tiny: dict[str, Path], corpus: Corpus) -> None:
    result = measure(tiny["onnx"], OPTIONS, corpus, tiny["torch"])
    assert set(result) == set(NAMES)
    for found in result.values():
        assert found.value is not None
        assert math.isfinite(found.value)
        assert measurement_from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    assert 0 <= result["kl_to_teacher"].value < 1e-6


def test_false_leaves_a_measurement_out(tiny: dict[str, Path], corpus: Corpus) -> None:
    none = BenchmarkOptions(perplexity=False, bits_per_byte=False, agreement=False, accuracy=False, latency=False)
    assert measure(tiny["onnx"], none, corpus, tiny["torch"]) == {}
    only = none.model_copy(update={"perplexity": OPTIONS.perplexity})
    assert set(measure(tiny["onnx"], only, corpus)) == {"perplexity"}
    agreement = none.model_copy(update={"agreement": True})
    found = measure_quality(tiny["onnx"], agreement, corpus, TeacherLogits(tiny["torch"]))
    assert set(found) == {"kl_to_teacher", "top1_agreement"}
    assert found["kl_to_teacher"].conditions["length"] == 256


def test_without_data_there_are_reasons(tiny: dict[str, Path]) -> None:
    found = measure_quality(tiny["onnx"], OPTIONS, None)
    assert {name: (one.value, one.reason) for name, one in found.items()} == dict.fromkeys(
        QUALITY_UNITS, (None, "there is no evaluation data")
    )


def test_of_an_encoder_what_does_not_apply_has_a_reason(tiny: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    folder = make_encoder_folder(tmp_path / "encoder")
    labelled = replace(corpus, examples=(Example("the fox", 0), Example("the barn", 1)))
    found = measure_quality(folder, OPTIONS, labelled, TeacherLogits(tiny["torch"]))
    assert {name for name, one in found.items() if one.value is not None} == {"accuracy"}
    said = "BertForSequenceClassification is no causal language model"
    assert {found[name].reason for name in set(QUALITY_UNITS) - {"accuracy"}} == {said}
    without = measure_quality(folder, OPTIONS.model_copy(update={"accuracy": False}), labelled)
    assert set(without) == set(QUALITY_UNITS) - {"accuracy"}
    unlabelled = measure_quality(folder, OPTIONS, corpus)["accuracy"]
    assert unlabelled.reason == "the evaluation data has no labels; name their column with label:"


def test_repeats_to_the_last_bit(tiny: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    with TeacherLogits(tiny["other"], tmp_path) as teacher:
        kept = [measure_quality(tiny["torch"], OPTIONS, corpus, teacher) for _ in range(2)]
    live = measure_quality(tiny["torch"], OPTIONS, corpus, TeacherLogits(tiny["other"]))
    assert kept[0] == kept[1] == live


def test_a_stored_teacher_is_an_option(
    tiny: dict[str, Path], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    options = OPTIONS.model_copy(update={"teacher_logits": "stored"})
    assert BenchmarkOptions().teacher_logits == "live"
    found = measure_quality(tiny["torch"], options, corpus, TeacherLogits(tiny["other"]))
    assert found["top1_agreement"].conditions["teacher_logits"] == "stored, top 50 + 10 samples"
    assert len(list(tmp_path.glob("teacher-logits/*/store.json"))) == 1


def test_refuses_a_folder_that_is_no_model(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(ArtifactError, match=r"neither model\.onnx nor model"):
        measure(tmp_path, OPTIONS, corpus)
