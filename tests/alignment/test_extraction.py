"""One pass over a model: the sets are those of the definition, whatever the batches, the memory and the precision."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singlelife.alignment import extraction
from singlelife.alignment.comparison import cas
from singlelife.alignment.extraction import VARIANTS, Extraction, chance, extract, extract_each, find_sinks, truth
from singlelife.alignment.models import load_model
from singlelife.alignment.pair_sets import make_pair_set
from singlelife.alignment.score import agreement, position_map, select_top_k, unpack
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, LifeError

from .providers import Given, centred, numbered_pairs, score_of, top_k

seeds = st.integers(0, 2**32 - 1)
quiet = {"progress": False}


def random_logits(num_pairs: int, grid: tuple[int, int], seed: int) -> torch.Tensor:
    """Multiples of 1/1024, so that sums with whole numbers and means of powers of two are exact in float32."""
    count = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8192, 8192, (num_pairs, count, count), generator=generator) / 1024


def sets_of(logits: torch.Tensor, k: int) -> np.ndarray:
    return select_top_k(logits.numpy(), [k])[k]


@given(seeds, st.sampled_from([1, 3, 16, 40]), st.booleans(), st.integers(1, 6))
def test_sets_are_those_of_the_definition_in_memory_or_not(seed, batch_size, spilled, k):
    grid, num_pairs = (2, 3), 21
    logits = random_logits(num_pairs, grid, seed)
    model, pairs = Given("g", logits, grid), numbered_pairs(num_pairs)
    with patch.object(extraction, "_LOGITS_IN_MEMORY", 1 if spilled else 2**20):
        found = extract(model, pairs, [k, 1], batch_size=batch_size, **quiet)
    assert list(found) == [k, 1] if k != 1 else [1]
    for each in found.values():
        np.testing.assert_array_equal(each.raw, sets_of(logits, each.k))
        np.testing.assert_array_equal(each.centred, sets_of(centred(logits), each.k))
        np.testing.assert_allclose(each.mean_map, logits.mean(dim=0), atol=1e-5)


@settings(max_examples=15)
@given(seeds, seeds)
def test_a_score_of_extractions_is_that_of_logits(seed, other):
    grid, k = (3, 3), 2
    a, b = (random_logits(12, grid, each) for each in (seed, other))
    result = cas(Given("a", a, grid), Given("b", b, grid), pairs=numbered_pairs(12), k=k, **quiet)
    plain = score_of(a.numpy(), b.numpy(), k)
    for name in ("cas", "chance", "chance_corrected", "low", "high"):
        assert getattr(result.raw, name) == pytest.approx(getattr(plain.raw, name), abs=1e-6)
    for name, value in vars(plain.centred).items():
        assert getattr(result.centred, name) == pytest.approx(value, abs=1e-6)
    back = cas(Given("b", b, grid), Given("a", a, grid), pairs=numbered_pairs(12), k=k, **quiet)
    assert back.raw == result.raw
    for name, value in vars(result.centred).items():  # other shifts, but as far both ways
        assert getattr(back.centred, name) == pytest.approx(value, abs=1e-6)


def test_directions_are_the_swapped_pair_and_the_mean_of_both():
    grid, k = (2, 3), 2
    forward, backward = (random_logits(7, grid, seed) for seed in (1, 2))
    model = Given("g", forward, grid, backward)

    def sets(direction: str) -> np.ndarray:
        return extract(model, numbered_pairs(7), [k], direction=direction, **quiet)[k].raw

    np.testing.assert_array_equal(sets("target-source"), sets_of(forward, k))
    np.testing.assert_array_equal(sets("source-target"), sets_of(backward, k))
    np.testing.assert_array_equal(sets("reciprocal"), sets_of((forward + backward.transpose(1, 2)) / 2, k))
    np.testing.assert_array_equal(sets("transposed"), sets_of(forward.transpose(1, 2).contiguous(), k))


def test_softmax_and_zerocos_rule_are_taken_head_by_head_and_block_by_block():
    grid, k = (2, 3), 2
    heads = torch.stack([random_logits(7, grid, seed) for seed in range(4)], dim=1)
    model = Given("g", heads.mean(dim=1), grid, heads=heads, layers=(0, 1))  # two heads in each block

    def sets(**settings: str) -> np.ndarray:
        return extract(model, numbered_pairs(7), [k], **settings, **quiet)[k].raw

    np.testing.assert_array_equal(sets(maps="softmax"), sets_of(heads.softmax(dim=-1).mean(dim=1), k))
    blocks = torch.stack([heads[:, :2].mean(dim=1), heads[:, 2:].mean(dim=1)])
    blocks[..., 0] = blocks.flatten(2).min(dim=2).values.unsqueeze(-1)
    np.testing.assert_array_equal(sets(sinks="zeroco"), sets_of(blocks.mean(dim=0), k))


def test_true_matches_are_found_in_every_direction():
    grid, k, generator = (3, 3), 2, torch.Generator().manual_seed(0)
    true_match = torch.randint(-1, 9, (20, 9), generator=generator)
    knows = torch.zeros(20, 9, 9)
    known = (true_match >= 0).nonzero()
    knows[known[:, 0], known[:, 1], true_match[true_match >= 0]] = 1
    knows[:10] = 0  # nothing is known of the first half
    backward = knows.transpose(1, 2).contiguous()
    model = Given("g", knows, grid, backward)
    position = top_k(torch.from_numpy(position_map(grid, grid)), k)
    for direction in ("target-source", "source-target", "reciprocal", "transposed"):
        found = extract(model, numbered_pairs(20), [k], direction=direction, **quiet)[k]
        sets, hit, far = unpack(found.raw, 9), [], []
        for pair, match in enumerate(true_match.tolist()):
            for target, source in enumerate(match):
                if source >= 0:
                    row, column = (
                        (source, target) if direction in ("source-target", "transposed") else (target, source)
                    )
                    hit.append(sets[pair, row, column])
                    far.append(column not in position[row].tolist())
        summary = truth(found, true_match.numpy(), "raw")
        assert (summary.num_matches, summary.num_large_shifts) == (len(hit), sum(far))
        assert (summary.matches, summary.large_shifts) == pytest.approx((np.mean(hit), np.array(hit)[far].mean()))
    assert truth(found, np.full((20, 9), -1), "raw") is None


def with_sinks(logits: torch.Tensor, columns: list[int]) -> torch.Tensor:
    logits = logits.clone()
    logits[:, :, columns] += 100
    return logits


def test_sinks_are_the_columns_that_stand_out_and_are_left_out_if_asked():
    grid, k = (4, 4), 3
    logits = with_sinks(random_logits(64, grid, 0), [0, 7])
    model, pairs = Given("g", logits, grid), numbered_pairs(64)
    kept, masked = (extract(model, pairs, [k], sinks=each, **quiet)[k] for each in ("keep", "mask"))
    assert np.flatnonzero(kept.sinks).tolist() == np.flatnonzero(masked.sinks).tolist() == [0, 7]
    assert kept.sink_share == masked.sink_share == pytest.approx(2 / 3)
    left = [column for column in range(16) if column not in (0, 7)]
    for variant, map_ in (("raw", logits), ("centred", centred(logits))):
        sets = unpack(getattr(masked, variant), 16)
        assert not sets[..., [0, 7]].any()
        np.testing.assert_array_equal(sets[..., left], unpack(sets_of(map_[..., left], k), 14))
    np.testing.assert_array_equal(kept.raw, sets_of(logits, k))
    assert chance(masked) == pytest.approx(3 / 16)  # against the position map, which looks at sinks as well
    assert chance(masked, masked) == pytest.approx(3 / 14)


def test_chance_with_masked_sinks_is_what_independent_maps_score():
    grid, k = (4, 4), 4
    models = [Given(str(seed), with_sinks(random_logits(2000, grid, seed), columns), grid)
              for seed, columns in ((1, [0, 1, 2]), (2, [2, 3]))]  # fmt: skip
    result = cas(*models, pairs=numbered_pairs(2000), k=k, sinks="mask", **quiet)
    assert [each.sinks for each in result.readings] == [(0, 1, 2), (2, 3)]
    assert result.raw.chance == pytest.approx(k * 12 / (13 * 14))
    assert result.raw.low < result.raw.chance < result.raw.high
    assert abs(result.centred.excess) < 0.01


def test_no_column_of_noise_or_of_equal_logits_is_a_sink():
    assert not find_sinks(np.random.default_rng(0).normal(size=(196, 196))).any()
    assert not find_sinks(np.full((9, 9), 0.1, dtype=np.float32)).any()
    assert not find_sinks(position_map((8, 8), (8, 8))).any()


def test_fewer_patches_than_k_that_are_no_sinks_are_refused():
    model = Given("g", with_sinks(random_logits(8, (3, 3), 0), [0]), (3, 3))
    with pytest.raises(CheckpointError, match="only 8 are not sinks of g, fewer than k, 9"):
        extract(model, numbered_pairs(8), [9], sinks="mask", **quiet)


@pytest.mark.parametrize("search", ["heads", "blocks"])
def test_each_head_or_block_is_scored_by_itself_and_the_best_is_corrected_for(search):
    grid, k = (3, 3), 2
    heads = torch.stack([random_logits(40, grid, seed) for seed in range(4)], dim=1)
    model = Given("g", heads.mean(dim=1), grid, heads=heads, layers=(0, 1))
    each = heads if search == "heads" else torch.stack([heads[:, :2].mean(dim=1), heads[:, 2:].mean(dim=1)], dim=1)
    by_k = extract_each(model, numbered_pairs(40), [k], CasConfig(batch_size=7, **quiet), grid, search)
    found = [each[k] for each in by_k]
    assert len(found) == each.shape[1]
    for index, one in enumerate(found):
        np.testing.assert_array_equal(one.raw, sets_of(each[:, index], k))
        np.testing.assert_array_equal(one.centred, sets_of(centred(each[:, index]), k))
    result = cas(model, model, pairs=numbered_pairs(40), k=k, search=search, **quiet).search
    assert np.diag(result.raw).tolist() == np.diag(result.centred).tolist() == [1] * len(found)
    assert result.names[0] == (("0.0", "0.1", "1.0", "1.1") if search == "heads" else ("0", "1"))
    expected = score_of(each[:, 0].numpy(), each[:, 1].numpy(), k)
    assert result.raw[0, 1] == pytest.approx(expected.raw.cas, abs=1e-6)
    assert result.excess[0, 1] == pytest.approx(expected.centred.excess, abs=1e-6)
    assert result.tried == len(found) ** 2 and result.p_value == pytest.approx(1 / 32)  # 31 shifts of 40 pairs


def test_the_best_of_many_that_share_nothing_is_no_finding():
    """Alone, the best of 36 would have p below 0.05 most of the time."""
    p_values = []
    for seed in range(12):
        heads = [torch.randn(40, 6, 9, 9, generator=torch.Generator().manual_seed(100 * seed + n)) for n in (0, 1)]
        models = [Given(str(n), each.mean(dim=1), (3, 3), heads=each) for n, each in enumerate(heads)]
        found = cas(*models, pairs=numbered_pairs(40), k=2, search="heads", **quiet).search
        assert found.tried == 36
        p_values.append(found.p_value)
    assert np.mean(np.array(p_values) <= 0.1) < 0.4 and np.mean(p_values) > 0.25


def test_logits_that_are_not_finite_are_named():
    logits = random_logits(5, (2, 2), 0)
    logits[3, 1, 1] = float("inf")
    with pytest.raises(CheckpointError, match="bad gives attention that is not finite"):
        extract(Given("bad", logits, (2, 2)), numbered_pairs(5), [1], **quiet)


def test_logits_for_which_there_is_no_room_are_refused_before_any_work(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    monkeypatch.setattr(extraction, "_LOGITS_IN_MEMORY", 1)
    model = Given("g", random_logits(5, (2, 2), 0), (2, 2))
    with pytest.raises(LifeError, match="logits on all pairs needs about 320 bytes"):
        extract(model, numbered_pairs(5), [1], **quiet)
    assert model.pairs_seen == 0


def test_extractions_are_read_as_they_were_saved(tmp_path):
    saved = extract(Given("g", random_logits(5, (2, 3), 0), (2, 3)), numbered_pairs(5), [2], sinks="mask", **quiet)[2]
    saved.save(tmp_path / "x.safetensors")
    loaded = Extraction.load(tmp_path / "x.safetensors")
    for name in Extraction.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
        assert type(getattr(loaded, name)) is type(getattr(saved, name))


@pytest.fixture(scope="module")
def views(sim_test):
    return make_pair_set(sim_test, num_pairs=48)


@pytest.mark.integration
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_size_of_batches_changes_less_than_a_thousandth_of_the_matches(views, batch_size):
    model = load_model("untrained:tiny")
    one, other = (extract(model, views, [5], batch_size=size, **quiet)[5] for size in (48, batch_size))
    for variant in VARIANTS:
        assert agreement(getattr(one, variant), getattr(other, variant), 5).mean() >= 0.999
    np.testing.assert_allclose(one.mean_map, other.mean_map, atol=1e-5)
