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
