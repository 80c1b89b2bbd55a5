"""The whole model of a run whose parameters may lie in shards, one in each process (FSDP2)."""

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from singlelife.croco import CroCoForPreTraining

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # in the main process; others get nothing


def whole_model(model: torch.nn.Module, accelerator: Accelerator) -> CroCoForPreTraining | None:
    """The model to save, draw or measure; called by every process, since all hold a part of a sharded one.

    Returns:
        The model itself where no process holds but a part. Of a sharded one, a copy with all parameters on the CPU in
        the main process, and None in the others.
    """
    if not accelerator.is_fsdp2:
        return accelerator.unwrap_model(model)
    parameters = get_model_state_dict(model, options=WHOLE)
    if not accelerator.is_main_process:
        return None
    with torch.device("meta"):  # takes no memory and no random numbers: all of it is replaced
        whole = CroCoForPreTraining(accelerator.unwrap_model(model).config)
    whole.load_state_dict(parameters, assign=True)
    return whole
