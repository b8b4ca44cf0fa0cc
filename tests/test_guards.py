"""What holds for the whole tree: import direction, no torch on the CLI path, recipes, README, sizes, assertions."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "compress"

# Imports go to a lower rank or stay inside the unit (a folder, or a file at the top). A new unit needs a place here.
RANKS = {
    "__init__": 0,
    "errors": 0,
    "options": 0,
    "artifact": 1,
    "contract": 1,
    "distributed": 1,
    "document": 1,
    "memory": 1,
    "versions": 1,
    "models": 2,
    "explain": 2,
    "data": 3,
    "templates": 3,
    "terminal": 3,
    "training": 4,
    "train": 5,
    "distill": 5,
    "prune": 5,
    "quantize": 5,
    "export": 5,
    "benchmark": 5,
    "report": 5,
    "kit": 5,
    "stages": 6,
    "stage_help": 7,
    "steps": 7,
    "needs": 8,
    "overrides": 8,
    "recipe": 9,
    "check_models": 10,
    "check_sizes": 10,
    "check_quantize": 10,
    "check_distill": 10,
    "check": 11,
    "schema": 11,
    "run": 11,
    "proof": 12,
    "rows": 12,
    "pipeline": 13,
    "bench": 14,
    "cli": 15,
    "__main__": 16,
}
HEAVY = ("torch", "transformers", "optimum", "accelerate", "datasets", "onnxruntime", "matplotlib")
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
FILE_LINES, FUNCTION_LINES = 400, 80


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imported_modules(tree: ast.AST, known: set[str], inside: str, runtime_only: bool = False) -> Iterator[str]:
    """Yield the compress modules that the module `inside` imports, but for type checking; runtime_only: none in functions."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if for_types or (runtime_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            skipped.update(each for child in node.body for each in ast.walk(child))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "compress")
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(inside.split(".")[: -node.level]) + "." if node.level else ""
            origin = f"{package}{node.module or ''}".strip(".")
            for alias in node.names if origin.split(".")[0] == "compress" else ():
                inner = f"{origin}.{alias.name}"
                yield inner if inner in known else origin


def wrong_direction(module: str, imported: str) -> str:
    """Return what is wrong with an import, or an empty string."""
    source, target = unit_of(module), unit_of(imported)
    if source == target:
        return ""
    if missing := {source, target} - RANKS.keys():
        return f"{module} imports {imported}: {', '.join(sorted(missing))} has no rank in {Path(__file__).name}"
    return "" if RANKS[target] < RANKS[source] else f"{module} imports {imported}, which does not stand below it"


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def asserts_something(function: ast.AST) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called.startswith(("check_", "assert_")) or ast.unparse(node.func) == "pytest.raises":
                return True
    return False


def shell_lines(markdown: str) -> list[str]:
    """Return the lines of the ```sh blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


def loaded_by(modules: list[str]) -> list[str]:
    """Return which heavy packages a fresh Python has loaded after it imported these modules."""
    code = f"import sys, {', '.join(modules)}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_imports_go_down_only():
    known = {name_of(path) for path in MODULES}
    wrong = [
        problem
        for path in MODULES
        for imported in imported_modules(ast.parse(path.read_text(encoding="utf-8")), known, name_of(path))
        if (problem := wrong_direction(name_of(path), imported))
    ]
    assert wrong == []
    assert len(MODULES) > 20


def test_there_is_no_import_cycle():
    known = {name_of(path) for path in MODULES}
    graph = {
        name_of(path): {
            imported
            for imported in imported_modules(
                ast.parse(path.read_text(encoding="utf-8")), known, name_of(path), runtime_only=True
            )
            if imported != name_of(path)
        }
        for path in MODULES
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) >= known


def test_the_import_guards_notice_what_they_should():
    known = {"compress.data.corpus", "compress.prune.stage"}
    text = "from compress import prune\nfrom compress.data import corpus\nimport compress.prune.stage\n"
    text += "from . import x\nfrom .cut import y\n"
    text += "def f():\n    import compress.cli\nif TYPE_CHECKING:\n    from compress.report import page\n"
    expected = ["compress", "compress.data.corpus", "compress.prune.stage", "compress.prune", "compress.prune.cut"]
    tree, inside = ast.parse(text), "compress.prune.scores"
    assert list(imported_modules(tree, known, inside, runtime_only=True)) == expected
    assert sorted(imported_modules(tree, known, inside)) == sorted([*expected, "compress.cli"])
    assert wrong_direction("compress.prune.stage", "compress.quantize.grid")
    assert wrong_direction("compress.models.folder", "compress.training.loop")
    assert wrong_direction("compress.prune.stage", "compress.surprise")
    assert not wrong_direction("compress.prune.stage", "compress.models.folder")
    assert not wrong_direction("compress.prune.stage", "compress.prune.cut")
    assert loaded_by(["matplotlib"]) == ["matplotlib"]


@pytest.mark.parametrize("module", ["stages", "recipe", "check", "schema", "pipeline", "cli"])
def test_the_path_of_the_cli_loads_nothing_heavy(module):
    assert loaded_by([f"compress.{module}"]) == []


def test_options_load_nothing_heavy():
    modules = [name_of(path) for path in sorted(PACKAGE.glob("*/options.py"))]
    assert len(modules) >= 8
    assert loaded_by(modules) == []


def test_every_recipe_is_read():
    from compress.recipe import read_recipe

    paths = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert paths
    assert all(read_recipe(path).steps for path in paths)


def test_commands_of_the_readme_exist():
    lines = shell_lines((ROOT / "README.md").read_text(encoding="utf-8"))
    targets = {word for line in lines if line.startswith("make ") for word in line.split()[1:] if "=" not in word}
    words = {line.split()[1] for line in lines if line.startswith("compress ")}
    made = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert targets
    assert targets <= made
    assert words
    for word in sorted(word for word in words if not word.startswith("-")):
        command = [sys.executable, "-m", "compress", word, "--help"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert result.returncode == 0, f"compress {word} --help: {result.stderr}"


def test_shell_lines_are_those_of_sh_blocks():
    text = "compress no\n```sh\nmake demo\ncompress check a.yaml\n```\n```yaml\nmake: no\n```\n"
    assert shell_lines(text) == ["make demo", "compress check a.yaml"]


def test_every_test_asserts_something():
    silent = [
        f"{path.relative_to(ROOT)}::{function.name}"
        for path in TESTS
        for function in functions_of(ast.parse(path.read_text(encoding="utf-8")))
        if function.name.startswith("test_") and not asserts_something(function)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("run()", False),
        ("assert x", True),
        ("check_parity(a)", True),
        ("x.assert_close(a)", True),
        ("raises(x)", False),
    ],
)
def test_the_assertion_guard_tells_them_apart(body, expected):
    assert asserts_something(ast.parse(f"def test_it():\n    {body}")) is expected
    assert asserts_something(ast.parse("with pytest.raises(ValueError):\n    run()"))


def test_files_and_functions_are_short():
    long = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > FILE_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for function in functions_of(ast.parse(text)):
            if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES:
                long.append(f"{path.relative_to(ROOT)}::{function.name}: {lines} lines")
    assert long == []
