"""What a model needs to learn well where the recipe does not say it: learning rate and number format."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from compress.models.folder import MAP_FILE
from compress.models.pruning_record import FILE as RECORD
from compress.training.losses import UNCOUNTED, next_tokens
from compress.training.objective import Batch, CrossEntropy
from compress.training.options import TrainingOptions
from compress.training.rounding import is_rounded, typical_step
from compress.training.windows import Examples

Training = TypeVar("Training", bound=TrainingOptions)
Kind = Literal["fresh", "trained", "quantized"]
_RATES: dict[str, dict[Kind, float]] = {
    "muon": {"fresh": 2e-3, "trained": 1e-3},
    "adamw": {"fresh": 1e-3, "trained": 5e-4},
}
# Of the step between neighbouring values of a weight, by either optimizer. stories3M in int4, 0.2 M tokens at 13e-3: perplexity of
# held-out stories 5.31 -> 4.81 by AdamW, 5.28 by Muon; 2 M tokens of AdamW at 6.5e-3 and 2.6e-3: KL 0.052 and 0.050.
_QUANTIZED_RATE = 2.5e-3
_PROBED = 4
_BY_CHANCE = 0.8
# Tokens/s of a distillation against float32, on one core with AVX512-BF16: 0.3 M parameters 1.1 times, 3 M 1.7, 20 M 2.1,
# 135 M 2.2. A cut stories3M after 0.15 M tokens: KL 0.8614 against 0.8618 in float32.
_BF16_PARAMETERS = 1_000_000


def resolved(options: Training, model: Any, examples: Examples, source: Path) -> Training:
    """Return the options with optimizer and peak learning rate: the recipe's, else what suits the model that was opened from
    the folder `source`."""
    if options.optimizer and options.learning_rate:
        return options
    kind = kind_of(model, examples, source)
    optimizer = options.optimizer or ("adamw" if kind == "quantized" else "muon")
    own = _QUANTIZED_RATE * typical_step(model) if kind == "quantized" else _RATES[optimizer][kind]
    rate = options.learning_rate or own
    return options.model_copy(update={"optimizer": optimizer, "learning_rate": rate})


@torch.no_grad()
def kind_of(model: Any, examples: Examples, source: Path) -> Kind:
    """Return what there is to learn from: a quantized model, a trained one, or a fresh one, which knows the next token hardly
    better than by chance. What was cut from a model is a trained one, however little the cut left.

    Memory: that of the loss in training.
    """
    if is_rounded(model):
        return "quantized"
    if any((source / name).is_file() for name in (RECORD, MAP_FILE)):
        return "trained"
    device = next(model.parameters()).device
    ids = torch.from_numpy(examples.ids[:_PROBED]).to(device)
    targets = next_tokens(ids, torch.from_numpy(examples.counted[:_PROBED]).to(device))
    was_training = model.training
    model.eval()
    total, _ = CrossEntropy().sums(model, Batch(ids, targets, torch.arange(len(ids))))
    model.train(was_training)
    count = int((targets != UNCOUNTED).sum())
    return "fresh" if float(total) > _BY_CHANCE * count * math.log(model.config.vocab_size) else "trained"


def resolve_precision(options: TrainingOptions, model: Any, device: str) -> Literal["fp32", "bf16"]:
    """Return the number format of the forward and backward pass: the recipe's, else bf16 where the device multiplies it fast
    and the model is large enough to gain from it."""
    if options.precision != "auto":
        return options.precision
    if device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    size = sum(parameter.numel() for parameter in model.parameters())
    return "bf16" if fast and size >= _BF16_PARAMETERS else "fp32"
