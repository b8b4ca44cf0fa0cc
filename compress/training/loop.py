"""The Trainer wiring that train and distill share: windows in, a fitted model and its log out.

transformers' Trainer does the steps, the schedule, bf16 and the state of a resume. Ours are the order of the data (one
sequence of windows, fixed by the seed, so that a resume continues in it), the loss, and checkpoints that a kill cannot break.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed import broadcast_object_list, get_rank, is_initialized
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from compress.contract import Context, Json
from compress.distributed import process, windows_per_piece
from compress.errors import StageError
from compress.models.head import prove_split
from compress.training.checkpoint import FOLDER, newest, step_of
from compress.training.defaults import resolve_precision, resolved
from compress.training.objective import Learner, Objective
from compress.training.options import TrainingOptions
from compress.training.phases import FixCodes, steps_with_codes
from compress.training.rounding import is_rounded, measure_inputs
from compress.training.sharded import make_whole
from compress.training.trackers import curve_callbacks
from compress.training.trainer import Patience, WindowTrainer, best_step, is_over
from compress.training.windows import Examples, WindowSequence, stack

LOG_ENTRIES = 200
_MEASURED_WINDOWS = 32
# terms that do not reach every weight of the model
PARTIAL_TERMS = {"hidden_mse", "hidden_cosine", "attention", "value_relation"}


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


@dataclass(frozen=True)
class Fit:
    """How a fit went.

    log   one entry for each logged step, in order
    kept  the step whose weights the model has, where it is not the last: with patience the one of the lowest loss
    chosen  optimizer, learning_rate and precision, as the recipe gave them or as they follow from model and machine
    """

    log: list[Json]
    kept: int | None = None
    chosen: Json = field(default_factory=dict)


def fit(model: Any, examples: Examples, options: TrainingOptions, objective: Objective, context: Context) -> Fit:
    """Fit the model in place.

    Entries of the log hold step, tokens, loss and each of its terms (per counted token, nats; means over the steps since the
    entry before), learning_rate and gradient_norm; or validation_loss and validation_<term>. Resumes from the newest complete
    checkpoint in context.scratch; the result is that of a straight run.
    """
    if options.patience and not examples.can_validate:
        raise StageError("patience needs validation windows, and data.validation has less than one; leave it out")
    _prove(model)
    if is_rounded(model):
        piece = options.batch // options.accumulate
        measure_inputs(model, torch.from_numpy(examples.ids[:_MEASURED_WINDOWS]), piece)
    options = resolved(options, model, examples, context.source)
    uses_cache = model.config.use_cache
    checkpoint = _newest_of_all(context.scratch / FOLDER)
    steps = options.steps(len(examples.ids))
    arguments = _arguments(options, steps, examples, context, model)
    since = _judged_from(model, steps)
    if checkpoint and (stopped := _stopped(checkpoint, options, since)):
        steps = arguments.max_steps = stopped  # there is nothing left to learn
    learned = step_of(checkpoint) if checkpoint else 0
    trainer = _make_trainer(model, examples, options, objective, (arguments, learned, context))
    with warnings.catch_warnings():
        # torch's own loader of pinned memory, asked for by the Trainer, warns where there is no accelerator
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    kept = best_step(trainer.state.log_history, since) if options.patience else None
    if kept is not None and kept != trainer.state.global_step:
        trainer.load_step(kept)
    make_whole(model)
    model.eval()
    model.config.use_cache = uses_cache  # the Trainer turns it off, and so it would be saved
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise StageError(f"the weights are not finite after step {steps}; use a lower learning_rate or precision: fp32")
    per_step = options.tokens_per_step
    log = [entry for found in trainer.state.log_history if (entry := _entry(found, per_step))]
    precision = "bf16" if arguments.bf16 else "fp32"
    return Fit(
        log,
        kept,
        {"optimizer": options.optimizer, "learning_rate": float(arguments.learning_rate), "precision": precision},
    )


def _prove(model: Any) -> None:
    try:
        prove_split(model)
    except ValueError as error:
        raise StageError(str(error)) from error


def _make_trainer(
    model: Any,
    examples: Examples,
    options: TrainingOptions,
    objective: Objective,
    planned: tuple[TrainingArguments, int, Context],
) -> WindowTrainer:
    arguments, learned, context = planned
    learner = Learner(model, objective)
    # what FSDP makes pieces of
    learner.__dict__["_no_split_modules"] = getattr(model, "_no_split_modules", None)
    sequence = WindowSequence(examples, arguments.max_steps * options.batch, context.seed, objective.by_window)
    # what only hidden states and attention teach leaves the head and the last layers without a gradient
    arguments.ddp_find_unused_parameters = objective.weights.keys() <= PARTIAL_TERMS
    callbacks: list[TrainerCallback] = [_ProgressCallback(context, options.tokens_per_step)]
    callbacks += curve_callbacks(options.report_to, context, learned)
    if is_rounded(model):
        callbacks.append(FixCodes())
        arguments.ddp_find_unused_parameters = True  # of fixed codes the weights behind them
        arguments.ddp_broadcast_buffers = False  # codes are one byte a weight, and every process has the same
    if options.patience:
        callbacks.append(Patience(options.patience, _judged_from(model, arguments.max_steps)))
    trainer = WindowTrainer(
        objective,
        examples,
        options,
        model=learner,
        args=arguments,
        train_dataset=sequence,
        eval_dataset=sequence,  # asked for by the Trainer; evaluate() reads the validation windows
        data_collator=stack,
        callbacks=callbacks,
    )
    trainer.judged_from = _judged_from(model, arguments.max_steps)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _judged_from(model: Any, steps: int) -> int:
    """Return the step from which validations count for patience: of a quantized student those with fixed codes, as the loss
    rises while codes are learned and falls for good after it."""
    return steps_with_codes(steps) + 1 if is_rounded(model) else 0


def _newest_of_all(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, the same one in every process: the first one's choice."""
    if not is_initialized():
        return newest(folder)
    chosen = [newest(folder) if get_rank() == 0 else None]
    broadcast_object_list(chosen)
    return chosen[0]


