from __future__ import annotations

import re
from typing import Any

import pytest

from compress.models.scheme import Scheme
from compress.quantize.options import QuantizeOptions
from compress.quantize.schemes import Assignment, Matrix, assign, matrices_of, plan
from compress.quantize.stage import list_matrices
from tests.references.tiny_families import ARCHITECTURES, ENCODERS, tiny_config, tiny_model

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 192,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
EVERY = [(family, name) for family, names in ARCHITECTURES.items() for name in names]
EMBEDDING = "model.embed_tokens.weight"


def options_of(**said: Any) -> QuantizeOptions:
    return QuantizeOptions.model_validate({"bits": 4, **said})


def assigned(config: dict[str, Any] = LLAMA, **said: Any) -> Assignment:
    return assign(options_of(**said), matrices_of(config))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "architecture"), EVERY)
def test_the_matrices_of_a_config_are_those_of_the_model(family: str, architecture: str, tied: bool) -> None:
    model = tiny_model(family, tied, architectures=[architecture])
    found = matrices_of(tiny_config(family, tied, architectures=[architecture]).to_dict())
    expected, weights = list_matrices(model)
    assert {(frozenset(each.names), each.shape) for each in found} == {
        (frozenset(each.names), each.shape) for each in expected
    }
    assert {each.name for each in found} == set(weights)
    assert len(found) == len(expected) == len({id(weight) for weight in weights.values()})


def test_a_family_that_is_not_known_has_no_matrices() -> None:
    assert matrices_of({"model_type": "mamba"}) == []


def test_without_patterns_every_matrix_has_one_scheme() -> None:
    found = assigned(bits=8, block=64, symmetric=False)
    assert found.left_out == {}
    assert len(found.schemes) == 2 * 7 + 1
    for matrix in matrices_of(LLAMA):
        assert found.schemes[matrix.name] == Scheme(8, 64, False, (matrix.shape[0], matrix.shape[1]))


def test_no_block_is_one_for_each_output_channel() -> None:
    found = assigned(block=None).schemes
    assert found["model.layers.0.mlp.down_proj.weight"] == Scheme(4, 96, True, (192, 96))
    assert found["model.layers.0.mlp.up_proj.weight"].groups == 1


def test_what_later_patterns_say_of_a_weight_holds_and_the_rest_is_as_for_all() -> None:
    found = assigned(
        block=32,
        weights={"*.mlp.*": {"bits": 8}, "*down_proj*": {"bits": 2, "symmetric": False}, "*.1.*": {"block": 16}},
    ).schemes
    expected = {
        "model.layers.0.mlp.up_proj.weight": (8, 32, True),
        "model.layers.0.mlp.down_proj.weight": (2, 32, False),
        "model.layers.1.mlp.down_proj.weight": (2, 16, False),
        "model.layers.1.self_attn.q_proj.weight": (4, 16, True),
        EMBEDDING: (4, 32, True),
    }
    assert {name: (found[name].bits, found[name].block, found[name].symmetric) for name in expected} == expected


def test_a_tied_embedding_goes_by_the_name_of_the_head_too() -> None:
    assert assigned(weights={"lm_head*": {"bits": 8}}).schemes[EMBEDDING].bits == 8
    assert assigned(leave_out=("lm_head.weight",)).left_out == {EMBEDDING: "lm_head.weight"}


def test_a_weight_that_is_left_out_has_no_scheme_and_the_first_pattern_is_said() -> None:
    found = assigned(leave_out=("*q_proj*", "*.0.*"), weights={"*q_proj*": {"bits": 8}})
    assert found.left_out["model.layers.0.self_attn.q_proj.weight"] == "*q_proj*"
    assert found.left_out["model.layers.0.mlp.up_proj.weight"] == "*.0.*"
    assert not set(found.left_out) & set(found.schemes)
    assert len(found.left_out) + len(found.schemes) == 2 * 7 + 1


@pytest.mark.parametrize("said", [{"bits": {"budget": 4.5}}, {"bits": None, "size_mb": 2.5}])
def test_where_bits_are_chosen_each_weight_starts_with_four(said: dict[str, Any]) -> None:
    found = assigned(**said, weights={"*q_proj*": {"bits": 2}}).schemes
    assert {scheme.bits for name, scheme in found.items() if "q_proj" not in name} == {4}
    assert found["model.layers.1.self_attn.q_proj.weight"].bits == 2


@pytest.mark.parametrize(("what", "patterns"), [("leave_out", ("*.wq",)), ("weights", {"*.wq": {"bits": 8}})])
def test_a_pattern_that_matches_nothing_is_refused(what: str, patterns: Any) -> None:
    # every third of the fifteen
    layers = ("0.self_attn.v_proj", "0.mlp.up_proj", "1.self_attn.k_proj")
    shown = ", ".join([EMBEDDING, *(f"model.layers.{path}.weight" for path in layers)])
    said = f"quantize.{what}: '*.wq' matches no weight; there are, for example, {shown}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        plan(options_of(**{what: patterns}), LLAMA)


