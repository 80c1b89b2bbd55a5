"""Many models: each is run once, what fails is named, and the numbers are those of two models at a time."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from singlelife import cas_matrix
from singlelife.alignment.comparison import cas
from singlelife.alignment.curve import curve_of
from singlelife.alignment.extraction import Extraction
from singlelife.alignment.plots import draw_matrix, save_pictures
from singlelife.errors import CheckpointError, PairSetError

from .providers import Given, numbered_pairs

GRID = (3, 3)
NAMES = ["a1", "a2", "b1", "b2"]


def logits(name: str) -> torch.Tensor:
    """What models of one group share, and something of their own."""
    shared, own = (torch.Generator().manual_seed(seed) for seed in (ord(name[0]), int(name[1]) + 7 * ord(name[0])))
    return torch.randn(40, 9, 9, generator=shared) + 0.7 * torch.randn(40, 9, 9, generator=own)


def zoo(names=tuple(NAMES)) -> list[Given]:
    return [Given(name, logits(name), GRID, logits(name)) for name in names]


def run(cache: Path, models=None, groups=None, **settings):
    models = zoo() if models is None else models
    if groups is None:
        groups = {letter: [each.name for each in models if getattr(each, "name", "")[:1] == letter] for letter in "ab"}
    settings = {"k": 2, "cache_dir": cache, "progress": False} | settings
    return cas_matrix(models, pairs=numbered_pairs(40), groups=groups, **settings)


def runs(models) -> list[float]:
    return [model.pairs_seen / 40 for model in models]


def test_each_cell_is_the_score_of_two_models(tmp_path):
    models = zoo()
    result = run(tmp_path, models, k=[2, 1])
    assert result.models == tuple(NAMES) and result.groups == ("a", "a", "b", "b") and not result.failed
    for a in range(4):
        for b in range(a):
            two = cas(models[a], models[b], pairs=numbered_pairs(40), k=[2, 1], progress=False)
            for at_k in two.curve:
                for variant in ("raw", "centred"):
                    matrix, score = getattr(result.at_k[at_k.k], variant), getattr(at_k, variant)
                    assert matrix.cell(a, b) == matrix.cell(b, a)
                    for name, value in vars(score).items():
                        square = matrix.arrays[name]
                        assert square[a, b] == square[b, a] == pytest.approx(value, abs=1e-9)
            for reading, index in zip(two.readings, (a, b), strict=True):
                assert result.main.readings[index].position.cas == pytest.approx(reading.position.cas)
    assert np.diag(result.main.raw.cas).tolist() == [1] * 4


def test_means_of_groups_are_those_of_their_cells(tmp_path):
    result = run(tmp_path)
    matrix = result.main.raw
    cas = matrix.cas
    assert matrix.within.cas == pytest.approx((cas[0, 1] + cas[2, 3]) / 2)
    assert matrix.across.cas == pytest.approx(cas[:2, 2:].mean())
    assert matrix.difference.cas == pytest.approx(matrix.within.cas - matrix.across.cas)
    assert 0 < matrix.difference.low < matrix.difference.cas < matrix.difference.high
    assert matrix.permutation.p_value == pytest.approx(2 / 6)
    assert matrix.permutation.difference == pytest.approx(matrix.difference.cas)
    np.testing.assert_allclose(result.main.per_pair["raw"].mean(axis=0), cas[np.triu_indices(4, 1)])
    centred = result.main.centred
    np.testing.assert_allclose(result.main.per_pair["centred"].mean(axis=0), centred.cas[np.triu_indices(4, 1)])
    assert centred.across.excess == pytest.approx(centred.excess[:2, 2:].mean())
    assert centred.difference.excess == pytest.approx(centred.within.excess - centred.across.excess)
    assert 0 < centred.difference.excess_low and centred.difference.p_value == pytest.approx(1 / 32)
    assert abs(centred.across.excess) < 0.05 and centred.across.excess_low < 0 < centred.across.excess_high
    alone = run(tmp_path, groups={name: [name] for name in NAMES}).main.raw
    assert alone.within is None and alone.difference is None and alone.permutation is None


def test_each_model_is_run_once_ever(tmp_path):
    models = zoo()
    run(tmp_path, models[:3], k=[2, 1])
    run(tmp_path, models, k=[2, 1])  # one more model costs one run
    assert runs(models) == [1] * 4
    again = run(tmp_path, models)
    assert runs(models) == [1] * 4
    assert again.to_dict() == run(tmp_path / "other").to_dict()


@pytest.mark.parametrize("change", [{"k": [3]}, {"sinks": "mask"}, {"direction": "source-target"}])
def test_other_settings_are_other_runs(tmp_path, change):
    models = zoo()
    run(tmp_path, models)
    run(tmp_path, models, **change)
    assert runs(models) == [2] * 4


def test_a_damaged_file_in_the_cache_is_replaced(tmp_path):
    expected = run(tmp_path).to_dict()
    files = sorted((tmp_path / "alignment").iterdir())
    assert [path.suffix for path in files] == [".safetensors"] * 4
    whole = files[1].read_bytes()
    files[0].write_bytes(b"")
    files[1].write_bytes(whole[:-100])
    models = zoo()
    assert run(tmp_path, models).to_dict() == expected and sum(runs(models)) == 2
    assert files[1].read_bytes() == whole


def test_two_that_extract_the_same_at_once_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: run(tmp_path).to_dict(), range(4)))
    assert all(result == results[0] for result in results)
    files = list((tmp_path / "alignment").iterdir())
    assert len(files) == 4 and all(Extraction.load(path) for path in files)


def test_a_model_that_fails_is_named_and_the_others_are_compared(tmp_path):
    broken = logits("a1")
    broken[20] = float("nan")
    nan, odd = Given("nan", broken, GRID), Given("odd", torch.zeros(3, 9, 9), GRID)  # too few pairs: IndexError
    result = run(tmp_path, [*zoo(), "none", nan, odd], groups={})
    assert result.models == tuple(NAMES) and list(result.failed) == ["none", "nan", "odd"]
    assert "none" in result.failed["none"] and "not finite" in result.failed["nan"]
    assert result.failed["odd"].startswith("IndexError")
    assert all(f"  {model}: {error}" in str(result) for model, error in result.failed.items())
    with pytest.raises(CheckpointError, match="no model none"):
        run(tmp_path, [zoo()[0], "none"])


def test_what_cannot_be_compared_is_refused_before_any_run(tmp_path):
    models = zoo()
    with pytest.raises(CheckpointError, match="Named twice: a1"):
        run(tmp_path, [*models, models[0]])
    with pytest.raises(CheckpointError, match="c1"):
        run(tmp_path, models, groups={"c": ["c1"]})
    with pytest.raises(PairSetError, match="9; not 10"):
        run(tmp_path, models, k=[10])
    assert runs(models) == [0] * 4


def test_the_fields_and_the_tables_say_the_same(tmp_path):
    result = run(tmp_path, k=[9, 2])
    result.save_json(tmp_path / "result.json")
    fields = json.loads((tmp_path / "result.json").read_text())
    assert fields["pairs_hash"] == numbered_pairs(40).hash and fields["version"] and fields["k"] == 9
    assert fields["revisions"] == list(result.revisions)
    assert fields["at_k"]["9"]["raw"]["chance_corrected"][0][1] is None  # k = N
    assert fields["at_k"]["2"]["raw"]["cas"] == result.at_k[2].raw.cas.tolist()

    result = run(tmp_path, k=[2, 1])
    lines = str(result).splitlines()
    assert "4 models on 40 pairs of numbered" in lines[0] and "at least 0.33" in str(result)
    for title, below, above in (
        ("centred CAS less its null", result.main.centred.excess, result.main.centred.arrays["p_value"]),
        ("raw CAS; chance 0.222", result.main.raw.cas, result.main.raw.cas),
    ):
        start = next(index for index, line in enumerate(lines) if line.startswith(title))
        rows = [line.split()[1:] for line in lines[start + 2 : start + 6]]
        for a in range(4):
            rows[a].insert(a, "nan")  # nothing stands on the diagonal
            for b in {*range(4)} - {a}:
                assert float(rows[a][b]) == pytest.approx((above if b > a else below)[a, b], abs=6e-4)


def test_rows_and_the_frame_have_every_number_with_its_settings(tmp_path):
    result = run(tmp_path, k=[2, 1], sinks="mask")
    frame = result.to_frame()
    assert frame.task.eq("cas").all() and frame.protocol.eq("cas/2").all() and frame.data_hash.nunique() == 1
    assert frame.metric.isin(["raw", "centred_excess"]).sum() == 6 * 2 * 2
    (row,) = [row for row in result.rows() if (row.model, row.reference) == ("a1", "b2")
              and row.metric == "centred" and row.settings["k"] == 2]  # fmt: skip
    score = result.at_k[2].centred.cell(0, 3)
    assert (row.value, row.low, row.high, row.settings["chance"]) == (score.cas, score.low, score.high, score.chance)
    others = {each.metric: each for each in result.rows() if (each.model, each.reference) == ("a1", "b2")
              and each.settings["k"] == 2}  # fmt: skip
    above = others["centred_excess"]
    assert (above.value, above.low, above.high) == (score.excess, score.excess_low, score.excess_high)
    assert others["centred_null"].value == score.null and others["centred_p"].value == score.p_value
    assert row.revision == result.revisions[0] and row.settings["reference_revision"] == result.revisions[3]
    assert row.settings["num_patches"] == 9 and row.settings["sinks"] == "mask" and row.seed == 0
    positions = frame[frame.metric == "position_raw"]
    assert len(positions) == 4 * 2 and positions.value.iloc[0] == result.at_k[1].readings[0].position.cas
    assert positions.reference.eq("").all()


# Pictures.


@pytest.mark.integration
def test_every_result_has_its_pictures_and_those_of_an_earlier_one_do_not_stay(tmp_path):
    models, folder = zoo(), tmp_path / "saved"
    matrix = run(tmp_path, models)
    curve = curve_of(matrix, "a1", "hours", {"a2": 0.5, "b2": 8.0})
    two = cas(models[0], models[1], pairs=numbered_pairs(40), k=2, progress=False)
    for result, expected in (
        (matrix, ["matrix.png"]),
        (run(tmp_path, models[:2]), ["matrix.png"]),
        (curve, ["curve.png"]),
        (two, []),
    ):
        found = sorted(path.name for path in save_pictures(result, folder))
        assert found == sorted(path.name for path in folder.iterdir()) == expected
        for name in expected:
            with Image.open(folder / name) as image:
                image.load()
                assert min(image.size) > 300


@pytest.mark.integration
def test_cells_stand_by_group_and_bear_their_values(tmp_path):
    result = run(tmp_path, zoo(["a1", "b1", "a2", "b2"]))
    figure = draw_matrix(result)
    centred, raw = (axes for axes in figure.axes if axes.get_title().startswith(("raw", "centred")))
    expected = result.main.raw.cas[np.ix_([0, 2, 1, 3], [0, 2, 1, 3])]
    off_diagonal = ~np.eye(4, dtype=bool)
    np.testing.assert_array_equal(np.asarray(raw.images[0].get_array())[off_diagonal], expected[off_diagonal])
    assert [text.get_text() for text in raw.get_yticklabels()] == ["a1  1", "a2  3", "b1  2", "b2  4"]
    assert f"{expected[0, 1]:.2f}" in [text.get_text() for text in raw.texts]
    assert f"{result.main.centred.excess[0, 2]:.2f}" in [text.get_text() for text in centred.texts]
    assert f"within groups {result.main.raw.within.cas:.3f}" in raw.get_title() and "too few models" in raw.get_title()
