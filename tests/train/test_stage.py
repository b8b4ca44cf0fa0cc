"""Train on text in which the next token mostly follows from the last."""

from __future__ import annotations

import dataclasses
import json

import pytest

from compress.errors import StageError
from compress.train.options import TrainOptions
from compress.train.stage import run
from tests.training.tiny_fit import LENGTH, context, write_model

OPTIONS = TrainOptions(tokens=60 * 4 * LENGTH, length=LENGTH, batch=4, checkpoints=2, learning_rate=1e-2)


def test_train_learns_what_the_text_says(tmp_path):
    outcome = run(OPTIONS, context(tmp_path, write_model(tmp_path / "source")))
    assert outcome.facts["first_loss"] == pytest.approx(4.09, abs=0.2)  # ln 60
    assert outcome.facts["validation_loss"] < 2.5
    assert (outcome.facts["steps"], outcome.facts["tokens"]) == (60, 60 * 4 * LENGTH)
    assert outcome.skipped == ()


def test_train_without_data_is_refused(tmp_path):
    without = dataclasses.replace(context(tmp_path, write_model(tmp_path / "source")), data=None)
    with pytest.raises(StageError, match=r"training needs data\.train, the recipe has none"):
        run(OPTIONS, without)


def test_a_model_that_sees_the_next_token_is_refused(tmp_path):
    source = write_model(tmp_path / "source")
    config = json.loads((source / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (source / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(StageError) as caught:
        run(TrainOptions(tokens=320, length=LENGTH), context(tmp_path, source))
    assert str(caught.value) == (
        f"{source}: BertForMaskedLM is no causal language model, and only those learn the next token; leave the stage out"
    )
