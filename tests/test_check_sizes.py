"""What check says of a cut before it is made."""

from __future__ import annotations

import pytest

from compress.check import forecasts, open_recipe
from compress.check_sizes import cut_words
from tests.tiny_check import CONFIG, TEXT, model


def after(**changes):
    return cut_words(CONFIG, CONFIG | changes)


def test_says_parameters_and_the_sizes_that_change():
    # 64 x 48 embedding, tied; a layer: 4 x 48 x 48 attention, 3 x 48 x 64 ffn, 2 x 48 norms; 48 final norm
    layer, outside = 4 * 48 * 48 + 3 * 48 * 64 + 2 * 48, 64 * 48 + 48
    whole = f"{(2 * layer + outside) / 1e6:.2f} M"
    assert after(num_hidden_layers=1) == f"{whole} -> {(layer + outside) / 1e6:.2f} M parameters: layers 2 -> 1"
    fewer = (2 * (layer - 3 * 48 * 32) + outside - 32 * 48) / 1e6
    assert after(intermediate_size=32, vocab_size=32) == (
        f"{whole} -> {fewer:.2f} M parameters: ffn 64 -> 32, vocab 64 -> 32"
    )
    assert after().endswith("parameters: nothing is cut")


@pytest.mark.parametrize(
    ("before", "changes", "expected"),
    [
        ({"num_key_value_heads": 1}, {"num_attention_heads": 1}, "heads 2 -> 1"),
        ({"num_key_value_heads": 2, "num_attention_heads": 4}, {"num_key_value_heads": 1, "num_attention_heads": 2},
         "heads 4 -> 2, key/value heads 2 -> 1"),
        ({}, {"num_attention_heads": 1, "num_key_value_heads": 1}, "heads 2 -> 1"),
        ({"vocab_size": 49_152}, {"vocab_size": 32_000}, "vocab 49,152 -> 32,000"),
    ],
)  # fmt: skip
def test_names_what_is_cut(before, changes, expected):
    assert cut_words(CONFIG | before, CONFIG | before | changes).split("parameters: ")[1] == expected


def test_large_models_are_counted_in_whole_millions():
    large = CONFIG | {"vocab_size": 3_000_000}
    assert cut_words(large, large | {"vocab_size": 2_500_000}).startswith("144 M -> 120 M parameters")


def test_an_unknown_family_has_no_words():
    assert cut_words({"model_type": "unheard-of"}, CONFIG) == ""


def test_each_step_has_its_words_from_the_one_before(tmp_path):
    model(tmp_path / "model")
    steps = (
        "  - prune: {id: a, remove: {layers: 1}}\n  - train: {id: b, tokens: 9, length: 64}\n"
        "  - prune: {id: c, remove: {ffn: 8}}\n  - export:\n"
    )
    (tmp_path / "r.yaml").write_text(TEXT + steps)
    recipe, _ = open_recipe(tmp_path / "r.yaml")
    found = forecasts(recipe)
    assert [words.partition("parameters: ")[2] for words in found] == ["layers 2 -> 1", "", "ffn 64 -> 56", ""]
    assert found[0].split(" -> ")[1].split(" p")[0] == found[2].split(" -> ")[0]


def test_a_model_of_the_hub_has_no_words(tmp_path):
    text = TEXT.replace("{model: model}", "{model: some/model}") + "  - prune: {remove: {layers: 1}}\n"
    (tmp_path / "r.yaml").write_text(text)
    assert forecasts(open_recipe(tmp_path / "r.yaml")[0]) == [""]
