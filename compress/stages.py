"""The table of verbs: word -> options, what runs, what it takes and gives. Tables, help and JSON Schema are printed from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from compress.distill.options import DistillOptions
from compress.export import options as export
from compress.options import Options
from compress.prune.options import PruneOptions
from compress.prune.plan import plan as plan_prune
from compress.quantize.options import QuantizeOptions
from compress.train.options import TrainOptions

Plan = Callable[[Any, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One verb.

    run       "module:function", loaded when the stage runs
    gives     what kind of folder comes out; every stage takes a torch folder
    revision  is raised when the same options begin to give other bytes
    needs     parts of the data without which the stage cannot work
    reads     parts of the data that it uses where the recipe has them
    teacher   whether it asks the teacher
    plan      config.json before -> config.json after, or ValueError; no torch
    reads_text  whether these options make the stage read what it `needs`; None: it always does
    """

    word: str
    summary: str
    options: type[Options]
    run: str
    gives: Literal["torch", "onnx"] = "torch"
    revision: int = 1
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    teacher: bool = False
    quantized_source: bool = False
    plan: Plan | None = None
    reads_text: Callable[[Any], bool] | None = None

    def needs_of(self, options: Any) -> tuple[str, ...]:
        """Return the parts of the data without which the stage cannot do what its options say."""
        return self.needs if self.reads_text is None or self.reads_text(options) else ()


def _plan_quantize(options: QuantizeOptions, config: dict[str, Any]) -> dict[str, Any]:
    # imports numpy, which most commands do not need
    from compress.quantize.open_grids import refuse_impossible
    from compress.quantize.schemes import plan

    after = plan(options, config)
    refuse_impossible(options, config)
    return after


def _reads_text(options: QuantizeOptions) -> bool:
    return options.reads_text


def _rows() -> tuple[Stage, ...]:
    return (
        Stage(
            "train",
            "fit a model to data with cross-entropy; no teacher is asked",
            TrainOptions,
            "compress.train.stage:run",
            revision=3,
            needs=("train",),
            reads=("validation",),
            quantized_source=True,
        ),
        Stage(
            "prune",
            "cut layers, feed-forward, heads, width and tokens that matter least, and repair the rest",
            PruneOptions,
            "compress.prune.stage:run",
            revision=3,
            needs=("calibration",),
            reads=("train",),
            plan=plan_prune,
        ),
        Stage(
            "distill",
            "fit the student to the teacher: next tokens, hidden states, attention",
            DistillOptions,
            "compress.distill.stage:run",
            revision=3,
            needs=("train",),
            reads=("validation",),
            teacher=True,
            quantized_source=True,
        ),
        Stage(
            "quantize",
            "put every matrix on a grid of 2, 4 or 8 bits in blocks",
            QuantizeOptions,
            "compress.quantize.stage:run",
            revision=2,
            needs=("calibration",),
            plan=_plan_quantize,
            reads_text=_reads_text,
        ),
        Stage(
            "export",
            "write ONNX files and prove that they say what torch says",
            export.ExportOptions,
            "compress.export.stage:run",
            gives="onnx",
            reads=("calibration",),
            quantized_source=True,
            plan=export.plan,
        ),
    )


STAGES: dict[str, Stage] = {stage.word: stage for stage in _rows()}
