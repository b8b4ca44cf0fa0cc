"""What a student matches inside the teacher: hidden states and self-attention, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from compress.distill.hidden import hidden_cosine, hidden_mse, layer_map, projection
from compress.distill.options import HIDDEN_LOSSES, RELATION_LOSSES, DistillOptions
from compress.distill.relations import Captured, attention_kl, relation_heads, value_relation
from compress.models.families import shape_of
from compress.models.pruning_record import Record

Pairs = list[tuple[int, int]]


class Features:
    """The terms of hidden states and attention between one student and one teacher.

    Hidden states: hidden_mse compares every pair of the layer map, hidden_cosine and the relations the last one, unless the
    recipe names layers, which then hold for all. Each term is the mean over its pairs.

    modules  projections, one for each student layer that is compared, where the widths differ
    asked    what both bodies must give besides their last hidden state

    Raises ValueError where the loss does not fit the two models.
    """

    def __init__(self, options: DistillOptions, student: Any, teacher: Any, record: Record | None, seed: int) -> None:
        names = set(options.weights())
        own, other = shape_of(student.config.to_dict()), shape_of(teacher.config.to_dict())
        given = None if options.layers is None else [(own, other) for own, other in options.layers]
        pairs = layer_map(own.layers, other.layers, given, _kept(record, "layers"))
        last = pairs if given else pairs[-1:]
        self.pairs: dict[str, Pairs] = {
            name: pairs if name == "hidden_mse" else last
            for name in (*HIDDEN_LOSSES, *RELATION_LOSSES)
            if name in names
        }
        hidden = bool(names & {*HIDDEN_LOSSES})
        self.asked = {"output_hidden_states": True} if hidden else {}
        self.modules = nn.ModuleDict()
        if hidden and own.hidden != other.hidden:
            compared = sorted({pair[0] for name in HIDDEN_LOSSES for pair in self.pairs.get(name, [])})
            kept = _kept(record, "hidden")
            self.modules.update({str(at): projection(own.hidden, other.hidden, kept, seed) for at in compared})
        self._heads = relation_heads(own, other) if "value_relation" in names else 0
        if "attention" in names and own.heads != other.heads:
            raise ValueError(
                f"attention needs one number of heads: the student has {own.heads}, the teacher {other.heads}; "
                "use value_relation, which takes any"
            )
        self._captured = {
            name: [(_capture(student, pair[0], name), _capture(teacher, pair[1], name)) for pair in self.pairs[name]]
            for name in RELATION_LOSSES
            if name in names
        }

    def terms(self, student: Any, teacher: Any, counted: Tensor) -> dict[str, Tensor]:
        """Return each term, summed over the counted rows.

        Shapes: outputs of both bodies for ids [B, T]; counted [B, T-1] bool, of the token that follows.
        """
        found = {}
        for name, pairs in self.pairs.items():
            parts = (
                self._hidden(name, pairs, student, teacher, counted)
                if name in HIDDEN_LOSSES
                else self._relations(name, counted)
            )
            found[name] = sum(parts[1:], parts[0]) / len(parts)
        return found

    def _hidden(self, name: str, pairs: Pairs, student: Any, teacher: Any, counted: Tensor) -> list[Tensor]:
        loss = hidden_mse if name == "hidden_mse" else hidden_cosine
        parts = []
        for own, other in pairs:
            rows = student.hidden_states[own + 1][:, :-1][counted]
            if str(own) in self.modules:
                rows = self.modules[str(own)](rows)
            parts.append(loss(rows, teacher.hidden_states[other + 1][:, :-1][counted]))
        return parts

    def _relations(self, name: str, counted: Tensor) -> list[Tensor]:
        # a token stands as a row where the one after it is learned
        rows = functional.pad(counted, (0, 1), value=False)
        parts = []
        for own, other in self._captured[name]:
            mine, wanted = own.take(), other.take()
            if name == "attention":
                parts.append(attention_kl(mine, wanted, rows))
            else:
                parts.append(value_relation(mine, wanted, rows, self._heads))
        return parts


def _capture(model: Any, layer: int, name: str) -> Captured:
    what: Literal["values", "attention"] = "values" if name == "value_relation" else "attention"
    if what == "attention":
        model.set_attn_implementation("eager")
    return Captured(model, layer, what)


def _kept(record: Record | None, axis: str) -> Sequence[bool] | None:
    return [bool(one) for one in record[axis].kept] if record and axis in record else None