def test_leaving_everything_out_is_refused() -> None:
    said = "quantize.leave_out matches every weight; nothing is left to quantize"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        plan(options_of(leave_out=("*proj*", "*embed*")), LLAMA)


def test_plan_gives_the_config_of_the_model() -> None:
    found = plan(options_of(), LLAMA)
    assert found == LLAMA
    assert found is not LLAMA


@pytest.mark.parametrize(
    ("width", "block", "advice"),
    [
        (192, 128, "the nearest block that does is 64"),
        (48, 32, "the nearest block that does is 16"),
        (40, 32, "no block does; leave it out: leave_out: [model.embed_tokens.weight]"),
    ],
)
def test_a_block_that_does_not_divide_a_tied_embedding_is_refused(width: int, block: int, advice: str) -> None:
    said = f"quantize.block {block} does not divide the width {width} of the tied embedding; {advice}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        plan(options_of(block=block), {**LLAMA, "hidden_size": width})


def test_that_block_is_legal_when_untied_or_left_out_or_another_is_said_for_it() -> None:
    untied = {**LLAMA, "tie_word_embeddings": False}
    assert plan(options_of(block=128), untied) == untied
    assert plan(options_of(block=128, leave_out=("*embed_tokens*",)), LLAMA) == LLAMA
    assert plan(options_of(block=128, weights={"*embed_tokens*": {"block": 64}}), LLAMA) == LLAMA
    assert plan(options_of(block=None), LLAMA) == LLAMA


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "smollm3"])
def test_some_families_are_tied_without_saying_so(family: str) -> None:
    config = {key: value for key, value in tiny_config(family).to_dict().items() if key != "tie_word_embeddings"}
    config["hidden_size"] = 48
    with pytest.raises(ValueError, match=r"^quantize\.block 32 does not divide the width 48 of the tied embedding; "):
        plan(options_of(block=32), config)


def test_gpt2_is_refused() -> None:
    said = (
        "quantize does not take models of type 'gpt2': their layers store weights with the input axis first and no ONNX export "
        "takes them; start from a Llama-like model"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        plan(options_of(), {"model_type": "gpt2", "n_embd": 64})


def test_layers_that_are_not_known_are_rounded_to_nearest_alone() -> None:
    config = {"model_type": "mixtral", "hidden_size": 64}
    assert plan(options_of(), config) == config
    with pytest.raises(
        ValueError, match=r"^method gptq does not know the layers of 'mixtral' models; use method: rtn$"
    ):
        plan(options_of(method="gptq"), config)


def test_windows_longer_than_the_context_are_refused() -> None:
    short = {**LLAMA, "max_position_embeddings": 64}
    assert plan(options_of(), short) == short
    assert plan(options_of(method="gptq", calibration={"length": 64}), short) == short
    said = "quantize.calibration.length 256 is longer than the model's context of 64 tokens; use at most 64"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        plan(options_of(method="gptq"), short)
    # positions of RoBERTa are counted from the padding token
    roberta = tiny_config("roberta").to_dict()
    with pytest.raises(ValueError, match=r"64 is longer than the model's context of 63 tokens; use at most 63$"):
        plan(options_of(method="gptq", calibration={"length": 64}), roberta)


@pytest.mark.parametrize("family", ENCODERS)
def test_bits_are_chosen_by_weight_only_where_there_is_a_loss(family: str) -> None:
    for name in ARCHITECTURES[family]:
        config = tiny_config(family, architectures=[name]).to_dict()
        options = options_of(bits={"budget": 6}, calibration={"length": 32})
        if name.endswith("MaskedLM"):
            assert plan(options, config) == config
            continue
        said = f"bits chosen by weight need the loss of a language model, and {name} is none; use bits: 2, 4 or 8"
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            plan(options, config)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_inputs_of_tables_are_not_rounded(family: str) -> None:
    for name in ARCHITECTURES[family]:
        config = tiny_config(family, architectures=[name]).to_dict()
        found = assign(options_of(bits=8, activations="static"), matrices_of(config)).schemes
        tables = {each for each, scheme in found.items() if scheme.activations == "none"}
        tied = {each.name for each in matrices_of(config) if len(each.names) > 1}
        assert tables == {each for each in found if "_embeddings." in each} - tied


def test_a_matrix_matches_by_any_of_its_names_case_and_all() -> None:
    matrix = Matrix(("a.weight", "lm_head.weight"), (4, 4))
    assert matrix.name == "a.weight"
    assert [matrix.matches(pattern) for pattern in ("a.*", "lm_*", "LM_*", "a", "*[t]")] == [
        True,
        True,
        False,
        False,
        True,
    ]
