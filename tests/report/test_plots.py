"""Every plot as PNG and SVG, byte for byte the same, without pyplot."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from compress.report.plots import NAMES, draw

Json = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n"


def test_all_plots_are_written_and_the_same_results_give_the_same_bytes(results: Json, tmp_path: Path) -> None:
    written = draw(results, tmp_path / "a")
    again = draw(results, tmp_path / "b")
    assert [path.name for path in written] == [
        f"{name}.{kind}" for name in NAMES if name != "side-by-side" for kind in ("png", "svg")
    ]
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    assert all(path.read_bytes().startswith(PNG) for path in written if path.suffix == ".png")
    assert len({path.read_bytes() for path in written}) == len(written)


def test_other_processes_and_settings_give_the_same_bytes(results: Json, tmp_path: Path) -> None:
    import json

    (tmp_path / "results.json").write_text(json.dumps(results))
    code = (
        "import json, sys, matplotlib; matplotlib.rcParams['font.size'] = 30; from pathlib import Path; "
        "from compress.report.plots import draw; root = Path(sys.argv[1]); "
        "draw(json.loads((root / 'results.json').read_text()), root / 'there'); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    for path in draw(results, tmp_path / "here"):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_the_user_s_settings_are_put_back(results: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 21.0)
    draw(results, tmp_path)
    assert matplotlib.rcParams["font.size"] == 21.0
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_files_hold_no_date_and_no_program(results: Json, tmp_path: Path) -> None:
    for path in draw(results, tmp_path):
        data = path.read_bytes()
        assert b"dc:date" not in data
        assert b"Software" not in data


def test_without_logs_there_are_no_curves_and_old_ones_go(results: Json, tmp_path: Path) -> None:
    draw(results, tmp_path)
    assert (tmp_path / "training.svg").is_file()
    results["stages"][0]["log"] = []
    written = draw(results, tmp_path)
    assert len(written) == 6
    assert not (tmp_path / "training.svg").exists()
    assert not (tmp_path / "training.png").exists()


def test_plots_without_data_are_left_out_and_old_ones_go(results: Json, tmp_path: Path) -> None:
    draw(results, tmp_path)
    assert (tmp_path / "quality-against-decode-speed.png").is_file()
    for row in results["rows"]:
        del row["measurements"]["decode_tokens_per_second"]
    names = {path.name for path in draw(results, tmp_path) if path.suffix == ".svg"}
    assert names == {"quality-against-size.svg", "stages.svg", "training.svg"}
    assert {path.name for path in tmp_path.glob("*.svg")} == names
    for row in results["rows"]:
        row["measurements"] = {}
    results.update(stages=[], rows=results["rows"][:1])
    assert draw(results, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_names_that_look_like_mathematics_or_need_other_letters_are_only_text(results: Json, tmp_path: Path) -> None:
    results["rows"][0]["id"] = "$\\frac{1}{"
    results["stages"][0]["id"] = "模型 $x"
    assert len(draw(results, tmp_path)) == 8


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_any_number_of_rows(results: Json, row: Callable[..., Json], rows: int, tmp_path: Path) -> None:
    made = [row(f"artifact-{i}", "student", "onnx", "int4", (1.0 + i, 6.0 + 0.1 * i, 100.0)) for i in range(rows)]
    results.update(rows=made, stages=[])
    assert [path.stat().st_size > 1000 for path in draw(results, tmp_path)] == [True] * 6
