from __future__ import annotations

import pytest
from pydantic import ValidationError

from compress.distill.options import DistillOptions


def test_one_loss_or_weights():
    assert DistillOptions(tokens=8, loss="forward_kl").weights() == {"forward_kl": 1.0}
    assert DistillOptions(tokens=8, loss={"forward_kl": 0.0, "cross_entropy": 2.0}).weights() == {"cross_entropy": 2.0}
    assert DistillOptions(tokens=8).weights() == {"forward_kl": 0.9, "cross_entropy": 0.1}


@pytest.mark.parametrize(
    "loss", [{}, {"forward_kl": 0.0}, {"forward_kl": -1.0, "cross_entropy": 2.0}, "kl", {"kl": 1.0}]
)
def test_no_loss_is_refused(loss):
    with pytest.raises(ValidationError):
        DistillOptions(tokens=8, loss=loss)
