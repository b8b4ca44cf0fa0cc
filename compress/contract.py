"""What passes between the pipeline and a stage: Context in, Outcome out; and Measurement, what a benchmark says.

A stage is `run(options, context) -> Outcome`: it reads the folder `context.source`, fills the folder `context.target`,
and prints nothing. The pipeline writes artifact.json and renames the folder into place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from compress.data.corpus import Corpus

Json = dict[str, Any]


class Progress(Protocol):
    """Says how far a stage is: `done` of `total` units; `note` is a short text such as a loss. Cheap to call often."""

    def __call__(self, done: float, total: float, unit: str = "", note: str = "") -> None:
        """Take the news."""
        ...


def silent(done: float, total: float, unit: str = "", note: str = "") -> None:
    """A Progress that says nothing."""


class DataAccess(Protocol):
    """The recipe's data, tokenized for the model at hand by whoever asks."""

    def __call__(self, part: str, tokenizer_folder: Path, tokens: int | None = None) -> Corpus:
        """Return the part `train`, `validation`, `calibration` or `evaluation`, with the tokenizer of that folder.

        With `tokens`, documents are read until there are that many; None reads them all.
        """
        ...

    def has(self, part: str) -> bool:
        """Say whether the recipe has the part, or it can be taken out of train."""
        ...


@dataclass(frozen=True)
class Context:
    """What a stage may use besides its options.

    source   the model folder that the stage starts from; read only
    target   an empty folder to fill; it becomes the artifact when the stage returns
    scratch  a folder for checkpoints: it outlives a kill, and goes when the stage has finished
    teacher  the teacher's folder, where the recipe has one
    origin   the folder that the source was made from, where the recipe made it
    data     tokenized parts of the recipe's data
    device   "cpu" or "cuda"
    curves   where trackers of a training may write: it outlives the stage, and is no part of the artifact
    """

    source: Path
    target: Path
    scratch: Path
    seed: int
    device: str = "cpu"
    teacher: Path | None = None
    origin: Path | None = None
    data: DataAccess | None = None
    progress: Progress = silent
    curves: Path | None = None


@dataclass(frozen=True)
class Skipped:
    """Something that the stage left as it was: never silent (principle 5)."""

    name: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a stage says of its work. `facts` is JSON that follows from the inputs alone (no times, no paths):
    it goes into artifact.json and the report."""

    facts: Json = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One measured value with its unit, raw samples and conditions. A value of None has a reason."""

    value: float | None
    unit: str
    conditions: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[float, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is None and not self.reason:
            raise ValueError("a measurement without a value needs a reason")

    def to_json(self) -> Json:
        """Return the form of results.json; empty samples and reason are left out."""
        entry: Json = {"value": self.value, "unit": self.unit, "conditions": dict(self.conditions)}
        if self.samples:
            entry["samples"] = list(self.samples)
        if self.reason:
            entry["reason"] = self.reason
        return entry


def measurement_from_json(entry: Json) -> Measurement:
    """Return the Measurement that `to_json` wrote."""
    return Measurement(
        entry["value"],
        entry["unit"],
        entry.get("conditions", {}),
        tuple(entry.get("samples", ())),
        entry.get("reason", ""),
    )
