"""The two phases of a quantized student: codes are learned first, then they stay and the scales are learned alone.

While codes are learned, weights on the border of two codes flip at every step, however low the rate: the scales must go
slowly, as each step of theirs flips more. Once no code can change, scales are an ordinary smooth problem, and go by a
rate of their own. stories3M in int4: KL of held-out stories 0.212 by rounding, 0.050 after 2 M tokens with codes,
0.042 after 0.2 M more with scales alone. Codes that flip while they are trained: arXiv 2203.11086 §3.
"""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from compress.training.optimizer import is_grid_group
from compress.training.options import TrainingOptions
from compress.training.rounding import fix_codes

_SCALES_SHARE = 0.2
# Of stories3M in int4: 1.3e-3, 3.9e-3 and 13e-3 end at a KL of 0.0417, 0.0416 and 0.0431.
SCALES_RATE = 2.5e-3


def steps_with_codes(steps: int) -> int:
    """Return how many of the steps learn codes."""
    return steps - int(steps * _SCALES_SHARE)


class FixCodes(TrainerCallback):  # type: ignore[misc]
    """Fixes the codes once the steps that learn them are done. It remembers nothing: a checkpoint knows what is fixed."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Fix the codes where it is time."""
        if state.global_step >= steps_with_codes(state.max_steps):
            fix_codes(model)


def two_phases(optimizer: Optimizer, options: TrainingOptions, steps: int, typical: float) -> LambdaLR:
    """Return a schedule that goes through the options' twice, with warm-up. The second time the peak rate of scales is a share
    of `typical`, the step between neighbouring values of a weight, whatever rate suits codes."""
    first = steps_with_codes(steps)
    grid = next((group["lr"] for group in optimizer.param_groups if is_grid_group(group)), 1.0)

    def codes(step: int) -> float:
        return _share(options, step, first) if step < first else _share(options, step - first, steps - first)

    def scales(step: int) -> float:
        return codes(step) if step < first else codes(step) * SCALES_RATE * typical / grid

    return LambdaLR(optimizer, [scales if is_grid_group(group) else codes for group in optimizer.param_groups])


def _share(options: TrainingOptions, step: int, steps: int) -> float:
    rising = round(options.warmup * steps)
    if step < rising:
        return step / rising
    done = (step - rising) / max(1, steps - rising)
    if options.schedule == "constant":
        return 1.0
    return max(0.0, 1 - done if options.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)
