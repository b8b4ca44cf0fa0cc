"""Before the first stage runs every planned config is built; what transformers refuses stops the recipe, and nothing is made."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from compress import proof
from compress.errors import StageError
from compress.models import families
from compress.models.family_table import FAMILIES
from compress.models.skeleton import prove_shapes
from tests.fake_stages import TEXT, apply, leftovers, prepare
from tests.tiny_run import random_teacher

CUT = """\
recipe: 1
name: fake
teacher: {model: teacher}
data: {train: {files: [train.txt], separator: "---"}}
stages:
  - train: {id: first, tokens: 64}
  - prune: {id: small, remove: {hidden: 4, ffn: 8}}
  - train: {id: student, tokens: 64}
  - prune: {id: again, remove: {layers: 1, heads: {kv_groups: 1}}}
benchmark: false
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return random_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def place(tmp_path, teacher, monkeypatch):
    return prepare(tmp_path, teacher, monkeypatch)


@pytest.fixture
def proven(monkeypatch):
    """The configs that were built, in order."""
    import compress.models.skeleton as skeleton

    found: list[dict] = []
    monkeypatch.setattr(skeleton, "prove_shapes", lambda config: (found.append(dict(config)), prove_shapes(config))[1])
    return found


@pytest.fixture
def wrong_table(monkeypatch):
    """A table that lets every hidden width of a Llama pass, which transformers does not."""
    wrong = {**FAMILIES, "llama": dataclasses.replace(FAMILIES["llama"], whole_heads=False)}
    monkeypatch.setattr(families, "FAMILIES", wrong)


def _artifacts(place) -> list[str]:
    return sorted(path.name for kind in ("torch", "onnx") for path in (place / "run" / kind).glob("*"))


def test_what_transformers_refuses_stops_the_recipe_before_anything_is_made(place, wrong_table):
    text = CUT.replace("hidden: 4", "hidden: 6")
    with pytest.raises(StageError) as caught:
        apply(place, text=text)
    assert str(caught.value) == (
        "small (prune): transformers refuses the config: Class validation error for validator 'validate_architecture': "
        "ValueError: The hidden size (58) is not a multiple of the number of attention heads (4).; nothing was run"
    )
    assert _artifacts(place) == []
    assert leftovers(place) == []


def test_what_the_table_does_not_describe_stops_the_recipe_too(place, monkeypatch):
    llama = FAMILIES["llama"]
    rows = tuple(row for row in llama.layer if row.path != "mlp.up_proj")
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, "llama": dataclasses.replace(llama, layer=rows)})
    with pytest.raises(StageError) as caught:
        apply(place)
    assert str(caught.value).startswith(
        "small (prune): the model of this config is not what the family table says: "
        "model.layers.0.mlp.up_proj.weight is (128, 64), the family table says nothing of it"
    )
    assert str(caught.value).endswith("; nothing was run")
    assert _artifacts(place) == []


def test_every_cut_is_built_once_and_what_changes_no_size_is_not(place, proven):
    made, _ = apply(place, text=CUT)
    assert made == ["first", "small", "student", "again"]
    sizes = [
        (each["num_hidden_layers"], each["hidden_size"], each["intermediate_size"], each["num_attention_heads"])
        for each in proven
    ]
    # The second cut is planned from the first one's config.
    assert sizes == [(3, 60, 120, 4), (2, 60, 120, 2)]


def test_where_all_is_reused_nothing_is_built(place, proven):
    apply(place)
    assert len(proven) == 1
    proven.clear()
    made, said = apply(place)
    assert (made, said.count(": reused")) == ([], 4)
    assert proven == []
    # One stage that has to run is reason enough to prove the whole recipe, once.
    made, _ = apply(place, **{"bits: 8": "bits: 8, block: 64", "bits: 4}": "bits: 4, block: 64}"})
    assert made == ["int8", "int4"]
    assert len(proven) == 1


def test_a_plan_that_does_not_hold_is_a_message_and_nothing_is_run(place, monkeypatch):
    from compress import pipeline

    # As where check could not read the config of a hub model.
    monkeypatch.setattr(pipeline, "check", lambda recipe: [])
    with pytest.raises(StageError) as caught:
        apply(place, text=TEXT.replace("layers: 1", "layers: 3"))
    assert str(caught.value) == (
        "small (prune): remove.layers 3 would remove 3 of 3 layers; at least 1 must stay: use a count of at most 2; nothing was run"
    )
    assert _artifacts(place) == []


SCRATCH = """\
recipe: 1
name: scratch
student: {init: scratch, layers: 2, hidden: 32, ffn: 48, heads: 4, context: 64, vocab: 300}
data: {train: {builtin: stories, documents: 30}}
stages:
  - prune: {id: small, remove: {layers: 1}, calibration: {length: 32}}
benchmark: false
"""


def test_a_start_that_is_still_to_be_made_is_not_taken_from_an_older_recipe(place, proven):
    apply(place, text=SCRATCH)
    assert proven == []
    # Four layers less than the folder that is there has: only the start of this recipe has so many.
    text = SCRATCH.replace("layers: 2, hidden", "layers: 6, hidden").replace("{layers: 1}", "{layers: 4}")
    made, said = apply(place, text=text)
    assert made == ["small"]
    assert "start (start): made again: options.layers was 2, is 6" in said
    assert proven == []
    # Now it is there, and what is cut from it is proven.
    apply(place, text=text.replace("{layers: 4}", "{layers: 5}"))
    assert [each["num_hidden_layers"] for each in proven] == [1]


def test_a_start_whose_manifest_cannot_be_read_is_still_to_be_made(place, proven):
    apply(place, text=SCRATCH)
    (place / "run" / "torch" / "start" / "artifact.json").write_text("{")
    _, said = apply(place, text=SCRATCH.replace("{layers: 1}", "{ffn: 8}"))
    assert "start (start): made again" in said
    assert proven == []


def test_a_recipe_that_cuts_nothing_needs_no_torch_for_its_proof(tmp_path, teacher):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from compress.proof import prove_plans\n"
        "from compress.run import Node\n"
        f"prove_plans([Node('start', 'start', 'torch', Path({str(teacher)!r}), 'key', {{}})])\n"
        "print(json.dumps([name for name in ('torch', 'transformers') if name in sys.modules]))\n"
    )
    result = subprocess.run([sys.executable, "-c", f"import json\n{code}"], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
    assert proof.prove_plans([]) is None
