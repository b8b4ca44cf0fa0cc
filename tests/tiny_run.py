"""A whole recipe, tiny: what the tests of the pipeline, of kills and of the shipped files run through the command line."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from compress.data.stories import stories
from compress.models.options import StudentOptions
from compress.models.scratch import make_scratch

QUALITY = ("perplexity", "bits_per_byte", "kl_to_teacher", "top1_agreement", "accuracy")
RECIPE = """\
recipe: 1
name: tiny
seed: 3
teacher: {model: %s}
data:
  train: {builtin: stories, seed: 2, documents: 200}
  evaluation: {builtin: stories, seed: 1, documents: 40}
stages:
  - prune:    {id: pruned, remove: {layers: 1, ffn: 0.25}, calibration: {windows: 4, length: 64}}
  - distill:  {id: student, tokens: 4096, length: 64, batch: 2, accumulate: 2, checkpoints: 16}
  - quantize: {id: int8, from: student, bits: 8}
  - quantize: {id: int4, from: student, bits: 4}
  - export:   {from: [teacher, student, int8, int4]}
benchmark: {perplexity: {length: 64, windows: 8}, accuracy: {questions: 5}, bits_per_byte: {documents: 5}, latency: false}
"""


def random_teacher(folder: Path) -> Path:
    """Write a random Llama of three layers with a tokenizer trained on the built-in stories."""
    options = StudentOptions(init="scratch", layers=3, hidden=64, ffn=128, heads=4, kv_heads=2, context=512, vocab=400)
    make_scratch(options, [story.text for story in stories(5, 100)], None, folder, seed=1)
    return folder


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Write the tiny recipe: on stories260K where COMPRESS_ASSETS names the assets, else on a random teacher."""
    assets = os.environ.get("COMPRESS_ASSETS")
    teacher = Path(assets).resolve() / "models" / "stories260K" if assets else random_teacher(folder / "teacher")
    path = folder / "tiny.yaml"
    path.write_text(text % json.dumps(str(teacher)), encoding="utf-8")
    return path


def environment(**more: str) -> dict[str, str]:
    """What every subprocess runs under: one thread, because sums in another order have other last bits."""
    return os.environ | {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "1"} | more


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "compress", "apply", str(recipe), "--out", str(out), *more]


def apply(recipe: Path, out: Path, *more: str, expected: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `compress apply` to its end, and check its exit code."""
    result = subprocess.run(
        command(recipe, out, *more), env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert result.returncode == expected, f"exit {result.returncode}: {result.stderr}"
    return result


def apply_until(recipe: Path, out: Path, moment: Callable[[], bool], signal_number: int = signal.SIGKILL) -> int:
    """Run `compress apply`, signal its process group as soon as `moment` is true, and return its exit code."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command(recipe, out), env=environment(), stdout=said, stderr=said, start_new_session=True
        )
        while process.poll() is None:
            if moment():
                os.killpg(process.pid, signal_number)
                break
            time.sleep(0.005)
        return process.wait(timeout=60)


def hashes(run: Path) -> dict[str, str]:
    """Return the sha256 of every file of every artifact."""
    files = (path for kind in ("torch", "onnx") for path in (run / kind).rglob("*") if path.is_file())
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def qualities(run: Path) -> dict[str, float | None]:
    """Return every quality value of results.json."""
    rows = json.loads((run / "results.json").read_text(encoding="utf-8"))["rows"]
    return {
        f"{row['format']}/{row['id']}/{name}": row["measurements"][name]["value"] for row in rows for name in QUALITY
    }


@functools.cache
def undisturbed() -> tuple[Path, Path, float]:
    """Return the recipe, the folder and the seconds of one run that nobody disturbed; made once, not to be changed."""
    folder = Path(tempfile.mkdtemp(prefix="compress-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    recipe = write_recipe(folder)
    started = time.monotonic()
    apply(recipe, folder / "run")
    return recipe, folder / "run", time.monotonic() - started
