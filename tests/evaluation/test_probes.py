"""Probes are trained the same way for the same seed."""

import numpy as np
import pytest
import torch
from torch import nn

from singlelife.errors import EvaluationError, RunError
from singlelife.evaluation.probes import FrozenFeatures
from singlelife.evaluation.settings import ProbeConfig


class InMemory:
    """Features whose first channel is the target."""

    def __init__(self, count: int = 64):
        self._features = torch.randn(count, 2, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._features)

    def features(self, indices: np.ndarray) -> torch.Tensor:
        return self._features[indices]

    def targets(self, indices: np.ndarray) -> torch.Tensor:
        return self._features[indices][..., 0]


def squared(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output[..., 0] - target).square().mean()


def trained(seed: int, loss=squared, **settings) -> nn.Module:
    chosen = {"epochs": 30, "batch_size": 16, "learning_rate": 0.1} | settings
    config = ProbeConfig(probe="linear", progress=False, **chosen)
    features = FrozenFeatures(None, InMemory(), None, config, "cpu")
    return features.train_probe(lambda: nn.Linear(4, 1), loss, seed)


def test_a_probe_learns_and_the_seed_says_which():
    first, again, other = (trained(seed) for seed in (0, 0, 1))
    assert not first.training
    assert squared(first(InMemory().features(np.arange(64))), InMemory().targets(np.arange(64))) < 1e-2
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(0, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_that_is_not_finite_stops():
    with pytest.raises(RunError, match=r"after 0 steps.*--learning-rate"):
        trained(0, lambda output, _: output.sum() / 0, epochs=1)


@pytest.mark.parametrize("setting", ["seeds", "epochs", "learning_rate", "batch_size"])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(EvaluationError, match=f"--{setting.replace('_', '-')} 0"):
        ProbeConfig(**{setting: 0})
