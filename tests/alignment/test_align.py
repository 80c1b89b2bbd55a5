"""Many models: each is run once, what fails is told, and the numbers are those of two models at a time."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from singlelife import cas_matrix
from singlelife.alignment.matrix import align_models, group_of
from singlelife.alignment.comparison import compare
from singlelife.alignment.extraction import Extraction
from singlelife.alignment.pair_sets import PairSet, make_pair_set
from singlelife.errors import CheckpointError, PairSetError

from .providers import Given, numbered_pairs

GRID = (3, 3)
NAMES = ["a1", "a2", "b1", "b2"]
GROUPS = ["a", "a", "b", "b"]
KNOWN = {"gap": np.linspace(0, 2, 40), "overlap": np.repeat([0.1, 0.5], 20)}


def logits(name: str) -> torch.Tensor:
    """What models of one group share, and something of their own."""
    shared, own = (torch.Generator().manual_seed(seed) for seed in (ord(name[0]), int(name[1]) + 7 * ord(name[0])))
    return torch.randn(40, 9, 9, generator=shared) + 0.7 * torch.randn(40, 9, 9, generator=own)


class Zoo:
    """Models by name; counts what is done with each."""

    def __init__(self, **more):
        self.models = {name: Given(name, logits(name), GRID) for name in NAMES} | more
        self.loaded: list[str] = []

    def __call__(self, name: str, layers):
        self.loaded.append(name)
        if name not in self.models:
            raise CheckpointError(f"There is no model {name}.")
        return self.models[name]

    def runs(self) -> dict[str, float]:
        return {name: model.pairs_seen / 40 for name, model in self.models.items() if model.pairs_seen}


def run(zoo: Zoo, cache: Path, names=tuple(NAMES), groups=None, **settings):
    settings = {"ks": [2], "cache_dir": cache, "progress": False} | settings
    groups = groups or [name[0] for name in names]
    return align_models(names, zoo, lambda _: numbered_pairs(40, **KNOWN), groups=groups, **settings)


def test_each_cell_is_the_score_of_two_models(tmp_path):
    zoo = Zoo()
    result = run(zoo, tmp_path, ks=[2, 1])
    assert result.models == tuple(NAMES) and result.groups == tuple(GROUPS) and not result.failed
    for a in range(4):
        for b in range(a):
            two = compare(zoo.models[NAMES[a]], zoo.models[NAMES[b]], numbered_pairs(40), k=[2, 1], progress=False)
            for at_k in two.curve:
                for variant in ("raw", "position_free"):
                    matrix, score = getattr(result.at_k[at_k.k], variant), getattr(at_k, variant)
                    for name in ("cas", "chance", "adjusted", "low", "high"):
                        square = getattr(matrix, name)
                        assert square[a, b] == square[b, a] == pytest.approx(getattr(score, name), abs=1e-9)
    for reading, name in zip(result.main.readings, NAMES, strict=True):
        other = compare(zoo.models[name], zoo.models[name], numbered_pairs(40), k=2, progress=False)
        assert reading.position.cas == pytest.approx(other.raw_readings[0].position.cas)
    assert np.diag(result.main.raw.cas).tolist() == [1] * 4


def test_blocks_are_the_means_of_their_cells(tmp_path):
    result = run(Zoo(), tmp_path)
    matrix = result.main.raw
    cas = matrix.cas
    blocks = {block.groups: block for block in matrix.blocks}
    assert blocks["a", "a"].score.cas == pytest.approx(cas[0, 1]) and blocks["a", "a"].num_cells == 1
    assert blocks["a", "b"].score.cas == pytest.approx(cas[:2, 2:].mean()) and blocks["a", "b"].num_cells == 4
    assert matrix.within.cas == pytest.approx((cas[0, 1] + cas[2, 3]) / 2)
    assert matrix.across.cas == pytest.approx(cas[:2, 2:].mean())
    assert matrix.difference.difference == pytest.approx(matrix.within.cas - matrix.across.cas)
    assert 0 < matrix.difference.low < matrix.difference.difference < matrix.difference.high
    assert matrix.permutation.exact and matrix.permutation.p_value == pytest.approx(2 / 6)
    assert matrix.permutation.difference == pytest.approx(matrix.difference.difference)
    first, second = np.triu_indices(4, 1)
    np.testing.assert_allclose(result.main.per_pair["raw"].mean(axis=0), cas[first, second])


def test_parts_are_quarters_of_the_pairs(tmp_path):
    result = run(Zoo(), tmp_path)
    gaps = [part for part in result.main.parts if part.of == "gap"]
    overlaps = [part for part in result.main.parts if part.of == "overlap"]
    assert [part.num_pairs for part in gaps] == [10] * 4
    assert [(part.low, part.high, part.num_pairs) for part in overlaps] == [(0.1, 0.1, 20), (0.5, 0.5, 20)]
    per_pair = result.main.per_pair["raw"]
    for part, rows in zip(gaps, np.split(np.arange(40), 4), strict=True):
        assert part.raw["mean"].cas == pytest.approx(per_pair[rows].mean())
        assert (part.low, part.high) == (KNOWN["gap"][rows].min(), KNOWN["gap"][rows].max())
    assert {"mean", "within", "across"} == set(gaps[0].position_free)


def test_pairs_of_which_nothing_is_known_are_in_no_part(tmp_path):
    names = tuple(NAMES[:2])
    gap = np.where(np.arange(40) < 8, np.nan, 1.0)
    pairs = numbered_pairs(40, gap=gap, overlap=np.full(40, np.nan))
    result = align_models(names, Zoo(), lambda _: pairs, ks=[2], cache_dir=tmp_path, progress=False)
    assert [(part.of, part.num_pairs) for part in result.main.parts] == [("gap", 32)]
    json.dumps(result.to_dict(), allow_nan=False)


def test_each_model_is_run_once_ever(tmp_path):
    zoo = Zoo()
    assert run(zoo, tmp_path, NAMES[:3], ks=[2, 1]).num_run == 3
    assert run(zoo, tmp_path, ks=[2, 1]).num_run == 1  # one more model costs one run
    assert zoo.runs() == dict.fromkeys(NAMES, 1)
    again = run(zoo, tmp_path)
    assert again.num_run == 0 and zoo.runs() == dict.fromkeys(NAMES, 1)
    fresh = run(Zoo(), tmp_path / "other")
    assert again.to_dict() == fresh.to_dict()


@pytest.mark.parametrize("change", [{"ks": [3]}, {"sinks": "mask"}, {"direction": "source-target"}])
def test_other_settings_are_other_runs(tmp_path, change):
    zoo = Zoo(**{name: Given(name, logits(name), GRID, logits(name)) for name in NAMES})
    run(zoo, tmp_path)
    assert run(zoo, tmp_path, **change).num_run == 4


def test_other_weights_are_another_run_under_the_same_name(tmp_path):
    run(Zoo(), tmp_path)
    assert run(Zoo(a1=Given("a1", logits("c1"), GRID)), tmp_path).num_run == 1


def test_a_damaged_file_in_the_cache_is_replaced(tmp_path):
    expected = run(Zoo(), tmp_path).to_dict()
    files = sorted((tmp_path / "alignment").iterdir())
    assert [path.suffix for path in files] == [".safetensors"] * 4
    whole = files[1].read_bytes()
    files[0].write_bytes(b"")
    files[1].write_bytes(whole[:-100])
    zoo = Zoo()
    result = run(zoo, tmp_path)
    assert result.num_run == 2 and result.to_dict() == expected
    assert files[1].read_bytes() == whole


def test_two_that_extract_the_same_at_once_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run(Zoo(), tmp_path).to_dict(), range(4)))
    assert all(result == results[0] for result in results)
    files = list((tmp_path / "alignment").iterdir())
    assert len(files) == 4 and all(Extraction.load(path) for path in files)


def test_a_killed_run_leaves_nothing_that_the_next_one_trips_over(tmp_path):
    """Killed with one extraction done and another under way."""
    script = f"""
