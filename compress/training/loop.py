"""The Trainer wiring that train and distill share: windows in, a fitted model and its log out.

transformers' Trainer does the steps, the schedule, bf16 and the state of a resume. Ours are the order of the data (one
sequence of windows, fixed by the seed, so that a resume continues in it), the loss, and checkpoints that a kill cannot break.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from compress.contract import Context, Json
from compress.data.corpus import Ids, Mask
from compress.errors import StageError
from compress.models.folder import read_config
from compress.models.kind import is_causal, not_causal
from compress.training.checkpoint import FOLDER, newest, seal
from compress.training.losses import UNCOUNTED, next_tokens
from compress.training.options import TrainingOptions

LossSum = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [B, T-1, V], ids [B, T], targets [B, T-1]) -> the loss summed over the counted targets."""

LOG_ENTRIES = 200
_VALIDATION_WINDOWS = 32


@dataclass(frozen=True)
class Examples:
    """Windows to learn from and windows to validate on: ids [N, T] and counted [N, T]."""

    ids: Ids
    counted: Mask
    validation_ids: Ids
    validation_counted: Mask

    @property
    def can_validate(self) -> bool:
        """Whether there is a counted token to validate on: a short validation text has not one window."""
        return bool(self.validation_counted[:, 1:].any())


def load_examples(context: Context, options: TrainingOptions) -> Examples:
    """Return the windows of train and validation with the tokenizer of the model at hand.

    Raises StageError when train has less than one window, and for a model that is no causal language model: it sees the token
    that it would learn to predict.
    """
    config = read_config(context.source)
    if not is_causal(config):
        raise StageError(
            f"{context.source}: {not_causal(config)}, and only those learn the next token; leave the stage out"
        )
    if context.data is None:
        raise StageError("training needs data.train, the recipe has none")
    train = context.data("train", context.source, options.tokens + options.length)
    ids, counted = train.windows(options.length)
    if not len(ids):
        raise StageError(
            f"data.train has {len(train.ids)} tokens, one window takes {options.length}; give more text or a smaller length"
        )
    validation = context.data("validation", context.source, _VALIDATION_WINDOWS * options.length)
    return Examples(ids, counted, *validation.windows(options.length, _VALIDATION_WINDOWS))


class WindowSequence(Dataset[dict[str, Tensor]]):
    """Every window that will be seen, in order: pass after pass over the data, each in its own seeded order."""

    def __init__(self, examples: Examples, length: int, seed: int) -> None:
        self.examples = examples
        available = len(examples.ids)
        random = np.random.default_rng([seed, 0xC0FFEE])
        passes = [random.permutation(available) for _ in range(math.ceil(length / available))]
        self.order = np.concatenate(passes)[:length]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = self.order[index]
        ids = torch.from_numpy(self.examples.ids[window])
        counted = torch.from_numpy(self.examples.counted[window])
        labels = torch.where(counted, ids, torch.full_like(ids, UNCOUNTED))
        labels[0] = UNCOUNTED  # nothing stands before it: the Trainer counts labels, and this is no target
        return {"input_ids": ids, "labels": labels}


class _Trainer(Trainer):  # type: ignore[misc]
    control: Any

    def __init__(self, loss_sum: LossSum, examples: Examples, **settings: Any) -> None:
        super().__init__(**settings)
        self.loss_sum = loss_sum
        self.examples = examples
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ids, labels = inputs["input_ids"], inputs["labels"]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        targets = labels[:, 1:]
        count = num_items_in_batch if num_items_in_batch is not None else (targets != UNCOUNTED).sum()
        total = self.loss_sum(logits, ids, targets)
        if not torch.isfinite(total):
            raise StageError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}; use a lower learning_rate or precision: fp32"
            )
        loss = total / torch.clamp(torch.as_tensor(count, device=total.device), min=1)
        return (loss, None) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_loss": validate(self.model, self.examples, self.loss_sum, self.args.train_batch_size)}
        self.log(metrics)
        # tells the Trainer that this point is done: it would ask again at the end of the epoch
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")


