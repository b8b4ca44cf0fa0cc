"""transformers' Trainer with our loss, our order of the data, and checkpoints that a kill cannot break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from compress.contract import Json
from compress.errors import StageError
from compress.training.checkpoint import PREFIX, seal
from compress.training.losses import UNCOUNTED, next_tokens
from compress.training.objective import Batch, Learner, Objective
from compress.training.optimizer import make_optimizer
from compress.training.options import TrainingOptions
from compress.training.phases import two_phases
from compress.training.rounding import is_rounded, typical_step
from compress.training.windows import Examples

WEIGHTS = "model.safetensors"
_SHOWN_WINDOWS = 8


class WindowTrainer(Trainer):  # type: ignore[misc]
    """A Trainer of a Learner."""

    control: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(self, objective: Objective, examples: Examples, options: TrainingOptions, **settings: Any) -> None:
        super().__init__(**settings)
        self.objective = objective
        self.examples = examples
        self.options = options
        self.model_accepts_loss_kwargs = True  # so that it counts the targets of a step, over all processes
        self.loss_is_scaled_for_ga = True
        self.judged_from = 0  # the step from which validations count for patience
        self._terms: dict[str, Tensor] = {}
        self._counted: Tensor | int = 0
        self._unproven: list[tuple[int, Tensor, Tensor]] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimizer that the options name."""
        if self.optimizer is None:
            rate, decay = float(self.args.learning_rate), self.options.weight_decay
            name = self.options.optimizer or "muon"
            self.optimizer = make_optimizer(model or self.model, name, rate, decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule of the options; a quantized student goes through it twice."""
        if self.lr_scheduler is None and is_rounded(self.model):
            own = optimizer or self.optimizer
            self.lr_scheduler = two_phases(own, self.options, num_training_steps, typical_step(self.model))
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted loss per counted token of the whole step, over all its pieces and processes."""
        step = self.state.global_step
        given = Batch(
            inputs["input_ids"],
            inputs["labels"][:, 1:],
            inputs["windows"],
            "train",
            step,
            again=inputs["again"],
            progress=step / self.state.max_steps,
        )
        batch = self.objective.prepare(self.accelerator.unwrap_model(model).model, given)
        total, terms = model(batch)
        self._unproven.append((step, batch.windows, total.detach()))
        if total.device.type == "cpu":  # elsewhere to look at a number is to wait for it
            self._prove_finite()
        counted = (batch.targets != UNCOUNTED).sum()
        self._note(terms, counted)
        if num_items_in_batch is None or batch.written:
            # text that the student wrote: its tokens are known only now
            loss = total / counted.clamp(min=1) / self.options.accumulate
        else:
            # the gradient is a mean over the processes, the loss one over all their tokens
            loss = total * self.accelerator.num_processes / torch.as_tensor(num_items_in_batch, device=total.device)
        return (loss, None) if return_outputs else loss

    def _prove_finite(self) -> None:
        """Raise StageError, with the step and the windows, for the first loss that is no number."""
        unproven, self._unproven = self._unproven, []
        if not unproven or torch.isfinite(torch.stack([total for _, _, total in unproven])).all():
            return
        step, windows, total = next(found for found in unproven if not torch.isfinite(found[2]))
        named = ", ".join(map(str, windows[:_SHOWN_WINDOWS].tolist())) + (" …" if len(windows) > _SHOWN_WINDOWS else "")
        raise StageError(
            f"the loss is {total.item()} at step {step + 1} (windows {named} of train); "
            "use a lower learning_rate or precision: fp32"
        )

    def _note(self, terms: dict[str, Tensor], counted: Tensor) -> None:
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0) + value.float()
        self._counted = self._counted + counted

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with each term's mean per counted token beside the loss."""
        if "loss" in logs and self._terms:
            self._prove_finite()
            sums = torch.stack([*self._terms.values(), torch.as_tensor(self._counted).float()])
            *values, count = self.accelerator.reduce(sums).tolist()
            logs |= {name: value / max(count, 1.0) for name, value in zip(self._terms, values, strict=True)}
            self._terms, self._counted = {}, 0
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log the validation windows' loss and terms. Every process validates all of them, and takes the first one's word."""
        found = [validate(self.model, self.examples, self.args.train_batch_size)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        metrics = {f"eval_{name}": value for name, value in found[0].items()}
        self.log(metrics)
        # tells the Trainer that this point is done: it would ask again at the end of the epoch
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save or self.is_fsdp_enabled:  # under FSDP the Trainer saves the pieces
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_each_once(state_dict or self.model.state_dict(keep_vars=True)), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled == (Path(resume_from_checkpoint) / WEIGHTS).is_file():
            before = "without" if self.is_fsdp_enabled else "with"
            raise StageError(
                f"{resume_from_checkpoint}: this checkpoint was written {before} FSDP; start as before, or apply with --fresh"
            )
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, Path(resume_from_checkpoint))

    def load_step(self, step: int) -> None:
        """Take the weights of the checkpoint of a step."""
        self._load_from_checkpoint(str(Path(self.args.output_dir) / f"{PREFIX}{step}"), self.model_wrapped)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            best = best_step(self.state.log_history, self.judged_from) if self.options.patience else None
            seal(Path(self.args.output_dir) / f"{PREFIX}{self.state.global_step}", keep=best)


class Patience(TrainerCallback):  # type: ignore[misc]
    """Stops after so many validations without a lower loss. It remembers nothing: a resume finds all in the log."""

    def __init__(self, patience: int, since: int = 0) -> None:
        self.patience, self.since = patience, since

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a stop where it is time."""
        if is_over(state.log_history, self.patience, self.since):
            control.should_training_stop = True


