"""The command line: what goes where, exit codes, help, and how little it loads."""

# ruff: noqa: E501 - the tables hold whole messages

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from compress import __version__, cli
from compress.errors import ArtifactError, MissingExtra, StageError
from compress.models.folder import read_config
from compress.models.origin import EMBEDDED

ROOT = Path(__file__).parents[1]
COMMANDS = ("init", "check", "apply", "compare", "generate", "bench", "stages", "schema")
HEAVY = ("torch", "transformers", "datasets", "onnxruntime", "tokenizers", "matplotlib", "numpy")
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
PLANTED = """recipe: 1
name: planted
seed: yes
teacher: {builtin: storyteller}
data:
  train: {builtin: stories}
  evaluation: {files: [missing.txt]}
stages:
  - prune:    {id: slim, remove: {layers: 99}}
  - distil:   {id: student, tokens: 1000}
  - quantize: {id: int4, from: student, bits: 3}
  - export:   {from: [student, int8]}
"""
EXPECTED = """planted.yaml:3:1: error: seed must be a whole number, got 'yes'
    seed: yes
    ^
planted.yaml:7:24: error: data file missing.txt: there is no such file; look at the path (it is relative to the recipe file)
      evaluation: {files: [missing.txt]}
                           ^
planted.yaml:9:5: error: stages[0].prune: remove.layers 99 would remove 99 of LAYERS layers; at least 1 must stay: use a count of at most MOST
      - prune:    {id: slim, remove: {layers: 99}}
        ^
planted.yaml:10:5: error: stages[1]: there is no stage 'distil'. Did you mean 'distill'?
      - distil:   {id: student, tokens: 1000}
        ^
planted.yaml:11:41: error: stages[2].quantize.bits must be 2, 4 or 8, or {budget: …}, got 3
      - quantize: {id: int4, from: student, bits: 3}
                                            ^
planted.yaml:12:32: error: stages[3].export.from: there is no 'int8' above. Did you mean 'int4'?
      - export:   {from: [student, int8]}
                                   ^
6 errors. Nothing was run.
"""
ROW = {
    "id": "int4",
    "source": "teacher",
    "stage": "quantize",
    "format": "onnx",
    "precision": "int4",
    "parameters": 10,
    "size_bytes": 5_000_000,
    "measurements": {"perplexity": {"value": 3.0, "unit": "", "conditions": {}}},
    "seconds": None,
    "peak_memory_bytes": None,
    "path": "onnx/int4",
}


def results(met: bool) -> dict[str, Any]:
    teacher = ROW | {"id": "teacher", "source": None, "precision": "fp32", "size_bytes": 4_000_000}
    limit = {"id": "int4", "name": "size_mb", "limit": 1.0, "found": 5.0, "met": met}
    recipe = {"name": "fake", "text": "", "overrides": []}
    return {"schema": 1, "recipe": recipe, "environment": {}, "data": {}, "rows": [teacher, ROW], "stages": [], "limits": [limit]}  # fmt: skip


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compress", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "80"} | environment,
        check=False,
    )


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["compress", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize("command", ["check", "apply"])
def test_planted_mistakes_are_all_reported_and_nothing_runs(tmp_path, command):
    (tmp_path / "planted.yaml").write_text(PLANTED, encoding="utf-8")
    layers = read_config(EMBEDDED["storyteller"])["num_hidden_layers"]
    done = run(command, "planted.yaml", cwd=tmp_path)
    expected = EXPECTED.replace("LAYERS", str(layers)).replace("MOST", str(layers - 1))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert [path.name for path in tmp_path.iterdir()] == ["planted.yaml"]


def test_check_lists_the_steps():
    done = run("check", "recipes/quickstart.yaml", "--set", "stages.int4.block=64")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "recipes/quickstart.yaml: no errors, 8 steps"
    assert lines[1] == "  prune     start -> torch/pruned   2.98 M -> 2.31 M parameters: ffn 576 -> 384"
    assert lines[2] == "  distill   pruned -> torch/student"
    assert lines[-1] == "  export    int4 -> onnx/int4"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_readable_on_80_columns_and_shows_examples(command):
    done = run(*[command] * bool(command), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "..." not in done.stdout.replace("[ARGS]...", "").replace("{RUN}...", "")
    assert f"\n  compress {command}" in done.stdout
    if not command:
        assert [line.split()[0] for line in done.stdout.split("Commands:\n")[1].splitlines()[: len(COMMANDS)]] == list(COMMANDS)  # fmt: skip
        assert "Exit codes: 0 done; 1 a stage failed; 2 recipe or command wrong; 3 done but" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["check", str(QUICKSTART)], ["stages", "prune"], ["schema"]])
