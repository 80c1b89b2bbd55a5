"""What a step needs is what torch keeps, and what does not fit is said before it is tried."""

from itertools import accumulate

import pytest
import torch
from accelerate import Accelerator

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.errors import RunError
from singlelife.files import hub_configs, read_yaml
from singlelife.pretraining.arguments import TrainArguments
from singlelife.pretraining.memory import (
    activations_per_pair,
    device_memory,
    memory_warning,
    run_memory,
    training_memory,
)
from singlelife.pretraining.optimizer import recompute


def preset(name: str, **changes: object) -> CroCoForPreTraining:
    return CroCoForPreTraining(CroCoConfig(**read_yaml(hub_configs() / "models" / f"{name}.yaml") | changes)).train()


def bytes_kept(model: CroCoForPreTraining, batch_size: int, mixed: bool) -> int:
    """Of all tensors that a forward pass saves for the backward pass, but for the weights and copies of them."""
    shapes = {parameter.shape for parameter in model.parameters() if parameter.ndim > 1}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_copy = mixed and (tensor.shape in shapes or tensor.T.shape in shapes) if tensor.ndim == 2 else False
        if storage.data_ptr() not in weights and not is_copy:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    side = model.config.grid_size[0] * model.config.patch_size
    views = torch.randn(2, batch_size, 3, side, side)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        loss = model(*views).loss
    total = sum(kept.values()) + views.nbytes
    del loss
    return total


@pytest.mark.parametrize(
    ("name", "changes", "mixed"),
    [
        ("tiny", {}, False),
        ("tiny", {}, True),
        ("tiny", {"position_embedding_type": "sincos", "mask_ratio": 0.9}, False),
        ("small", {}, False),
        ("small", {"num_hidden_layers": 2, "decoder_num_hidden_layers": 2}, True),
    ],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_the_formula_counts_what_torch_keeps(name, changes, mixed, recomputed, attention):
    model = preset(name, **changes)
    model.set_attn_implementation(attention)
    if recomputed:
        recompute(model, "all")
    blocks = [recomputed] * model.config.num_hidden_layers, [recomputed] * model.config.decoder_num_hidden_layers
    eager = attention == "eager"
    estimate = activations_per_pair(model.config, mixed=mixed, recomputed=blocks, eager=eager)
    assert bytes_kept(model, 5, mixed) / 5 == pytest.approx(estimate, rel=0.15)


@pytest.mark.parametrize("recomputed", [False, True])
def test_the_most_that_a_step_needs_at_once_is_the_estimate(recomputed):
    """As torch's own allocator tells, above the weights and moments, which are there before the step."""
    model = preset("tiny")
    if recomputed:
        recompute(model, "all")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    views = torch.randn(2, 32, 3, 64, 64)

    def step() -> None:
        model(*views).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    most = max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
    estimate = training_memory(model, batch_size=32, mixed=False)
    assert most + 12 * model.num_parameters() + views.nbytes == pytest.approx(estimate.total, rel=0.15)


def warned(available: int, batch_size: int = 64, **settings: object) -> str | None:
    train = TrainArguments(train_batch_size=batch_size, **settings)
    needed = run_memory(preset("tiny"), train, Accelerator(cpu=True), batch_size)
    return memory_warning(needed, train, batch_size, available)


def test_a_run_that_fits_is_not_warned_of():
    needed = training_memory(preset("tiny"), batch_size=64, mixed=False)
    assert warned(2 * needed.total) is None
    assert needed.states == 16 * preset("tiny").num_parameters()


def test_a_tight_run_is_told_what_helps_and_a_hopeless_one_refused():
    needed = training_memory(preset("tiny"), batch_size=64, mixed=False)
    said = warned(needed.total)
    assert "--gradient-accumulation-steps 2 " in said and "--gradient-checkpointing" in said
    assert "activations of 64 pairs" in said
    half_the_activations = needed.states + needed.activations // 2
    with pytest.raises(RunError, match=r"does not fit.*--gradient-accumulation-steps 4 .*--train-batch-size"):
        warned(half_the_activations)
    with pytest.raises(RunError, match="--gradient-accumulation-steps 12 makes"):  # 3 already, and each in 4 parts
        warned(half_the_activations, gradient_accumulation_steps=3)
    with pytest.raises(RunError, match="smaller --model"):
        warned(needed.states - 1)
    assert "does not fit" not in warned(half_the_activations, torch_compile=True)


def test_what_the_flag_saves_is_what_the_advice_says():
    """The batches that are advised fit, and batches twice as large would not."""
    needed = training_memory(preset("tiny"), batch_size=64, mixed=False)
    for share in (0.7, 0.4, 0.2):
        available = needed.states + int(share * needed.activations)
        with pytest.raises(RunError) as refused:
            warned(available)
        parts = int(str(refused.value).partition("--gradient-accumulation-steps ")[2].split()[0])
        advised, twice = (
            training_memory(preset("tiny"), batch_size=size, mixed=False, accumulation=2).total
            for size in (64 // parts, 128 // parts)
        )
        assert advised <= 0.9 * available < twice


def test_the_states_are_shared_out_where_they_are_sharded_and_exchanged_where_not():
    one, two, sharded = (
        training_memory(preset("tiny"), batch_size=8, mixed=False, num_processes=processes, sharded=shards).states
        for processes, shards in ((1, False), (2, False), (2, True))
    )
    assert two == one * 5 // 4 and sharded == one // 2


def test_the_memory_of_this_machine_is_told(monkeypatch):
    whole = device_memory(torch.device("cpu"))
    assert 10**8 < whole < 10**14
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device_memory(torch.device("cpu")) == whole // 2
    assert device_memory(torch.device("meta")) is None
