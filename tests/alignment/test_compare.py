"""Two models on a pair set: the table, the sentence, the fields."""

import json

import pytest

from singlelife.alignment.comparison import compare
from singlelife.alignment.pair_sets import PairSet, make_pair_set
from singlelife.errors import PairSetError

from .providers import Oracle, Random


@pytest.fixture(scope="module")
def pairs(sim_test) -> PairSet:
    return make_pair_set(sim_test, views="shifted", num_pairs=100)


def test_models_that_find_the_truth_agree_and_one_that_guesses_does_not(pairs):
    result = compare(Oracle(pairs), Oracle(pairs), pairs, progress=False)
    assert result.raw.cas == result.position_free.cas == 1
    assert result.raw_readings[0].truth.matches == result.raw_readings[0].truth.large_shifts == 1

    result = compare(Oracle(pairs), Random(0), pairs, progress=False)
    assert abs(result.position_free.adjusted) < 0.01
    guess = result.position_free_readings[1].truth
    assert guess.large_shifts == pytest.approx(5 / 64, abs=0.02)


def test_a_habit_that_two_models_share_counts_in_the_raw_score_alone(pairs):
    result = compare(Random(0), Random(1), pairs, progress=False)
    assert result.raw.adjusted > 0.15  # one of five is always the first patch
    assert abs(result.position_free.adjusted) < 0.01


def test_batches_do_not_matter(pairs):
    results = [compare(Oracle(pairs), Random(1), pairs, batch_size=100, progress=False) for _ in range(2)]
    assert results[0] == results[1]


def test_models_of_other_grids_are_compared_on_the_coarser_one(pairs):
    result = compare(Oracle(pairs, (16, 16)), Oracle(pairs, (8, 8)), pairs, k=3, progress=False)
    assert result.grid == (8, 8) and result.raw.chance == 3 / 64
    assert result.raw.cas > 0.6


def test_the_table_says_what_the_fields_say(pairs):
    result = compare(Oracle(pairs), Random(1), pairs, progress=False)
    text = str(result)
    for part in ("A  oracle", "B  random 1", "100 pairs of sim_test/shifted", "chance 0.078", result.pairs_hash[:12]):
        assert part in text
    row = next(line for line in text.splitlines() if line.startswith("CAS of A and B"))
    assert row.split()[-2:] == [f"{result.raw.cas:.3f}", f"{result.position_free.cas:.3f}"]
    fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert fields["pairs_hash"] == pairs.hash and fields["k"] == 5 and fields["version"]


def test_without_known_matches_the_table_says_nothing_of_them(pairs):
    blind = PairSet("blind", pairs.target, pairs.source, {}, pairs._boxes)
    result = compare(Random(0), Random(1), blind, progress=False)
    assert result.raw_readings[0].truth is None
    assert "true match" not in str(result)


@pytest.mark.parametrize("k", [0, 65])
def test_k_out_of_range_is_refused_before_any_work(pairs, k):
    with pytest.raises(PairSetError, match=f"from 1 to the number of patches, 64; not {k}"):
        compare(Random(0), Random(1), pairs, k=k)
