"""train.py with FSDP2 on CPUs.

Accelerate shards a model only where it finds GPUs (`AcceleratorState` looks for MULTI_GPU and the like), though
torch's `fully_shard` runs over gloo as well. Here its state is told so; all that follows, Accelerate's preparation of
model and optimiser included, is what runs on GPUs.
"""

import os
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_init = AcceleratorState.__init__


def _init_with_shards(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **others: Any) -> None:
    _init(self, *arguments, fsdp_plugin=fsdp_plugin, **others)
    if fsdp_plugin is not None:
        if self.mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self.mixed_precision)
        self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = _init_with_shards  # type: ignore[method-assign]
    from singlelife.cli import main

    status = main(["train", *sys.argv[1:]])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of gloo that outlive the shards can abort the interpreter as it ends
