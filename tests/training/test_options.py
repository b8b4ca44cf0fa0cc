from __future__ import annotations

import pytest
from pydantic import ValidationError

from compress.training.options import TrainingOptions


def test_pieces_must_divide_the_batch():
    assert TrainingOptions(tokens=8, batch=6, accumulate=3).accumulate == 3
    with pytest.raises(ValidationError, match=r"accumulate \(4\) must divide batch \(6\)"):
        TrainingOptions(tokens=8, batch=6, accumulate=4)


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"length": 4}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"clip": 0}])
def test_values_that_make_no_training_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingOptions(**({"tokens": 8} | wrong))


def test_tokens_or_epochs_say_how_long():
    assert TrainingOptions(tokens=4097, length=64, batch=8).steps(windows=3) == 9
    assert TrainingOptions(epochs=2, length=64, batch=8).steps(windows=100) == 25
    assert TrainingOptions(epochs=0.01, length=64, batch=8).steps(windows=100) == 1
    assert TrainingOptions(tokens=100, length=64).tokens_to_read() == 164
    assert TrainingOptions(epochs=1).tokens_to_read() is None
    for wrong, found in (({}, "none"), ({"tokens": 8, "epochs": 1}, "both")):
        with pytest.raises(ValidationError, match=f"needs tokens or epochs, such as tokens: 1_000_000, got {found}"):
            TrainingOptions(**wrong)


def test_patience_needs_validations():
    with pytest.raises(ValidationError, match="patience counts validations, and checkpoints: 0 makes none"):
        TrainingOptions(tokens=8, patience=1, checkpoints=0)
