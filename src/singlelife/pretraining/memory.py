"""The memory that a training step needs, computed before the first one, and what to do where there is not enough."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.errors import RunError
from singlelife.machine import peak_resident
from singlelife.pretraining.arguments import TrainArguments
from singlelife.text import in_bytes

_EXACT = 4  # bytes of a float32
_TIGHT, _HOPELESS = 0.9, 1.2  # shares of the device's memory: from here on a run is warned, and refused
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


@dataclass(frozen=True)
class Memory:
    """Bytes that one process needs.

    Attributes:
        states: weights, gradients and AdamW's two moments, whatever the batch.
        activations: what the forward pass keeps for the backward pass, and the work of one block.
        shared: of these two, what is never needed at once: gradients come as activations go.
    """

    states: int
    activations: int
    shared: int

    @property
    def total(self) -> int:
        return self.states + self.activations - self.shared


def activations_per_pair(
    config: CroCoConfig, *, mixed: bool, recomputed: tuple[Sequence[bool], Sequence[bool]], eager: bool = False
) -> int:
    """Bytes that the forward pass of one pair keeps for the backward pass.

    With N patches of P values, V of them visible in the target, n = V + N tokens through the encoder of width d and
    MLP width f, and e, g the decoder's, in numbers of r bytes (sums, norms and the loss, always float32) and c bytes
    (what enters products: 2 in mixed precision, else 4), with fused attention and rotary positions:

        encoder block  n·(r·2·d + c·(8·d + 2·f))     norms' inputs; q, k, v before and after they turn, the
        decoder block  N·(r·3·e + c·(15·e + 2·g))    attention's output, inputs of products, the MLP's two
        a block whose activations are recomputed keeps its input alone: n·r·d and N·r·e
        around them    r·2·N·P + c·n·P + (r + c)·n·d + (r + 2·c)·N·e + r·2·(N − V)·P
                       the views, their patches, the last norms, the source's memory, predictions and wanted pixels

    Without rotary positions, queries and keys are kept once: 6·d and 12·e instead of 8·d and 15·e. Eager attention
    also keeps its weights, in float32 and as they enter a product: with h heads of the encoder and H of the decoder,
    r + c bytes (4 in fp32) for each of h·(V² + N²) in an encoder block and H·2·N² in a decoder block.

    Args:
        config: of the model.
        mixed: products are of numbers of 16 bits.
        recomputed: for each block of the encoder, and of the decoder, whether its activations are.
        eager: attention is not fused.
    """
    num_patches, patch_values = config.num_patches, config.patch_size**2 * config.num_channels
    num_masked = round(config.mask_ratio * num_patches)
    tokens = 2 * num_patches - num_masked
    width, decoder_width = config.hidden_size, config.decoder_hidden_size
    r, c = _EXACT, 2 if mixed else _EXACT

    encoder, decoder = _blocks(config, mixed, eager)
    kept = sum(tokens * r * width if again else encoder for again in recomputed[0])
    kept += sum(num_patches * r * decoder_width if again else decoder for again in recomputed[1])
    kept += r * 2 * num_patches * patch_values + c * tokens * patch_values
    kept += (r + c) * tokens * width + (r + 2 * c) * num_patches * decoder_width
    return kept + r * 2 * num_masked * patch_values


def _blocks(config: CroCoConfig, mixed: bool, eager: bool) -> tuple[int, int]:
    """Bytes of a block of the encoder and of one of the decoder."""
    width, decoder_width, num_patches = config.hidden_size, config.decoder_hidden_size, config.num_patches
    num_visible = num_patches - round(config.mask_ratio * num_patches)
    r, c, turned = _EXACT, 2 if mixed else _EXACT, config.position_embedding_type == "rope"
    per_token = r * 2 * width + c * ((8 if turned else 6) * width + 2 * config.intermediate_size)
    encoder = (num_visible + num_patches) * per_token
    per_token = r * 3 * decoder_width
    per_token += c * ((15 if turned else 12) * decoder_width + 2 * config.decoder_intermediate_size)
    decoder = num_patches * per_token
    if eager:
        weight = r + c if mixed else r
        encoder += weight * config.num_attention_heads * (num_visible**2 + num_patches**2)
        decoder += weight * config.decoder_num_attention_heads * 2 * num_patches**2
    return encoder, decoder


def training_memory(
    model: CroCoForPreTraining,
    *,
    batch_size: int,
    mixed: bool,
    accumulation: int = 1,
    num_processes: int = 1,
    sharded: bool = False,
) -> Memory:
    """An estimate of the most that a training step needs at once in each process.

    Weights, gradients and AdamW's two moments are 16 bytes a parameter; several processes exchange gradients in 4
    more, or share all of it out where they shard (FSDP). Mixed precision makes 16-bit copies of the matrices. To what
    `activations_per_pair` counts, the backward pass adds the work of one block: gradients of its activations, or
    those that it recomputes.

    Args:
        model: with gradient checkpointing enabled in those blocks where it is to be.
        batch_size: pairs at once in a process.
        mixed: products are of numbers of 16 bits.
        accumulation: batches per step; with several, gradients stay from one to the next.
        num_processes: of the run.
        sharded: each process holds its share of weights, gradients and moments.
    """
    config, croco = model.config, model.croco
    encoder, decoder = (
        [bool(layer.gradient_checkpointing) for layer in part.layers] for part in (croco.encoder, croco.decoder)
    )
    share = num_processes if sharded else 1
    gradients = _EXACT * sum(parameter.numel() for parameter in model.parameters()) // share
    copies = 2 * sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1) if mixed else 0
    exchanged = gradients if num_processes > 1 and not sharded else 0
    eager = config._attn_implementation == "eager"
    work = max(_blocks(config, mixed, eager))
    kept = activations_per_pair(config, mixed=mixed, recomputed=(encoder, decoder), eager=eager)
    activations = batch_size * (kept + work)
    return Memory(
        states=4 * gradients + exchanged + copies,
        activations=activations,
        shared=min(gradients, activations) if accumulation == 1 else 0,
    )


def run_memory(model: CroCoForPreTraining, train: TrainArguments, accelerator: Accelerator, batch_size: int) -> Memory:
    """`training_memory` of a run, whose model may or may not be prepared yet."""
    return training_memory(
        model,
        batch_size=batch_size,
        mixed=accelerator.mixed_precision != "no",
        accumulation=train.gradient_accumulation_steps,
        num_processes=accelerator.num_processes,
        sharded=accelerator.is_fsdp2,
    )


def device_memory(device: torch.device) -> int | None:
    """Bytes that the device of a process has for it, or None where that cannot be told.

    Of a CPU, the machine's memory or the container's limit, shared out over the run's processes on this machine.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return None
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _CGROUP_LIMIT.exists() and (limit := _CGROUP_LIMIT.read_text(encoding="ascii").strip()).isdigit():
        whole = min(whole, int(limit))
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had so far: on a GPU in tensors, else all that it holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident() or 0


