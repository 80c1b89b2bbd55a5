"""The optimiser, and what the backward pass computes again."""

import torch

from singlelife.croco import CroCoForPreTraining
from singlelife.optimization import parameter_groups
from singlelife.pretraining.arguments import TrainArguments


def create_optimizer(model: torch.nn.Module, arguments: TrainArguments, device: torch.device) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019), in one fused kernel where the device has it."""
    return torch.optim.AdamW(
        parameter_groups(model, arguments.weight_decay),
        lr=arguments.peak_learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        fused=device.type in ("cpu", "cuda", "mps", "xpu"),
    )


def recompute(model: CroCoForPreTraining, blocks: str) -> None:
    """Let a part of a model's blocks keep only their inputs for the backward pass (Chen et al., 2016), which then runs
    them forward once more.

    Args:
        blocks: `none`, `encoder` (its blocks see both views), `decoder` or `all`.
    """
    parts = {"encoder": (model.croco.encoder,), "decoder": (model.croco.decoder,), "all": (model,)}
    for part in parts.get(blocks, ()):
        # By the name that transformers 5.23 gave it where there is one; the older name warns there.
        enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False})
