"""Probes are trained the same way for the same seed, and measured with their spread."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from singlelife.errors import EvaluationError, RunError
from singlelife.evaluation.probing import Measure, ProbeSettings, check_apart, train_probe


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


def trained(seed: int, **settings) -> nn.Module:
    settings = ProbeSettings("linear", **{"epochs": 30, "batch_size": 16, "learning_rate": 0.1} | settings)
    return train_probe(lambda: nn.Linear(4, 1), InMemory(), squared, settings, seed, progress=False)


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
    settings = ProbeSettings("linear", epochs=1)
    with pytest.raises(RunError, match=r"not finite after 0 steps\. Try a lower --learning-rate than 0\.001"):
        train_probe(lambda: nn.Linear(4, 1), InMemory(), lambda out, _: out.sum() / 0, settings, 0, progress=False)


def test_a_measure_by_hand():
    measure = Measure.of(np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert measure.per_seed == (0.5, 1.0) and measure.mean == 0.75
    assert measure.std == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert (measure.low, measure.high) == (0.5, 1.0)  # of resampled images, of which one has 0.5 and one 1
    assert Measure.of(np.array([[0.2, 0.4]])).std == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_interval_holds_the_mean(values):
    measure = Measure.of(np.array([values]))
    assert min(values) - 1e-9 <= measure.low <= measure.mean + 1e-9
    assert measure.mean - 1e-9 <= measure.high <= max(values) + 1e-9


class Digests(list):
    """Items of which only the digests matter."""

    @property
    def digests(self) -> list[str]:
        return list(self)


def test_items_of_both_are_refused():
    first, second, third = (Digests(letters) for letters in ("abc", "cde", "fghijklmnopqrstuvwxyzc"))
    assert check_apart(first, Digests("fg"), "a", "b") == 0
    assert check_apart(first, third, "a", "b") == 1  # of 22, as there are in public data sets
    with pytest.raises(EvaluationError, match=r"1 of the 3 items to test on \(b\) are among those to train on \(a\)"):
        check_apart(first, second, "a", "b")