@torch.no_grad()
def validate(model: Any, examples: Examples, loss_sum: LossSum, batch: int) -> float:
    """Return the mean loss per counted token of the validation windows, in nats; at least one token must be counted."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for start in range(0, len(examples.validation_ids), batch):
        ids = torch.from_numpy(examples.validation_ids[start : start + batch]).to(device)
        counted = torch.from_numpy(examples.validation_counted[start : start + batch]).to(device)
        targets = next_tokens(ids, counted)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        total += float(loss_sum(logits, ids, targets))
        count += int((targets != UNCOUNTED).sum())
    model.train(was_training)
    return total / count


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]
    def __init__(self, context: Context, tokens_per_step: int) -> None:
        self.context, self.tokens_per_step, self.note = context, tokens_per_step, ""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.note = f"loss {float(logs['loss']):.3f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            control.should_log = True  # the last steps, where the interval does not divide them
        done, total = state.global_step * self.tokens_per_step, state.max_steps * self.tokens_per_step
        self.context.progress(done, total, "tokens", self.note)


def fit(model: Any, examples: Examples, options: TrainingOptions, loss_sum: LossSum, context: Context) -> list[Json]:
    """Fit the model in place and return its log: one entry for each logged step, in order.

    Entries hold step, tokens, loss (per counted token, nats; mean over the steps since the entry before), learning_rate and
    gradient_norm, or validation_loss. Resumes from the newest complete checkpoint in context.scratch; the result is that of a straight run.
    """
    uses_cache = model.config.use_cache
    tokens_per_step = options.batch * options.length
    steps = math.ceil(options.tokens / tokens_per_step)
    sequence = WindowSequence(examples, steps * options.batch, context.seed)
    trainer = _Trainer(
        loss_sum,
        examples,
        model=model,
        args=_arguments(options, steps, context, examples.can_validate),
        train_dataset=sequence,
        eval_dataset=sequence,  # asked for by the Trainer; evaluate() below reads the validation windows
        data_collator=_stack,
        callbacks=[_ProgressCallback(context, tokens_per_step)],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest(Path(trainer.args.output_dir))
    with warnings.catch_warnings():
        # torch's own loader of pinned memory, asked for by the Trainer, warns where there is no accelerator
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval()
    model.config.use_cache = uses_cache  # the Trainer turns it off, and so it would be saved
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise StageError(f"the weights are not finite after step {steps}; use a lower learning_rate or precision: fp32")
    return [entry for found in trainer.state.log_history if (entry := _entry(found, tokens_per_step))]


def _stack(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def _arguments(options: TrainingOptions, steps: int, context: Context, validates: bool) -> TrainingArguments:
    log_every, save_every = intervals(steps, options.checkpoints)
    saving = "steps" if options.checkpoints else "no"
    arguments = TrainingArguments(
        output_dir=str(context.scratch / FOLDER),
        max_steps=steps,
        per_device_train_batch_size=options.batch // options.accumulate,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.schedule if options.schedule != "constant" else "constant_with_warmup",
        warmup_steps=round(options.warmup * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.clip,
        adam_beta2=0.95,
        bf16=options.precision == "bf16",
        use_cpu=context.device == "cpu",
        seed=context.seed,
        data_seed=context.seed,
        logging_strategy="steps",
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        save_strategy=saving,
        save_steps=save_every,
        eval_strategy=saving if validates else "no",
        eval_steps=save_every,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    # on several accelerators the Trainer would take the batch once for each, by DataParallel
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def intervals(steps: int, checkpoints: int) -> tuple[int, int]:
    """Return the steps between log entries and between checkpoints; the second is a multiple of the first,
    because a resume starts a new mean of the loss."""
    log_every = max(1, steps // LOG_ENTRIES)
    wished = max(1, steps // checkpoints) if checkpoints else steps
    return log_every, max(log_every, wished // log_every * log_every)


def _entry(found: dict[str, Any], tokens_per_step: int) -> Json | None:
    names = {
        "loss": "loss",
        "learning_rate": "learning_rate",
        "grad_norm": "gradient_norm",
        "eval_loss": "validation_loss",
    }
    values = {name: float(found[key]) for key, name in names.items() if key in found}
    if not values:
        return None
    return {"step": found["step"], "tokens": found["step"] * tokens_per_step, **values}
