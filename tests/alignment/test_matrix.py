"""Many models: each is run once, what fails is told, and the numbers are those of two models at a time."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from singlelife import cas_matrix
from singlelife.alignment.comparison import cas
from singlelife.alignment.extraction import Extraction
from singlelife.alignment.matrix import align_models
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, PairSetError

from .providers import Given, numbered_pairs

GRID = (3, 3)
NAMES = ["a1", "a2", "b1", "b2"]
GROUPS = ["a", "a", "b", "b"]


def logits(name: str) -> torch.Tensor:
    """What models of one group share, and something of their own."""
    shared, own = (torch.Generator().manual_seed(seed) for seed in (ord(name[0]), int(name[1]) + 7 * ord(name[0])))
    return torch.randn(40, 9, 9, generator=shared) + 0.7 * torch.randn(40, 9, 9, generator=own)


class Zoo:
    """Models by name; counts what is done with each."""

    def __init__(self, **more):
        self.models = {name: Given(name, logits(name), GRID) for name in NAMES} | more
        self.loaded: list[str] = []

    def __call__(self, name: str):
        self.loaded.append(name)
        if name not in self.models:
            raise CheckpointError(f"There is no model {name}.")
        return self.models[name]

    def runs(self) -> dict[str, float]:
        return {name: model.pairs_seen / 40 for name, model in self.models.items() if model.pairs_seen}


def run(zoo: Zoo, cache: Path, names=tuple(NAMES), groups=None, **settings):
    config = CasConfig(**{"k": 2, "cache_dir": cache, "progress": False} | settings)
    groups = groups or [name[0] for name in names]
    return align_models(names, zoo, lambda _: numbered_pairs(40), config, groups=groups)


def test_each_cell_is_the_score_of_two_models(tmp_path):
    zoo = Zoo()
    result = run(zoo, tmp_path, k=[2, 1])
    assert result.models == tuple(NAMES) and result.groups == tuple(GROUPS) and not result.failed
    for a in range(4):
        for b in range(a):
            two = cas(zoo.models[NAMES[a]], zoo.models[NAMES[b]], pairs=numbered_pairs(40), k=[2, 1], progress=False)
            for at_k in two.curve:
                for variant in ("raw", "position_free"):
                    matrix, score = getattr(result.at_k[at_k.k], variant), getattr(at_k, variant)
                    for name in ("cas", "chance", "chance_corrected", "low", "high"):
                        square = getattr(matrix, name)
                        assert square[a, b] == square[b, a] == pytest.approx(getattr(score, name), abs=1e-9)
    for reading, name in zip(result.main.readings, NAMES, strict=True):
        other = cas(zoo.models[name], zoo.models[name], pairs=numbered_pairs(40), k=2, progress=False)
        assert reading.position.cas == pytest.approx(other.readings[0].position.cas)
    assert np.diag(result.main.raw.cas).tolist() == [1] * 4


def test_means_of_groups_are_those_of_their_cells(tmp_path):
    result = run(Zoo(), tmp_path)
    matrix = result.main.raw
    cas = matrix.cas
    assert matrix.within.cas == pytest.approx((cas[0, 1] + cas[2, 3]) / 2)
    assert matrix.across.cas == pytest.approx(cas[:2, 2:].mean())
    assert matrix.difference.difference == pytest.approx(matrix.within.cas - matrix.across.cas)
    assert 0 < matrix.difference.low < matrix.difference.difference < matrix.difference.high
    assert matrix.permutation.exact and matrix.permutation.p_value == pytest.approx(2 / 6)
    assert matrix.permutation.difference == pytest.approx(matrix.difference.difference)
    first, second = np.triu_indices(4, 1)
    np.testing.assert_allclose(result.main.per_pair["raw"].mean(axis=0), cas[first, second])


def test_each_model_is_run_once_ever(tmp_path):
    zoo = Zoo()
    assert run(zoo, tmp_path, NAMES[:3], k=[2, 1]).num_run == 3
    assert run(zoo, tmp_path, k=[2, 1]).num_run == 1  # one more model costs one run
    assert zoo.runs() == dict.fromkeys(NAMES, 1)
    again = run(zoo, tmp_path)
    assert again.num_run == 0 and zoo.runs() == dict.fromkeys(NAMES, 1)
    fresh = run(Zoo(), tmp_path / "other")
    assert again.to_dict() == fresh.to_dict()


@pytest.mark.parametrize("change", [{"k": [3]}, {"sinks": "mask"}, {"direction": "source-target"}])
def test_other_settings_are_other_runs(tmp_path, change):
    zoo = Zoo(**{name: Given(name, logits(name), GRID, logits(name)) for name in NAMES})
    run(zoo, tmp_path)
    assert run(zoo, tmp_path, **change).num_run == 4


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


@pytest.mark.integration
def test_a_killed_run_leaves_nothing_that_the_next_one_trips_over(tmp_path):
    """Killed with one extraction done and another under way."""
    script = f"""