import os, signal
from tests.alignment import test_align as here
class Last(here.Given):
    def logits(self, target, source):
        os.kill(os.getpid(), signal.SIGKILL)
here.run(here.Zoo(a2=Last("a2", here.logits("a2"), here.GRID)), here.Path({str(tmp_path)!r}))
"""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    (kept,) = (tmp_path / "alignment").iterdir()
    assert Extraction.load(kept).model == "a1"
    assert run(Zoo(), tmp_path).num_run == 3


def test_a_model_that_fails_is_told_and_the_others_are_compared(tmp_path):
    broken = logits("a1")
    broken[20] = float("nan")
    zoo = Zoo(
        nan=Given("nan", broken, GRID), odd=Given("odd", torch.zeros(3, 9, 9), GRID)
    )  # too few pairs: IndexError
    result = run(zoo, tmp_path, [*NAMES, "none", "nan", "odd"])
    assert result.models == tuple(NAMES)
    failed = {each.model: each.error for each in result.failed}
    assert list(failed) == ["none", "nan", "odd"]
    assert "There is no model none" in failed["none"] and "nan gives attention that is not finite" in failed["nan"]
    assert failed["odd"].startswith("IndexError")
    np.testing.assert_array_equal(result.main.raw.cas, run(Zoo(), tmp_path).main.raw.cas)
    assert "could not be compared" in str(result) and "nan gives attention" in str(result)


def test_if_all_models_fail_all_reasons_are_given(tmp_path):
    with pytest.raises(CheckpointError, match=r"No model can be compared:\n  x: .* x\.\n  y: "):
        run(Zoo(), tmp_path, ["x", "y"])


def test_a_single_model_is_told_of_without_a_matrix(tmp_path):
    result = run(Zoo(), tmp_path, ["a1"])
    assert result.main.raw.mean is None and result.main.raw.cas.tolist() == [[1]]
    assert "1 model on 40 pairs" in str(result) and "CAS, raw" not in str(result)
    json.dumps(result.to_dict(), allow_nan=False)


def test_models_of_other_grids_are_compared_on_the_coarsest(tmp_path):
    fine = Given("fine", torch.randn(40, 36, 36, generator=torch.Generator().manual_seed(0)), (6, 6))
    result = run(Zoo(fine=fine), tmp_path, ["fine", "a1"])
    assert result.grid == GRID
    two = compare(fine, Given("a1", logits("a1"), GRID), numbered_pairs(40), k=2, progress=False)
    assert result.main.raw.cas[0, 1] == pytest.approx(two.raw.cas)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="Named twice: a1"):
        run(Zoo(), tmp_path, ["a1", "b1", "a1"])
    with pytest.raises(PairSetError, match="number of patches, 9; not 10"):
        run(Zoo(), tmp_path, ks=[10])
    with pytest.raises(CheckpointError, match="The groups name c, which is not among"):
        cas_matrix(["untrained:tiny"], groups={"g": ["c"]}, cache_dir=tmp_path)
    assert not (tmp_path / "alignment").exists()


def test_a_saved_result_holds_all_of_it(tmp_path):
    result = run(Zoo(), tmp_path, ks=[9, 2])
    result.save(tmp_path / "saved")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir() if path.suffix != ".png")
    assert names == ["result.json", "result.parquet", "result.safetensors"]
    fields = json.loads((tmp_path / "saved" / "result.json").read_text())
    assert fields["pairs_hash"] == numbered_pairs(40).hash and fields["version"] and fields["k"] == 9
    assert fields["revisions"] == list(result.revisions)
    assert fields["at_k"]["9"]["raw"]["adjusted"][0][1] is None  # k = N
    assert fields["at_k"]["2"]["raw"]["cas"] == result.at_k[2].raw.cas.tolist()
    table = pq.read_table(tmp_path / "saved" / "result.parquet")
    assert table.num_rows == 6 * 2 * 2
    assert table.schema.metadata[b"pairs_hash"].decode() == result.pairs_hash
    (row,) = [
        row
        for row in table.to_pylist()
        if (row["model_a"], row["model_b"], row["k"], row["variant"]) == ("a1", "b2", 2, "position_free")
    ]
    assert row["cas"] == result.at_k[2].position_free.cas[0, 3] and row["group_b"] == "b"
    tensors = load_file(tmp_path / "saved" / "result.safetensors")
    np.testing.assert_allclose(tensors["mean_map/a2"], logits("a2").mean(dim=0), atol=1e-6)
    np.testing.assert_array_equal(tensors["per_pair/2/raw"], result.at_k[2].per_pair["raw"])


def test_the_tables_say_what_the_fields_say(tmp_path):
    result = run(Zoo(), tmp_path, ks=[2, 1])
    text = str(result)
    for part in ("4 models on 40 pairs of numbered", "top 2 of 9 patches", "CAS, raw; chance 0.222", "CAS against k",
                 "CAS by gap", "CAS by overlap", "within less across", "p = 0.3333 raw"):  # fmt: skip
        assert part in text
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("CAS, raw"))
    rows = [line.split()[1:] for line in lines[start + 2 : start + 6]]
    for a in range(4):
        for b in range(4):
            shown = result.main.raw.cas[a, b] if b < a else result.main.raw.adjusted[a, b]
            assert float(rows[a][b]) == pytest.approx(shown, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("runs/sim_1", "simulated"),
        ("runs/sim_1_seed1/checkpoint-200", "simulated"),
        ("ann/singlelife-wt3", "Walking Tours"),
        ("ann/singlelife-hdepic1@v2", "HD-EPIC"),
        ("/home/ann/runs/ald_2", "Anonymous Lives"),
        ("runs/shuffled-wt_1", "controls"),
        ("runs/control_still", "controls"),
        ("untrained:tiny@1", "untrained"),
        ("runs/my_day", "runs/my_day"),
        ("runs/wt_31", "runs/wt_31"),
    ],
)
def test_groups_are_the_data_sets_that_names_tell(name, group):
    assert group_of(name) == group


@pytest.fixture(scope="module")
def views(sim_test) -> PairSet:
    return make_pair_set(sim_test, num_pairs=24)


def test_layers_are_scored_one_by_one(views, tmp_path):
    models = ["untrained:tiny", "untrained:tiny@1"]
    whole = cas_matrix(models, pairs=views, by_layer=True, cache_dir=tmp_path, progress=False)
    assert [(part.of, part.low, part.high) for part in whole.by_layer] == [("layer", 0, 0), ("layer", 1, 1)]
    assert whole.num_run == 2 + 2 * 2
    for layer, part in enumerate(whole.by_layer):
        alone = cas_matrix(models, pairs=views, layers=[layer], cache_dir=tmp_path, progress=False)
        assert alone.num_run == 0 and alone.layers == ((layer,), (layer,))
        assert part.raw["mean"].cas == pytest.approx(alone.main.raw.cas[0, 1])
    assert "CAS by layer" in str(whole)
    assert whole.main.parts[0].of == "gap" and whole.main.readings[0].truth.num_matches > 0