def test_quick_commands_load_little_and_are_quick(arguments):
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]; from compress.cli import main\n"
        "try: main()\n"
        f"finally: print(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert time.monotonic() - started < 2
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_version():
    assert run("--version").stdout == f"compress {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["frob"], 2, "No such command 'frob'"),
        (["check"], 2, "Missing argument 'RECIPE'"),
        (["check", "no.yaml"], 2, "no.yaml: error: there is no such file; `compress init` writes a recipe to start from\n1 error. Nothing was run."),
        (["check", "."], 2, ".: error: this is a folder; give the recipe file in it\n1 error. Nothing was run."),
        (["stages", "prun"], 2, "error: there is no stage 'prun'. Did you mean 'prune'?"),
        (["init", "quick"], 2, "error: there is no recipe 'quick'. Did you mean 'quickstart'?"),
        (["init", "--out", "no/such/r.yaml"], 1, "error: no/such/r.yaml: No such file or directory"),
        (["apply", str(QUICKSTART), "--out", "file"], 2, "error: --out file: file is a file; a folder is needed"),
        (["apply", str(QUICKSTART), "--out", "file/x"], 2, "error: --out file/x: file is a file; a folder is needed"),
        (["compare", "none"], 1, "error: no results.json in: none; give run folders that `compress apply` has finished"),
        (["generate", ".", "x"], 1, "error: .: neither model.onnx nor model*.safetensors there; a model folder is needed"),
        (["generate", "none", "x"], 1, "error: none: no such folder; give a model folder (model.onnx or model.safetensors, and config.json)"),
        (["bench", "none"], 1, "error: none: no such folder; give a model folder (model.onnx or model.safetensors, and config.json)"),
        (["bench", ".", "--separator", "x"], 2, "error: --separator needs --text, in which it stands between documents"),
        (["bench", ".", "--teacher", "x"], 2, "error: --teacher needs --text: KL and agreement are measured on a text"),
        (["bench", ".", "--text", "none.txt"], 2, "error: --text none.txt: there is no such file"),
        (["bench", ".", "--text", "file"], 2, "error: --text: data file file: format '' is not read; use one of .txt, .md, .jsonl, .json, .csv, .tsv, .parquet"),
    ],
)  # fmt: skip
def test_a_wrong_command_has_a_message_and_a_code(tmp_path, monkeypatch, capsys, arguments, code, message):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err if said.err.startswith("Usage") else said.err == message + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_init_writes_a_recipe_once_and_a_schema_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "init") == 0
    assert "next: compress apply quickstart.yaml" in capsys.readouterr().out
    assert (tmp_path / "quickstart.yaml").read_bytes() == QUICKSTART.read_bytes()
    assert (tmp_path / "recipe.schema.json").read_bytes() == (ROOT / "recipes" / "recipe.schema.json").read_bytes()
    (tmp_path / "quickstart.yaml").write_text("mine")
    assert call(monkeypatch, "init") == 2
    assert "there is such a file or folder already" in capsys.readouterr().err
    assert (tmp_path / "quickstart.yaml").read_text() == "mine"
    assert call(monkeypatch, "init", "storyteller", "--out", "s.yaml") == 0
    assert (tmp_path / "s.yaml").is_file()
    capsys.readouterr()
    assert call(monkeypatch, "init", "list") == 0
    assert capsys.readouterr().out.startswith("quickstart\n    The embedded teacher")


