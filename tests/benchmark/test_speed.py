from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.benchmark import speed
from compress.benchmark.options import LatencyOptions
from compress.benchmark.speed import SPEED_UNITS, measure_speed
from compress.errors import StageError
from tests.models.tiny_encoder import CONTEXT, make_encoder_folder

OPTIONS = LatencyOptions(prompt=12, new=6, repeats=5, warmup=1, threads=1)


def test_measures_torch_and_onnx_in_turns(tiny: dict[str, Path]) -> None:
    said: list[tuple[float, float]] = []
    both = {"a": tiny["torch"], "b": tiny["onnx"]}
    result = measure_speed(both, OPTIONS, lambda done, total, unit="", note="": said.append((done, total)))
    assert said == [(done, 14) for done in range(1, 15)]
    for name, runtime in (("a", "torch"), ("b", "onnxruntime")):
        assert set(result[name]) == set(SPEED_UNITS)
        for what, found in result[name].items():
            assert found.unit == SPEED_UNITS[what]
            assert found.value is not None
            assert found.value > 0
            assert found.conditions["threads"] == 1
            assert found.conditions["runtime"].split()[0] == runtime
    decode = result["b"]["decode_tokens_per_second"]
    assert decode.value == np.median(decode.samples)
    assert len(decode.samples) == 5
    assert decode.conditions["p95"] == pytest.approx(np.percentile(decode.samples, 5))
    assert decode.conditions["in_turns_with"] == 1
    first, prefill = result["b"]["first_token_ms"], result["b"]["prefill_tokens_per_second"]
    assert first.conditions["p95"] == pytest.approx(np.percentile(first.samples, 95))
    for milliseconds, rate in zip(first.samples, prefill.samples, strict=True):
        assert milliseconds >= 1000 * 12 / rate
    assert len(result["b"]["load_seconds"].samples) == 2
    assert result["b"]["peak_rss_bytes"].value < result["a"]["peak_rss_bytes"].value


def test_artifacts_that_do_not_fit_together_are_measured_apart(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_LIVE_SHARE", 0.0)
    result = measure_speed({"a": tiny["onnx"], "b": tiny["onnx"]}, OPTIONS)
    assert [result[name]["first_token_ms"].conditions["in_turns_with"] for name in "ab"] == [0, 0]


def test_an_encoder_reads_its_context_and_decodes_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    encoder = make_encoder_folder(tmp_path / "encoder")
    shut = make_encoder_folder(tmp_path / "shut")
    (shut / "model.onnx").write_bytes(b"not opened")
    result = measure_speed({"a": shut, "b": encoder, "c": tiny["onnx"]}, OPTIONS)
    assert list(result) == ["a", "b", "c"]
    prefill = result["b"]["prefill_tokens_per_second"]
    assert prefill.value == np.median(prefill.samples) > 0
    assert (prefill.conditions["prompt"], prefill.conditions["new"]) == (CONTEXT, 0)
    assert prefill.conditions["in_turns_with"] == 1
    for name in ("load_seconds", "peak_rss_bytes"):
        assert (result["b"][name].value or 0) > 0
    for name in ("decode_tokens_per_second", "first_token_ms"):
        assert result["b"][name].value is None
        assert result["b"][name].reason == "BertForSequenceClassification generates no tokens"
    said = "BertForSequenceClassification is not run from an ONNX file"
    assert {name: one.reason for name, one in result["a"].items()} == dict.fromkeys(SPEED_UNITS, said)
    assert result["c"]["decode_tokens_per_second"].value is not None


def test_over_the_context_there_is_a_reason(tiny: dict[str, Path]) -> None:
    result = measure_speed({"a": tiny["onnx"]}, LatencyOptions(prompt=60, new=5))["a"]
    assert result["load_seconds"].value is not None
    for name in set(SPEED_UNITS) - {"load_seconds"}:
        assert result[name].value is None
        assert result[name].reason == "a prompt of 60 and 5 new tokens are more than the context of 64"


def test_refuses_a_broken_artifact(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(StageError) as caught:
        measure_speed({"a": tmp_path}, OPTIONS)
    assert str(caught.value).startswith(
        f"{tmp_path}: speed cannot be measured (load): {tmp_path}/model.onnx: ONNX Runtime"
    )
