"""One command from a teacher to measured ONNX folders, tiny: the same that test_bars.py proves on real input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from compress.data.stories import stories
from compress.models.scratch import train_tokenizer
from tests import shipped
from tests.tiny_run import apply, hashes, qualities, undisturbed

EXPORTED = ["teacher", "student", "int8", "int4"]
RECIPES = Path(__file__).resolve().parents[1] / "recipes"
LINE = re.compile(
    r".*: making|.*: done in [\d.]+ s.*|.*: reused|.*: \d[\d,]* of .* left.*|.*report\.html|"
    r"LIMIT MISSED: .*|quality: \d+ of \d+ rows as measured before|speed and memory: as measured before; .*"
)


@pytest.fixture(scope="module")
def run():
    return undisturbed()[1]


@pytest.fixture(scope="module")
def rows(run):
    return shipped.rows_of(run)


def test_there_is_a_row_for_every_artifact(rows, run):
    torch_ids = [identity for kind, identity in rows if kind == "torch"]
    assert sorted(torch_ids) == sorted(["teacher", "pruned", "student", "int8", "int4"])
    assert sorted(identity for kind, identity in rows if kind == "onnx") == sorted(EXPORTED)
    assert all(value is not None for value in qualities(run).values())
    for row in rows.values():
        assert (run / row["path"]).resolve().is_dir()
        assert row["size_bytes"] > 0
        assert row["parameters"] > 0


def test_there_are_a_page_and_plots(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert not re.search(r"""(src|href)=["']https?://""", page)
    names = {path.name for path in (run / "plots").iterdir()}
    assert {path.removesuffix(".png") for path in names if path.endswith(".png")} == {
        path.removesuffix(".svg") for path in names if path.endswith(".svg")
    }
    assert names


def test_files_say_what_torch_says(rows):
    shipped.check_perplexities(rows)


def test_an_outside_scorer_agrees(rows, run, tmp_path):
    tool = shipped.outside_tool()
    if tool is None:
        pytest.skip("neither COMPRESS_TOOLS nor a tools folder beside COMPRESS_ASSETS is there: no outside scorer")
    text = tmp_path / "evaluation.txt"
    text.write_text("<|endoftext|>".join(story.text for story in stories(1, 40)), encoding="utf-8")
    for identity in EXPORTED:
        own = rows["onnx", identity]["measurements"]["perplexity"]["value"]
        assert shipped.outside_perplexity(tool, run / "onnx" / identity, text, 8, 64) == pytest.approx(own, rel=0.001)


@pytest.mark.parametrize("identity", ["pruned", "student", "int8", "int4"])
def test_every_torch_folder_opens_with_transformers(run, identity):
    model = AutoModelForCausalLM.from_pretrained(run / "torch" / identity)
    assert torch.isfinite(model(torch.tensor([[1, 5, 9]])).logits).all()


@pytest.mark.parametrize("identity", EXPORTED)
def test_three_runtimes_say_the_same_tokens(run, rows, identity, tmp_path):
    prompt = [1, *Tokenizer.from_file(str(run / "onnx" / identity / "tokenizer.json")).encode("Once upon a time").ids]
    if identity == "teacher":  # its torch folder stands outside the run
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "teacher").symlink_to((run / rows["torch", "teacher"]["path"]).resolve())
        (tmp_path / "onnx").symlink_to(run / "onnx")
        run = tmp_path
    shipped.check_greedy(run, identity, prompt)


def test_a_second_apply_reuses_everything_and_says_the_same(run):
    recipe, _, _ = undisturbed()
    before, values = hashes(run), qualities(run)
    result = apply(recipe, run, "--json")
    assert json.loads(result.stdout) == json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert result.stderr.count(": reused") == 8
    assert [line for line in result.stderr.splitlines() if not LINE.fullmatch(line)] == []
    assert (hashes(run), qualities(run)) == (before, values)


def test_nothing_is_written_outside_the_run_folder_and_nobody_else_speaks(tmp_path):
    recipe, _, _ = undisturbed()
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    result = apply(
        recipe, tmp_path / "run", "--set", "benchmark={bits_per_byte: false, accuracy: false, latency: false}",
        HOME=str(tmp_path / "home"), XDG_CACHE_HOME=str(tmp_path / "home"), MPLCONFIGDIR=str(tmp_path / "fonts"),
    )  # fmt: skip
    assert list((tmp_path / "home").rglob("*")) == []
    assert [line for line in result.stderr.splitlines() if not LINE.fullmatch(line)] == []
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock", ".state", "onnx", "plots", "report.html", "results.json", "table.md", "torch",
    ]  # fmt: skip


def test_the_recipe_for_smollm2_runs_on_a_random_model_of_its_shape(tmp_path):
    """Two layers of it and a sixth of its tokens, with a tokenizer of fewer tokens than the embedding has rows."""
    teacher = tmp_path / "smollm2"
    train_tokenizer([story.text for story in stories(0, 50)], 1000, teacher)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(teacher)
    (tmp_path / "text.txt").write_text("|".join(story.text for story in stories(1, 30)), encoding="utf-8")
    source = json.dumps({"files": [str(tmp_path / "text.txt")], "separator": "|"})
    changes = [
        f"teacher={json.dumps({'model': str(teacher)})}",
        f"data.calibration={source}",
        f"data.evaluation={source}",
        "benchmark={perplexity: {length: 64, windows: 4}, bits_per_byte: false, accuracy: false, latency: false}",
    ]
    arguments = [part for change in changes for part in ("--set", change)]
    apply(RECIPES / "smollm2-135m-int4.yaml", tmp_path / "run", *arguments)
    rows = shipped.rows_of(tmp_path / "run")
    assert {(kind, identity): row["precision"] for (kind, identity), row in rows.items()} == {
        ("torch", "teacher"): "fp32", ("torch", "int8"): "int8", ("torch", "int4"): "int4",
        ("onnx", "teacher"): "fp32", ("onnx", "int8"): "int8", ("onnx", "int4"): "int4",
    }  # fmt: skip
    sizes = [rows["onnx", identity]["size_bytes"] for identity in ("teacher", "int8", "int4")]
    assert sizes[1] < 0.32 * sizes[0]
    assert sizes[2] < 0.18 * sizes[0]
    shipped.check_greedy(tmp_path / "run", "int4", [1, 5, 9, 40])
