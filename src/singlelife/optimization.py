"""Learning-rate schedule, weight decay and AdamW, for pretraining and for probes."""

import math

import torch


def learning_rate(step: int, *, peak: float, warmup_steps: int, max_steps: int, min_rate: float = 0.0) -> float:
    """The learning rate of optimiser step `step` (0 is the first): linear warm-up, then half a cosine.

    A pure function of the step, so that a resumed run needs no scheduler state.

    Args:
        step: 0 to max_steps - 1.
        peak: the rate at the end of the warm-up.
        warmup_steps: step `warmup_steps - 1` is the first at the peak.
        max_steps: the step at which the cosine would end.
        min_rate: the rate at the end of the cosine, as a share of the peak.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return peak * (min_rate + (1 - min_rate) * 0.5 * (1 + math.cos(math.pi * progress)))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Two groups of trainable parameters: with weight decay, and without.

    Only matrices that multiply activations decay. Biases, the gains of norms, learned tokens and positions set levels
    rather than weigh inputs, and do not decay.
    """
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own_name = name.rsplit(".", 1)[-1]
            sets_a_level = parameter.ndim < 2 or "token" in own_name or "position" in own_name
            (free if sets_a_level else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def adamw(
    model: torch.nn.Module, rate: float, weight_decay: float, betas: tuple[float, float], device: torch.device
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019) for a model, in one fused kernel where the device has it."""
    fused = device.type in ("cpu", "cuda", "mps", "xpu")
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=rate, betas=betas, fused=fused)
