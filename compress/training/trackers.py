"""Where curves go besides the report: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from typing import Any

from compress.contract import Context
from compress.distributed import process
from compress.errors import MissingExtra, StageError

_EXTRA = "tensorboard"


def missing(trackers: Iterable[str]) -> list[str]:
    """Return which trackers' packages are not installed."""
    return [name for name in trackers if importlib.util.find_spec(name) is None]


def missing_words(name: str) -> str:
    """Return what to say of a tracker whose package is not installed."""
    if name == _EXTRA:
        return str(MissingExtra(f"report_to: {name}", _EXTRA))
    return f"report_to: {name} needs a package that is not installed. Install it: pip install {name}"


def refuse_missing(trackers: Iterable[str]) -> None:
    """Raise MissingExtra or StageError, with the command that installs it, for a tracker that is not installed."""
    for name in missing(trackers):
        if name == _EXTRA:
            raise MissingExtra(f"report_to: {name}", _EXTRA)
        raise StageError(missing_words(name))


def curve_callbacks(trackers: Iterable[str], context: Context, step: int = 0) -> list[Any]:
    """Return the Trainer's callbacks that send curves to trackers; in the first process alone.

    tensorboard  files in context.curves, from `step` on
    wandb        to its server, as the package is set up (WANDB_MODE, WANDB_PROJECT); offline where the hub is (HF_HUB_OFFLINE)
    mlflow       to MLFLOW_TRACKING_URI, without one into the current folder
    """
    if not process().first:
        return []
    from transformers.integrations import MLflowCallback, WandbCallback

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        os.environ.setdefault("WANDB_MODE", "offline")
    makers = {"tensorboard": lambda: _tensorboard(context, step), "wandb": WandbCallback, "mlflow": MLflowCallback}
    return [makers[name]() for name in trackers]


def _tensorboard(context: Context, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    folder = context.curves or context.scratch / "curves"
    if not step:
        shutil.rmtree(folder, ignore_errors=True)
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=step + 1 if step else None))
