"""`compress stages`: every verb, every option, within the width of a terminal."""

from __future__ import annotations

import pytest

from compress.errors import CommandError
from compress.stage_help import all_stages, one_stage
from compress.stages import STAGES


def test_all_verbs_are_listed():
    lines = all_stages().splitlines()
    assert [line.split()[0] for line in lines[: len(STAGES)]] == list(STAGES)
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize("word", STAGES)
def test_every_option_is_listed_with_its_meaning(word):
    text = one_stage(word)
    assert all(len(line) <= 80 or line.startswith(f"{word}: ") for line in text.splitlines())
    for name, field in STAGES[word].options.model_fields.items():
        assert f"\n  {name}: " in text
        assert field.description.split()[0] in text
    assert ("\n  id: " in text) == (STAGES[word].gives == "torch")
    assert "\n  from: " in text


def test_kinds_defaults_and_what_is_inside_are_shown():
    text = one_stage("quantize")
    assert "  bits: 2 | 4 | 8 or mapping\n" in text
    assert "  block: 16 | 32 | 64 | 128 | 256  (default 32)\n" in text
    assert "  symmetric: true | false  (default true)\n" in text
    assert text.endswith("needs data.calibration where its options read text; gives a torch folder")
    assert "      length: whole number >= 2  (default 256)\n" in one_stage("prune")
    assert one_stage("distill").endswith("needs data.train, teacher; gives a torch folder")


def test_a_word_that_is_no_verb_is_refused():
    with pytest.raises(CommandError, match=r"^there is no stage 'prun'\. Did you mean 'prune'\?$"):
        one_stage("prun")
