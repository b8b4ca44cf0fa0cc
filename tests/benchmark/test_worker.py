from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.benchmark.process import open_worker
from compress.benchmark.worker import Worker, serve
from compress.errors import StageError
from tests.models.tiny_encoder import CONTEXT, make_encoder_folder

RUN = {"prompt": 8, "new": 4, "seed": 0}


def test_an_onnx_worker_imports_no_torch(tiny: dict[str, Path]) -> None:
    with open_worker(tiny["onnx"], 1) as worker:
        loaded = worker.ask("load", folder=str(tiny["onnx"]), threads=1)
        assert worker.ask("run", **RUN)["steps_seconds"] > 0
        assert loaded["imports"] == ["onnxruntime"]
        assert worker.ask("load", folder=str(tiny["onnx"]), threads=1)["imports"] == ["onnxruntime"]
    assert (loaded["vocabulary"], loaded["context"]) == (300, 64)


def test_peak_memory_is_the_workers_own(tiny: dict[str, Path]) -> None:
    ballast = np.ones(60_000_000)  # 480 MB in this process, which ru_maxrss would hand to the child
    with open_worker(tiny["onnx"], 1) as worker:
        worker.ask("load", folder=str(tiny["onnx"]), threads=1)
        worker.ask("run", **RUN)
        peak = worker.ask("peak")
    assert 10_000_000 < peak["bytes"] < ballast.nbytes


def test_a_dead_worker_tells_its_last_words(tiny: dict[str, Path]) -> None:
    with pytest.raises(StageError) as caught, open_worker(tiny["onnx"], 1) as worker:
        worker.ask("run", **RUN)
    message = str(caught.value)
    assert message.startswith(f"{tiny['onnx']}: the process that measures speed ended (run, exit 1): Traceback")
    assert message.endswith("RuntimeError: load comes first")


def test_refuses_in_words_and_lives_on(tiny: dict[str, Path], tmp_path: Path) -> None:
    with open_worker(tmp_path, 1) as worker:
        with pytest.raises(StageError) as caught:
            worker.ask("load", folder=str(tmp_path), threads=1)
        assert worker.ask("load", folder=str(tiny["onnx"]), threads=1)["seconds"] > 0
    said = f"{tmp_path}: neither model.onnx nor model*.safetensors there; a model folder is needed"
    assert str(caught.value) == f"{tmp_path}: speed cannot be measured (load): {said}"


def test_reads_a_seeded_prompt_and_decodes_greedily(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    worker.load(str(tiny["onnx"]), 1)
    prompts: list[list[int]] = []
    tokens: list[int] = []
    start, step = worker.decoder.start, worker.decoder.step

    def watched_start(ids: np.ndarray) -> np.ndarray:
        prompts.append(ids[0].tolist())
        return start(ids)

    def watched_step(ids: np.ndarray) -> np.ndarray:
        tokens.append(int(ids[0]))
        return step(ids)

    monkeypatch.setattr(worker.decoder, "start", watched_start)
    monkeypatch.setattr(worker.decoder, "step", watched_step)
    for _ in range(2):
        times = worker.run(**RUN)
        assert 0 < times["start_seconds"] <= times["first_token_seconds"]
    assert prompts[0] == prompts[1]
    assert (len(prompts[0]), len(tokens)) == (8, 8)
    ids = [*prompts[0]]
    for token in tokens[:4]:
        assert token == int(worker.decoder.logits(np.array([ids]))[0, -1].argmax())
        ids.append(token)


def test_an_encoder_only_reads(tmp_path: Path) -> None:
    worker = Worker()
    loaded = worker.load(str(make_encoder_folder(tmp_path / "encoder")), 1)
    assert loaded["context"] == CONTEXT
    times = worker.run(prompt=CONTEXT, new=0, seed=0)
    assert list(times) == ["start_seconds"]
    assert times["start_seconds"] > 0


def test_answers_every_line(tiny: dict[str, Path]) -> None:
    answers: list[dict[str, Any]] = []
    lines = [{"do": "load", "folder": str(tiny["onnx"]), "threads": 1}, {"do": "peak"}]
    serve(io.StringIO("".join(json.dumps(line) + "\n" for line in lines)), answers.append)
    assert [sorted(answer) for answer in answers] == [
        ["context", "imports", "runtime", "seconds", "vocabulary"],
        ["bytes", "method"],
    ]
