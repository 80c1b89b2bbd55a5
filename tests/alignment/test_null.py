"""A centred score cannot be fooled: models that share nothing stay within their null, and ties are no agreement."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singlelife.alignment.comparison import cas, group_of
from singlelife.alignment.models import load_model
from singlelife.alignment.null import far_shifts, permutation_test
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.pair_sets.resolve import stored_pair_set

from .providers import Given, numbered_pairs, score_of

GRID, quiet = (4, 4), {"progress": False}
SPACE = Path(__file__).parents[2] / "spaces" / "cas"


def noise(num_pairs: int, seed: int, heads: int = 4) -> Given:
    """A model that looks anywhere."""
    maps = torch.randn(num_pairs, heads, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Given(f"noise {seed}", maps.mean(dim=1), GRID, heads=maps)


@settings(max_examples=25)
@given(st.integers(8, 70), st.integers(0, 10**6), st.sampled_from([1, 3, 15]), st.booleans())
def test_models_that_share_nothing_are_within_their_null_at_any_number_of_pairs(num_pairs, seed, k, habits):
    """Even where both vary at the same places, look at the same place, and like the same patches of each pair."""
    a, b = noise(num_pairs, seed), noise(num_pairs, seed + 1)
    generator = torch.Generator().manual_seed(seed)
    if habits:
        varying, place = torch.rand(16, 16, generator=generator) * 3, 20 * torch.randn(16, 16, generator=generator)
        liked = 3 * torch.randn(num_pairs, 1, 1, 16, generator=generator)
        a, b = (Given(each.name, maps.mean(dim=1), GRID, heads=maps) for each in (a, b)
                for maps in [each._heads * varying + place + liked])  # fmt: skip
    found = cas(a, b, pairs=numbered_pairs(num_pairs), k=k, **quiet).centred
    error = np.sqrt(1 / (num_pairs * 16 * k))  # of independent rows, about
    assert abs(found.excess) < 5 * error and abs(found.null - found.chance) < 0.08
    assert found.excess_low - error < 0 < found.excess_high + error
    assert found.p_value >= 1 / (found.shifts + 1)


@pytest.mark.parametrize("num_pairs", [8, 16, 64])
def test_their_interval_holds_0_as_often_as_it_says(num_pairs):
    found = [
        score_of(*np.random.default_rng((num_pairs, seed)).normal(size=(2, num_pairs, 16, 16)), 3).centred
        for seed in range(150)
    ]
    assert 0.9 <= np.mean([each.excess_low < 0 < each.excess_high for each in found]) <= 0.99
    p_values = np.array([each.p_value for each in found])
    assert np.mean(p_values <= 0.125) == pytest.approx(0.125, abs=0.09)


def some_of(pairs: PairSet, count: int) -> PairSet:
    about = {name: pairs.provenance[name][:count] for name in ("timestamps", "videos")}
    return PairSet(pairs.name, pairs.target[:count], pairs.source[:count], about, pairs._boxes[:count])


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "count"),
    [("simulated", 8), ("simulated", 16), pytest.param("simulated", 64, marks=pytest.mark.slow), ("real_office", 24)],
)
def test_untrained_models_get_an_interval_around_0_and_lives_do_not(name, count):
    pairs = some_of(stored_pair_set(str(SPACE / "pairs" / name) if name == "simulated" else name), count)
    fresh = [load_model(f"untrained:tiny@{seed}") for seed in range(1, 5)]
    lives = [load_model(str(SPACE / "models" / life)) for life in ("sim_1", "sim_2")]
    for a in range(4):
        for b in (*fresh[:a], lives[0]):
            found = cas(fresh[a], b, pairs=pairs, **quiet)
            assert found.centred.excess_low < 0 < found.centred.excess_high, (a, b.name)
            assert bool(found.notes) == (count < 16)
    assert cas(*lives, pairs=pairs, **quiet).centred.excess_low > 0


def test_what_two_models_share_is_found_with_the_least_p():
    a, b = noise(40, 0), noise(40, 1)
    shared = torch.randn(40, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    models = [
        Given(each.name, maps.mean(dim=1), GRID, heads=maps) for each in (a, b) for maps in [each._heads + shared]
    ]
    found = cas(*models, pairs=numbered_pairs(40), k=3, **quiet).centred
    assert found.excess_low > 0.3 and found.shifts == 31 and found.p_value == 1 / 32
    assert found.null == pytest.approx(3 / 16, abs=0.03)


def test_pairs_are_mismatched_with_those_of_another_time():
    assert far_shifts(1) == [] and far_shifts(8) == [*range(1, 8)] and far_shifts(64) == [*range(8, 57)]
    assert len(far_shifts(2000)) == 99 and min(far_shifts(2000)) == 250 and max(far_shifts(2000)) == 1750
    # Neighbours in time are alike. In the set they are far apart, and their order must not matter.
    order = np.random.default_rng(0).permutation(64)
    slow = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, dim=0)
    models = [Given(str(seed), slow + 0.5 * noise(64, seed)._forward, GRID) for seed in (1, 2)]
    mixed = [Given(each.name, each._forward[order], GRID) for each in models]
    plain = numbered_pairs(64)
    about = {"timestamps": [[float(at)] * 2 for at in order], "videos": [["v"] * 2] * 64}
    timed = PairSet("timed", plain.target, plain.source, about, plain._boxes)
    straight, shuffled = (cas(*two, pairs=on, k=3, **quiet).centred for two, on in ((models, plain), (mixed, timed)))
    assert shuffled.excess == pytest.approx(straight.excess) and straight.null < 3 / 16 + 0.02


def degenerate(kind: str) -> tuple[list[Given], PairSet]:
    a, b, pairs = noise(20, 0), noise(20, 1), numbered_pairs(20)
    if kind == "one pair":
        return [a, b], some_of_images(pairs.target[:1], pairs.source[:1])
    same = [Given(each.name, each._forward[:1].expand(20, 16, 16), GRID) for each in (a, b)]
    if kind == "equal pairs":
        return same, pairs
    if kind == "one model's maps are equal":
        return [same[0], b], pairs
    if kind == "rounding":  # equal but for what float32 leaves
        return [Given("r", same[0]._forward + 1e-6 * a._forward, GRID), same[1]], pairs
    if kind == "black views":
        black = torch.zeros_like(pairs.target)
        return [a, b], some_of_images(black, black)
    flat = [Given(name, torch.full((20, 16, 16), value), GRID) for name, value in (("zero", 0.0), ("one", 1.0))]
    return flat if kind == "constant maps" else [flat[0], b], pairs


def some_of_images(target: torch.Tensor, source: torch.Tensor) -> PairSet:
    return PairSet("images", target, source, {}, np.zeros((len(target), 2, 4), np.int64))


@pytest.mark.parametrize(
    ("kind", "raw", "why"),
    [
        ("one pair", True, "One pair"),
        ("equal pairs", True, "same map for all pairs"),
        ("one model's maps are equal", True, "noise 0 gives the same map"),
        ("rounding", True, "same map for all pairs"),
        ("black views", False, "20 of 20 pairs have a view of one colour"),
        ("constant maps", False, "zero looks at all source patches alike"),
        ("one constant map", False, "zero looks at all source patches alike"),
    ],
)
def test_ties_and_constant_maps_are_no_agreement(kind, raw, why):
    models, pairs = degenerate(kind)
    found = cas(*models, pairs=pairs, k=3, **quiet)
    for name, value in vars(found.centred).items():
        if name not in ("chance", "chance_corrected", "shifts"):
            assert np.isnan(value), name
    assert found.raw.cas < 0.5 if raw else np.isnan(found.raw.cas)
    assert any(why in note for note in found.notes) and why in str(found)
    assert found.to_dict()["centred"]["cas"] is None and not any(row.value == 1 for row in found.rows())


def test_a_few_blank_pairs_and_tied_rows_are_left_out_and_counted():
    a, b = (Given(each.name, each._forward, GRID) for each in (noise(24, 0), noise(24, 1)))
    pairs = numbered_pairs(24)
    rest = cas(
        *(Given(each.name, each._forward[:20], GRID) for each in (a, b)), pairs=numbered_pairs(20), k=3, **quiet
    )
    for each in (a, b):
        each._forward[20:] = torch.eye(16)  # agreement that is no finding
    pairs.source[20:] = pairs.source[20:, :, :1, :1]  # one colour
    found = cas(a, b, pairs=pairs, k=3, **quiet)
    assert "4 of 24 pairs" in found.notes[0]
    assert found.raw.cas == pytest.approx(rest.raw.cas) and found.centred.cas == pytest.approx(rest.centred.cas)
    a._forward[3, :4] = b._forward[3, :4] = 0
    tied = cas(a, b, pairs=numbered_pairs(24), k=3, **quiet)
    assert any("of raw rows" in note for note in tied.notes)
    assert not any("centred rows" in note for note in tied.notes)  # a pair's equal logits differ without the mean map


# Groups of models: the permutation test against all orders of the labels, and the data sets that names tell.


seeds = st.integers(0, 2**32 - 1)


def plain_test(scores: np.ndarray, groups: list[str]) -> float:
    """All orders of the labels, one by one."""

    def difference(labels: tuple[str, ...]) -> float:
        cells = {True: [], False: []}
        for a, b in itertools.combinations(range(len(labels)), 2):
            cells[labels[a] == labels[b]].append(scores[a, b])
        return float(np.mean(cells[True]) - np.mean(cells[False]))

    found = [difference(labels) for labels in itertools.permutations(groups)]
    return float(np.mean(np.array(found) >= difference(tuple(groups)) - 1e-12))


@given(seeds, st.lists(st.sampled_from("abc"), min_size=3, max_size=6))
def test_an_exact_test_is_that_of_all_orders(seed, groups):
    half = np.random.default_rng(seed).random((len(groups), len(groups)))
    scores = half + half.T
    result = permutation_test(scores, groups)
    if len(set(groups)) in (1, len(groups)):
        assert result is None
        return
    assert result.assignments == math.factorial(len(groups)) // math.prod(
        math.factorial(groups.count(name)) for name in set(groups)
    )
    assert result.p_value == pytest.approx(plain_test(scores, groups))
    within = np.equal.outer(groups, groups).astype(float)  # no other score tells the groups apart so well
    assert result.smallest == pytest.approx(permutation_test(within, groups).p_value)


def blocks(sizes: list[int], above: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    groups = [str(index) for index, size in enumerate(sizes) for _ in range(size)]
    half = np.random.default_rng(seed).normal(size=(len(groups), len(groups)))
    same = np.equal.outer(groups, groups)
    return (half + half.T) / 2 + above * same, groups


def test_many_models_are_tested_by_drawn_assignments():
    scores, groups = blocks([8, 8, 4], 1)
    result = permutation_test(scores, groups)
    assert result.assignments == 10_000
    assert result.p_value == 1 / 10_000
    assert result.difference == pytest.approx(1, abs=0.3)
    assert permutation_test(scores, groups) == result


def test_groups_that_do_not_matter_are_found_to_matter_as_often_as_by_chance():
    p_values = [permutation_test(*blocks([3, 3], 0, seed)).p_value for seed in range(200)]
    few = permutation_test(*blocks([3, 3], 0))
    assert min(p_values) == few.smallest == 2 / 20  # which of the two groups is which does not matter
    assert "at least 0.1" in str(few) and "p = " in str(permutation_test(*blocks([5, 5], 1)))
    assert np.mean(np.array(p_values) <= 0.2) == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("runs/sim_1", "simulated"),
        ("runs/sim_1_seed1/checkpoint-200", "simulated"),
        ("ann/singlelife-wt3", "Walking Tours"),
        ("ann/singlelife-hdepic1@v2", "HD-EPIC"),
        ("/home/ann/runs/ald_2", "Anonymous Lives"),
        ("runs/shuffled-wt_1", "controls"),
        ("spaces/cas/models/sim_still", "controls"),
        ("runs/sim_shuffled_s1", "controls"),
        ("untrained:tiny@1", "untrained"),
        ("runs/wt_31", "runs/wt_31"),
    ],
)
def test_groups_are_the_data_sets_that_names_tell(name, group):
    assert group_of(name) == group
