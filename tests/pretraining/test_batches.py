"""The pairs of a step do not depend on who reads them."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import RunError
from singlelife.pretraining.batches import StepSampler


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 50))
def test_processes_and_accumulated_batches_share_out_the_same_pairs(processes, accumulation, local, first_step):
    size = processes * accumulation * local
    shares = [
        list(StepSampler(first_step, first_step + 3, size, accumulation, processes, p)) for p in range(processes)
    ]
    for step in range(3):
        of_step = [share[step * accumulation : (step + 1) * accumulation] for share in shares]
        start = (first_step + step) * size
        assert sorted(chain.from_iterable(chain.from_iterable(of_step))) == list(range(start, start + size))


def test_any_step_is_reached_at_once():
    assert next(iter(StepSampler(10**15, 10**16, 32))) == list(range(32 * 10**15, 32 * 10**15 + 32))


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(RunError, match=r"--train-batch-size 8 .* 3 processes .* multiple of 3"):
        StepSampler(0, 1, 8, accumulation=1, num_processes=3)
