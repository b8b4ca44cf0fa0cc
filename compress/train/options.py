"""Options of the verb `train`. Imports no torch."""

from __future__ import annotations

from compress.training.options import TrainingOptions


class TrainOptions(TrainingOptions):
    """Fit the model to the data with cross-entropy; no teacher is asked."""