def test_a_missed_limit_is_said_first_and_exits_with_3(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compress.pipeline.apply", lambda *_: results(met=False))
    assert call(monkeypatch, "apply", str(QUICKSTART)) == 3
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "Limit missed: int4: size_mb is 5, the limit is 1"
    assert said.err.splitlines()[1].startswith("Larger than fp32: int4 (ONNX)")
    assert "| int4" in said.out
    monkeypatch.setattr("compress.pipeline.apply", lambda *_: results(met=True))
    assert call(monkeypatch, "apply", str(QUICKSTART)) == 0


def test_json_is_all_that_stands_on_stdout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compress.pipeline.apply", lambda *_: results(met=False))
    assert call(monkeypatch, "apply", str(QUICKSTART), "--json") == 3
    said = capsys.readouterr()
    assert json.loads(said.out) == results(met=False)
    assert "Limit missed" in said.err


def test_a_terminal_gets_a_table_with_footnotes_last(monkeypatch, capsys):
    from rich.console import Console

    from compress.report.table import fit

    cli._print_table(Console(width=60), fit(results(met=True), 60))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert any("teacher" in line and "4.00" in line for line in lines)
    note = next(index for index, line in enumerate(lines) if line.startswith("Left out for width"))
    assert note > max(index for index, line in enumerate(lines) if "teacher" in line and "4.00" in line)
    assert not any("│" in line for line in lines[note:])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (StageError("int4: broken"), 1, "error: int4: broken\n"),
        (ArtifactError("runs/x: damaged"), 1, "error: runs/x: damaged\n"),
        (MissingExtra("search", "search"), 2, "error: search needs an extra that is not installed. Install it: pip install 'compress-workbench[search]'\n"),
        (OSError(28, "No space left on device", "x"), 1, "error: x: No space left on device\n"),
    ],
)  # fmt: skip
def test_failures_have_a_message_and_a_code(tmp_path, monkeypatch, capsys, error, code, message):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compress.pipeline.apply", fail)
    assert call(monkeypatch, "apply", str(QUICKSTART)) == code
    assert capsys.readouterr() == ("", message)


def test_an_interrupt_exits_with_130(tmp_path):
    code = (
        "import sys, time, types\n"
        "fake = types.ModuleType('compress.pipeline')\n"
        "def apply(*_):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        "fake.apply = apply\n"
        "sys.modules['compress.pipeline'] = fake\n"
        f"sys.argv = ['compress', 'apply', {str(QUICKSTART)!r}]\n"
        "from compress.cli import main\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said == "interrupted: what is finished stays, and so do checkpoints; apply again to go on\n"


def test_what_a_locale_cannot_write_ends_no_run(tmp_path):
    command = [sys.executable, "-m", "compress", "init", "--out", "\u25bc.yaml"]
    western = os.environ | {"PYTHONIOENCODING": "latin-1:strict"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=western, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote ?.yaml ")


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m compress schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def test_generate_and_bench_work_on_a_torch_folder(tmp_path, monkeypatch, capsys):
    teacher = str(EMBEDDED["storyteller"])
    assert call(monkeypatch, "generate", teacher, "Tom", "--new", "4") == 0
    assert capsys.readouterr().out.startswith("Tom")
    text = tmp_path / "text.txt"
    text.write_text("Tom saw a dog. The dog was big.\n<end>\nAnna had a cat.\n<end>\n" * 20, encoding="utf-8")
    monkeypatch.setattr("compress.benchmark.measure.measure_speed", lambda *_: {"storyteller": {}})
    arguments = ["bench", teacher, "--text", str(text), "--separator", "<end>", "--teacher", teacher, "--json"]
    assert call(monkeypatch, *arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["id"] for row in rows] == ["storyteller"]
    assert rows[0]["measurements"]["perplexity"]["value"] > 1
    assert rows[0]["measurements"]["kl_to_teacher"]["value"] == pytest.approx(0, abs=1e-6)