def _stopped(checkpoint: Path, options: TrainingOptions, since: int) -> int | None:
    """Return the step at which a run had lost its patience, None where it had not."""
    if not options.patience:
        return None
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step if is_over(state.log_history, options.patience, since) else None


def _arguments(
    options: TrainingOptions, steps: int, examples: Examples, context: Context, model: Any
) -> TrainingArguments:
    log_every, save_every = intervals(steps, options.checkpoints)
    saving = "steps" if options.checkpoints else "no"
    precision = resolve_precision(options, model, context.device)
    arguments = TrainingArguments(
        output_dir=str(context.scratch / FOLDER),
        max_steps=steps,
        per_device_train_batch_size=windows_per_piece(options.batch, options.accumulate, process().size),
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.schedule if options.schedule != "constant" else "constant_with_warmup",
        warmup_steps=round(options.warmup * steps),
        max_grad_norm=options.clip,
        bf16=precision == "bf16",
        use_cpu=context.device == "cpu",
        seed=context.seed,
        data_seed=context.seed,
        logging_strategy="steps",
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        save_strategy=saving,
        save_steps=save_every,
        eval_strategy=saving if examples.can_validate else "no",
        eval_steps=save_every,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    # else the Trainer takes what a launcher's config file says, which no key of ours knows
    arguments.mixed_precision = "bf16" if precision == "bf16" else "no"
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
    if not {"loss", "eval_loss"} & found.keys():
        return None
    names = {"grad_norm": "gradient_norm"}
    values = {
        names.get(key, key.replace("eval_", "validation_")): float(value)
        for key, value in sorted(found.items())  # a resume reads them in another order than they were written
        if key not in ("step", "epoch") and not key.endswith(("runtime", "per_second"))
    }
    return {"step": found["step"], "tokens": found["step"] * tokens_per_step, **values}
