from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from compress.quantize.options import QuantizeOptions, plan

LLAMA = {"model_type": "llama", "hidden_size": 192, "tie_word_embeddings": True}


def test_plan_gives_the_config_of_the_model() -> None:
    assert plan(QuantizeOptions(bits=4), LLAMA) == LLAMA


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
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        plan(QuantizeOptions(bits=4, block=block), {**LLAMA, "hidden_size": width})


def test_that_block_is_legal_when_untied_or_left_out() -> None:
    untied = {**LLAMA, "tie_word_embeddings": False}
    assert plan(QuantizeOptions(bits=4, block=128), untied) == untied
    assert plan(QuantizeOptions(bits=4, block=128, leave_out=("*embed_tokens*",)), LLAMA) == LLAMA


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "smollm3"])
def test_some_families_are_tied_without_saying_so(family: str) -> None:
    with pytest.raises(ValueError, match="tied embedding"):
        plan(QuantizeOptions(bits=4, block=256), {"model_type": family, "hidden_size": 64})


def test_gpt2_is_refused() -> None:
    with pytest.raises(
        ValueError, match="quantize does not take models of type 'gpt2': their layers store weights with"
    ):
        plan(QuantizeOptions(bits=4), {"model_type": "gpt2", "n_embd": 64})


def test_three_bits_are_refused() -> None:
    with pytest.raises(ValidationError):
        QuantizeOptions.model_validate({"bits": 3})
