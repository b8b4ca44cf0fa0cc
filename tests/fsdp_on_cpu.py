"""`compress` with accelerate told that FSDP works on CPUs, which it does not offer: what runs on GPUs, tested without one."""

from __future__ import annotations

import sys

from accelerate import state
from accelerate.utils import DistributedType

import compress.run
from compress.cli import main

ENVIRONMENT = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
plain_init = state.AcceleratorState.__init__


def init(self, *given, fsdp_plugin=None, **settings):
    plain_init(self, *given, fsdp_plugin=fsdp_plugin, **settings)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    state.AcceleratorState.__init__ = init
    compress.run.refuse_sharding = lambda device: None
    sys.argv[0] = "compress"
    main()
