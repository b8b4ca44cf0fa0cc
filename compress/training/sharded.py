"""What FSDP makes of a model, made whole again."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def make_whole(model: Any) -> None:
    """Replace every parameter and buffer of which this process has a piece by the whole, on the CPU; tied ones stay tied.

    Every process must call it: the pieces go round. A model that is not in pieces stays as it is; one that was can be saved
    then, and no longer be run.
    """
    made: dict[int, Tensor] = {}
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # torch put this class in front of the module's own; it would not let its parameters go
            module.__class__ = type(module).__mro__[2]
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if isinstance(value, DTensor):
                    if id(value) not in made:
                        whole = value.full_tensor().detach().cpu()
                        made[id(value)] = nn.Parameter(whole) if held is module._parameters else whole
                    held[name] = made[id(value)]
