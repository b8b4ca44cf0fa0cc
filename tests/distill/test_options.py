from __future__ import annotations

import pytest
from pydantic import ValidationError

from compress.distill.options import DistillOptions


def test_one_loss_or_weights():
    assert DistillOptions(tokens=8, loss="forward_kl").weights() == {"forward_kl": 1.0}
    assert DistillOptions(tokens=8, loss={"forward_kl": 0.0, "cross_entropy": 2.0}).weights() == {"cross_entropy": 2.0}
    assert DistillOptions(tokens=8).weights() == {"forward_kl": 1.0}
    distilbert = DistillOptions(tokens=8, loss={"forward_kl": 5, "cross_entropy": 2, "hidden_cosine": 1}, temperature=2)
    assert distilbert.weights() == {"forward_kl": 5.0, "cross_entropy": 2.0, "hidden_cosine": 1.0}


@pytest.mark.parametrize(
    "loss", [{}, {"forward_kl": 0.0}, {"forward_kl": -1.0, "cross_entropy": 2.0}, "kl", {"kl": 1.0}]
)
def test_no_loss_is_refused(loss):
    with pytest.raises(ValidationError):
        DistillOptions(tokens=8, loss=loss)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "needs tokens or epochs, such as tokens: 1_000_000, got none"),
        ({"tokens": 8, "epochs": 1}, "got both: 8 and 1"),
        ({"tokens": 8, "batch": 6, "accumulate": 4}, r"accumulate \(4\) must divide batch \(6\)"),
        ({"tokens": 8, "patience": 2, "checkpoints": 0}, "patience counts validations, and checkpoints: 0 makes none"),
        (
            {"tokens": 8, "teacher_logits": "stored", "loss": {"reverse_kl": 1, "forward_kl": 1}},
            "teacher_logits: stored knows forward_kl and cross_entropy, got reverse_kl",
        ),
        ({"tokens": 8, "teacher_logits": "stored", "temperature": 2}, "stored keeps the teacher at temperature 1"),
        ({"tokens": 8, "teacher_logits": "stored", "on_policy": 0.5}, "on_policy asks the teacher about new text"),
        ({"tokens": 8, "loss": "cross_entropy", "on_policy": 0.5}, "on_policy needs a loss of logits: forward_kl,"),
        ({"tokens": 8, "beta": 0.3}, "beta is for jensen_shannon, and the loss is forward_kl; leave it out"),
        (
            {"tokens": 8, "skew": 0.3, "loss": "forward_kl"},
            "skew is for skewed_kl and skewed_reverse_kl, and the loss is forward_kl; leave",
        ),
        (
            {"tokens": 8, "temperature": 2, "loss": "cross_entropy"},
            "temperature is for forward_kl, reverse_kl, jensen_shannon, skewed_kl and skewed",
        ),
        ({"tokens": 8, "top_k": 20}, "top_k is for teacher_logits: stored"),
        ({"tokens": 8, "teacher_logits": "stored", "layers": ((0, 0),)}, "layers needs a live teacher"),
        (
            {"tokens": 8, "loss": "forward_kl", "layers": ((0, 1),)},
            "layers is for hidden_mse, hidden_cosine, attention, value_relation",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        DistillOptions(**given)


def test_steps_of_tokens_and_of_epochs():
    assert DistillOptions(tokens=10_000, batch=8, length=256).steps(windows=7) == 5
    assert DistillOptions(epochs=1.5, batch=8).steps(windows=64) == 12
    assert DistillOptions(epochs=0.001, batch=8).steps(windows=64) == 1
    assert DistillOptions(epochs=2).tokens_to_read() is None
    assert DistillOptions(tokens=1000, length=256).tokens_to_read() == 1256


def test_where_curves_go_does_not_make_another_model():
    assert "report_to" not in DistillOptions(tokens=8, report_to=("tensorboard",)).model_dump()
