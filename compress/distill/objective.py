"""What a student learns from a teacher: the terms of the recipe's loss, for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compress.distill import losses
from compress.distill.features import Features
from compress.distill.on_policy import OnPolicy
from compress.distill.options import LOGITS_LOSSES, DistillOptions
from compress.distill.rewriting import Rewriter
from compress.distill.teachers import LiveTeacher, StoredTeacher, TeacherRows
from compress.models.head import split
from compress.training.chunked import chunked_loss
from compress.training.losses import UNCOUNTED, cross_entropy_rows
from compress.training.objective import Batch, Sums

ALWAYS_VALIDATED = ("cross_entropy", "forward_kl")


class Distillation:
    """The mix of losses between a student and a teacher.

    teacher   answers for batches; None where the loss is of the data alone
    features  hidden states and relations to match; None where the loss has none
    writer    lets the student write its own text; None where it reads the data's only
    rewriter  replaces tokens of text that is learned again; None where it stays
    """

    def __init__(
        self,
        options: DistillOptions,
        teacher: LiveTeacher | StoredTeacher | None,
        features: Features | None = None,
        writer: OnPolicy | None = None,
        rewriter: Rewriter | None = None,
    ) -> None:
        self.options = options
        self.weights: Mapping[str, float] = options.weights()
        self.modules = features.modules if features else nn.ModuleDict()
        self.by_window = isinstance(teacher, StoredTeacher)
        self._teacher = teacher
        self._features = features
        self._writer = writer
        self._rewriter = rewriter

    def prepare(self, model: Any, batch: Batch) -> Batch:
        """Return the batch, or in its place text that the student wrote or the teacher changed."""
        prepared = self._writer.prepare(model, batch) if self._writer else batch
        return self._rewriter.prepare(prepared) if self._rewriter and not prepared.written else prepared

    def sums(self, model: Any, batch: Batch) -> Sums:
        """Return the weighted total and the sum of each term over the counted tokens of a batch.

        In validation the data's cross-entropy and, with a teacher, forward KL at temperature 1 are measured too, whatever
        their weight. (A cut vocabulary's chances are gathered at the recipe's temperature: there it is an approximation.)
        """
        body, tail = split(model)
        counted = batch.targets != UNCOUNTED
        targets = batch.targets[counted]
        asked = self._features.asked if self._features else {}
        output = body(input_ids=batch.ids, use_cache=False, **asked)
        answers = self._teacher.answer(batch, counted) if self._teacher else None
        names = self._names(batch)

        def rows_loss(logits: Tensor, part: slice) -> Sums:
            terms = self._terms(names, logits, targets[part], answers, part)
            weighted = {name: term for name, term in terms.items() if name in self.weights}
            total = losses.mix(weighted, self.weights) if weighted else logits.sum() * 0.0
            if batch.part == "validation" and self.options.temperature != 1 and answers and answers.logits:
                # measured as it is, so that stages with other temperatures can be compared
                terms["forward_kl"] = losses.forward_kl(logits, answers.logits(part))
            return total, {name: term.detach() for name, term in terms.items()}

        total, found = chunked_loss(output.last_hidden_state[:, :-1][counted], tail, rows_loss)
        if self._features and answers:
            more = self._features.terms(output, answers.output, counted)
            total = total + losses.mix(more, self.weights) * self._guidance(batch)
            found = found | {name: term.detach() for name, term in more.items()}
        return total, found

    def _guidance(self, batch: Batch) -> float:
        """Return the share of the weights that losses inside the model have at a step."""
        return 1.0 - batch.progress if self.options.fade else 1.0

    def _names(self, batch: Batch) -> list[str]:
        names = [name for name in self.weights if name in (*LOGITS_LOSSES, "cross_entropy")]
        if batch.written:
            # what the student drew from itself teaches it nothing
            names = [name for name in names if name != "cross_entropy"]
        if batch.part == "validation":
            measured = ALWAYS_VALIDATED if self._teacher else ALWAYS_VALIDATED[:1]
            names += [name for name in measured if name not in names]
        return names

    def _terms(
        self, names: list[str], logits: Tensor, targets: Tensor, answers: TeacherRows | None, part: slice
    ) -> dict[str, Tensor]:
        terms = {"cross_entropy": cross_entropy_rows(logits, targets)} if "cross_entropy" in names else {}
        asked = [name for name in names if name != "cross_entropy"]
        if not asked or answers is None:
            return terms
        if answers.stored is not None:
            ids, log_chances, shares = (one[part] for one in answers.stored)
            return terms | {"forward_kl": losses.stored_kl(logits, ids, log_chances, shares)}
        if answers.logits is None:
            return terms
        teacher = answers.logits(part)
        return terms | {name: self._logits_loss(name, logits, teacher) for name in asked}

    def _logits_loss(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        options = self.options
        if name == "jensen_shannon":
            return losses.jensen_shannon(student, teacher, options.temperature, options.beta)
        if name == "skewed_kl":
            return losses.skewed_kl(student, teacher, options.temperature, options.skew)
        if name == "skewed_reverse_kl":
            return losses.skewed_reverse_kl(student, teacher, options.temperature, options.skew)
        loss = losses.reverse_kl if name == "reverse_kl" else losses.forward_kl
        return loss(student, teacher, options.temperature)