import os, signal
from tests.alignment import test_matrix as here
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
    two = cas(fine, Given("a1", logits("a1"), GRID), pairs=numbered_pairs(40), k=2, progress=False)
    assert result.main.raw.cas[0, 1] == pytest.approx(two.raw.cas)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="Named twice: a1"):
        run(Zoo(), tmp_path, ["a1", "b1", "a1"])
    with pytest.raises(PairSetError, match="number of patches, 9; not 10"):
        run(Zoo(), tmp_path, k=[10])
    with pytest.raises(CheckpointError, match="The groups name c, which is not among"):
        cas_matrix(["untrained:tiny"], groups={"g": ["c"]}, cache_dir=tmp_path)
    assert not (tmp_path / "alignment").exists()


def test_a_saved_result_holds_all_of_it(tmp_path):
    result = run(Zoo(), tmp_path, k=[9, 2])
    result.save(tmp_path / "saved")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir() if path.suffix != ".png")
    assert names == ["result.json", "result.safetensors"]
    fields = json.loads((tmp_path / "saved" / "result.json").read_text())
    assert fields["pairs_hash"] == numbered_pairs(40).hash and fields["version"] and fields["k"] == 9
    assert fields["revisions"] == list(result.revisions)
    assert fields["at_k"]["9"]["raw"]["chance_corrected"][0][1] is None  # k = N
    assert fields["at_k"]["2"]["raw"]["cas"] == result.at_k[2].raw.cas.tolist()
    tensors = load_file(tmp_path / "saved" / "result.safetensors")
    np.testing.assert_allclose(tensors["mean_map/a2"], logits("a2").mean(dim=0), atol=1e-6)
    np.testing.assert_array_equal(tensors["per_pair/2/raw"], result.at_k[2].per_pair["raw"])


def test_the_tables_say_what_the_fields_say(tmp_path):
    result = run(Zoo(), tmp_path, k=[2, 1])
    text = str(result)
    for part in ("4 models on 40 pairs of numbered", "top 2 of 9 patches", "CAS, raw; chance 0.222", "CAS against k",
                 "within less across", "p = 0.3333 raw"):  # fmt: skip
        assert part in text
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("CAS, raw"))
    rows = [line.split()[1:] for line in lines[start + 2 : start + 6]]
    for a in range(4):
        for b in range(4):
            shown = result.main.raw.cas[a, b] if b < a else result.main.raw.chance_corrected[a, b]
            assert float(rows[a][b]) == pytest.approx(shown, abs=5e-4)


def test_rows_and_the_frame_have_every_number_with_its_settings(tmp_path):
    result = run(Zoo(), tmp_path, k=[2, 1], sinks="mask")
    frame = result.to_frame()
    assert frame.task.eq("cas").all() and frame.protocol.eq("cas/1").all() and frame.data_hash.nunique() == 1
    scores = frame[frame.metric.isin(["raw", "position_free"])]
    assert len(scores) == 6 * 2 * 2
    (row,) = [row for row in result.rows() if (row.model, row.reference) == ("a1", "b2")
              and row.metric == "position_free" and row.settings["k"] == 2]  # fmt: skip
    score = result.at_k[2].position_free.cell(0, 3)
    assert (row.value, row.low, row.high, row.settings["chance"]) == (score.cas, score.low, score.high, score.chance)
    assert row.revision == result.revisions[0] and row.settings["reference_revision"] == result.revisions[3]
    assert row.settings["num_patches"] == 9 and row.settings["sinks"] == "mask" and row.seed == 0
    positions = frame[frame.metric == "position_raw"]
    assert len(positions) == 4 * 2 and positions.value.iloc[0] == result.at_k[1].readings[0].position.cas
    assert frame.reference[frame.metric == "position_raw"].eq("").all()