def memory_warning(needed: Memory, train: TrainArguments, batch_size: int, available: int | None) -> str | None:
    """What to say where a run may not fit into `available` bytes; None where it does.

    Args:
        needed: an estimate of what it needs.
        train: its settings.
        batch_size: pairs at once in a process.
        available: on the device of a process; None where that cannot be told.

    Raises:
        RunError: it cannot fit.
    """
    if available is None or needed.total <= _TIGHT * available:
        return None
    of_device = f"of the {in_bytes(available)} that this device has for a process"
    if needed.states > available:
        raise RunError(
            f"The model does not fit: its weights, gradients and moments take {in_bytes(needed.states)} {of_device}, "
            "whatever the batch. Train a smaller --model, or shard it over several GPUs (FSDP)."
        )
    said = (
        f"a step needs about {in_bytes(needed.total)} {of_device}: {in_bytes(needed.states)} for the model and "
        f"{in_bytes(needed.activations)} for the activations of {batch_size} pairs. "
        + _what_helps(needed, train, batch_size, _TIGHT * available)
    )
    # The compiler may keep less than the formula counts, so there it is no more than a warning.
    if needed.total > _HOPELESS * available and not train.torch_compile:
        raise RunError(f"The run does not fit: {said}")
    return said


def _what_helps(needed: Memory, train: TrainArguments, batch_size: int, limit: float) -> str:
    """The flags that bring a step under `limit` bytes, the cheapest first."""
    fitting = int(batch_size * (limit - needed.states) / needed.activations)
    parts = next(
        (parts for parts in range(2, batch_size + 1) if batch_size % parts == 0 and batch_size // parts <= fitting), 0
    )
    accumulated = train.gradient_accumulation_steps * parts
    helps = []
    if parts:
        helps.append(f"--gradient-accumulation-steps {accumulated} makes the same steps in smaller batches")
    if train.gradient_checkpointing == "none":
        helps.append("--gradient-checkpointing keeps a fraction of the activations, for a third more work")
    helps.append("a smaller --train-batch-size makes other steps")
    return f"What helps: {'; '.join(helps)}."
