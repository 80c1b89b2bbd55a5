"""The learning rate by step, and which weights decay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.optimization import learning_rate, parameter_groups

from .micro import MICRO


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),  # the first step already learns
        (4, 0.5),
        (9, 1.0),  # the end of the warm-up is the peak
        (10, 1.0),
        (60, 0.55),  # half way down the cosine
        (109, 0.1 + 0.9 * 0.5 * (1 - 0.9995065603657316)),
    ],
)
def test_linear_warmup_then_half_a_cosine(step: int, expected: float):
    rate = learning_rate(step, peak=1.0, warmup_steps=10, max_steps=110, min_rate=0.1)
    assert rate == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 500), st.integers(0, 700), st.floats(0, 1))
def test_rate_stays_between_zero_and_the_peak(max_steps: int, warmup_steps: int, min_rate: float):
    rates = [
        learning_rate(s, peak=2.0, warmup_steps=warmup_steps, max_steps=max_steps, min_rate=min_rate)
        for s in range(max_steps)
    ]
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[:warmup_steps] == sorted(rates[:warmup_steps])
    assert rates[warmup_steps:] == sorted(rates[warmup_steps:], reverse=True)


@pytest.mark.parametrize("position_embedding_type", ["rope", "sincos"])
def test_only_matrices_decay(position_embedding_type: str):
    config = CroCoConfig(**MICRO | {"position_embedding_type": position_embedding_type})
    model = CroCoForPreTraining(config)
    decayed, free = parameter_groups(model, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(decayed["params"]) + len(free["params"]) == len(trained)
    assert any("mask_token" in names[id(p)] for p in free["params"])
