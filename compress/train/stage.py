"""Train: cross-entropy on data, no teacher."""

from __future__ import annotations

from compress.contract import Context, Outcome
from compress.train.options import TrainOptions
from compress.training.finish import finish_training
from compress.training.loop import fit
from compress.training.objective import CrossEntropy
from compress.training.rounding import open_student
from compress.training.windows import load_examples


def run(options: TrainOptions, context: Context) -> Outcome:
    """Fit the source model to data.train; a quantized one through its rounding."""
    examples = load_examples(context, options)
    model = open_student(context.source, context.device, origin=context.origin)
    return finish_training(model, fit(model, examples, options, CrossEntropy(), context), context)
