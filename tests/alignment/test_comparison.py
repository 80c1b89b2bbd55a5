"""Two models on a pair set: the table, the sentence, the fields."""

import json

import pytest
import torch

from singlelife.alignment.comparison import cas
from singlelife.alignment.pair_sets import PairSet, make_pair_set
from singlelife.alignment.settings import CasConfig
from singlelife.errors import PairSetError, SingleLifeError

from .providers import Oracle, Random

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pairs(sim_test) -> PairSet:
    return make_pair_set(sim_test, views="shifted", num_pairs=100)


def test_models_that_find_the_truth_agree_and_one_that_guesses_does_not(pairs):
    result = cas(Oracle(pairs), Oracle(pairs), pairs=pairs, progress=False)
    assert result.raw.cas == result.centred.cas == 1
    assert result.readings[0].truth.matches == result.readings[0].truth.large_shifts == 1

    result = cas(Oracle(pairs), Random(0), pairs=pairs, progress=False)
    assert result.centred.excess_low < 0 < result.centred.excess_high and abs(result.centred.excess) < 0.01
    guess = result.readings[1].centred_truth
    assert guess.large_shifts == pytest.approx(5 / 64, abs=0.02)


def test_a_habit_that_two_models_share_counts_in_the_raw_score_alone(pairs):
    result = cas(Random(0), Random(1), pairs=pairs, progress=False)
    assert result.raw.chance_corrected > 0.15  # one of five is always the first patch
    assert abs(result.centred.excess) < 0.01


def test_models_of_other_grids_are_compared_on_the_coarser_one(pairs):
    result = cas(Oracle(pairs, (16, 16)), Oracle(pairs, (8, 8)), pairs=pairs, k=3, progress=False)
    assert result.grid == (8, 8) and result.raw.chance == 3 / 64
    assert result.raw.cas > 0.6


def test_the_table_says_what_the_fields_say(pairs):
    result = cas(Oracle(pairs), Random(1), pairs=pairs, progress=False)
    text = str(result)
    for part in ("A  oracle", "B  random 1", "100 pairs of sim_test/shifted", result.pairs_hash[:12], "true match"):
        assert part in text
    row = next(line for line in text.splitlines() if line.startswith("A and B")).split()[3:]
    centred = result.centred
    assert row[:3] == [f"{each:.3f}" for each in (centred.cas, centred.null, centred.excess)]
    assert row[7] == f"{result.raw.cas:.3f}" and row[-1] == "0.078"
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields["pairs_hash"] == pairs.hash and fields["k"] == 5 and fields["version"]


def test_co_visible_patches_alone_are_counted(pairs):
    near = cas(Oracle(pairs), Oracle(pairs), pairs=pairs, patches="co-visible", progress=False)
    assert near.raw.cas == near.centred.cas == 1
    mixed = Oracle(pairs)
    mixed._logits = torch.where(pairs.true_match((8, 8))[..., None] < 0, torch.randn(100, 64, 64), mixed._logits)
    assert cas(Oracle(pairs), mixed, pairs=pairs, progress=False).raw.cas < 0.9
    mixed._at = 0
    assert cas(Oracle(pairs), mixed, pairs=pairs, patches="co-visible", progress=False).raw.cas == 1
    blind = PairSet("blind", pairs.target, pairs.source, {}, pairs._boxes)
    with pytest.raises(PairSetError, match=r"co-visible.*blind"):
        cas(Random(0), Random(1), pairs=blind, patches="co-visible", progress=False)


@pytest.mark.parametrize(
    ("setting", "facts"),
    [
        ({"k": 0}, "--k 0"),
        ({"k": ()}, "--k"),
        ({"sinks": "first"}, "--sinks first.*keep, mask, zeroco"),
        ({"num_pairs": 0}, "--num-pairs 0"),
        ({"layers": ()}, "--layers"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_flag(setting, facts):
    with pytest.raises(SingleLifeError, match=facts):
        CasConfig(**setting)