def best_step(history: list[Json], since: int = 0) -> int | None:
    """Return the step of the lowest validation loss of a Trainer's log from step `since` on, the first of equal ones; None
    without validations."""
    found = [
        (entry["eval_loss"], entry["step"]) for entry in history if "eval_loss" in entry and entry["step"] >= since
    ]
    return min(found)[1] if found else None


def is_over(history: list[Json], patience: int, since: int = 0) -> bool:
    """Say whether so many validations have gone by since the lowest loss, of those from step `since` on."""
    best = best_step(history, since)
    if best is None:
        return False
    later: int = sum("eval_loss" in entry and entry["step"] > best for entry in history)
    return later >= patience


def _each_once(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor of a state under its first name: tied weights are one."""
    seen: set[int] = set()
    found = {}
    for name, value in state.items():
        if id(value) not in seen:
            seen.add(id(value))
            found[name] = value.detach().contiguous()
    return found


def load_weights(learner: Learner, checkpoint: Path) -> None:
    """Take the weights of a checkpoint."""
    saved = load_file(checkpoint / WEIGHTS)
    wanted = _each_once(learner.state_dict(keep_vars=True))
    if different := sorted(wanted.keys() ^ saved.keys()):
        raise StageError(
            f"{checkpoint}: the checkpoint is of another model ({', '.join(different[:3])}); apply with --fresh"
        )
    learner.load_state_dict(saved, strict=False)


@torch.no_grad()
def validate(learner: Any, examples: Examples, batch: int) -> dict[str, float]:
    """Return the weighted loss, as `loss`, and each term per counted token of the validation windows, in nats."""
    was_training = learner.training
    learner.eval()
    device = next(learner.parameters()).device
    sums: dict[str, Tensor] = {}
    count = 0
    for start in range(0, len(examples.validation_ids), batch):
        part = slice(start, start + batch)
        ids = torch.from_numpy(examples.validation_ids[part]).to(device)
        targets = next_tokens(ids, torch.from_numpy(examples.validation_counted[part]).to(device))
        windows = torch.arange(start, start + len(ids), device=device)
        total, terms = learner(Batch(ids, targets, windows, "validation"))
        for name, value in ({"loss": total} | terms).items():
            sums[name] = sums.get(name, 0) + value.double()
        count += int((targets != UNCOUNTED).sum())
    learner.train(was_training)
    return {name: float(value) / count for name, value in sums.items()}
