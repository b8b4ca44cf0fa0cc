"""Train: cross-entropy on data, no teacher."""

from __future__ import annotations

from torch import Tensor

from compress.contract import Context, Outcome
from compress.models.folder import load_model
from compress.train.options import TrainOptions
from compress.training.finish import finish_training
from compress.training.loop import fit, load_examples
from compress.training.losses import cross_entropy


def run(options: TrainOptions, context: Context) -> Outcome:
    """Fit the source model to data.train."""
    examples = load_examples(context, options)
    model = load_model(context.source, context.device)

    def loss_sum(logits: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets)

    return finish_training(model, fit(model, examples, options, loss_sum, context), context)
