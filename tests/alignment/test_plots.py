"""Pictures show the numbers, are whole, and are there for any number of models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singlelife.alignment.comparison import cas
from singlelife.alignment.curve import curve_of
from singlelife.alignment.plots.figures import draw_matrix, save_pictures
from singlelife.alignment.plots.style import by_group, short_names

from .providers import numbered_pairs
from .test_matrix import NAMES, Zoo, run

pytestmark = pytest.mark.integration


def names_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_result_has_its_pictures_and_those_of_an_earlier_one_do_not_stay(tmp_path):
    models, folder = Zoo().models, tmp_path / "saved"
    two = cas(models["a1"], models["b1"], pairs=numbered_pairs(40), k=[2, 1], progress=False)
    curve = curve_of(lambda names: run(Zoo(), tmp_path, names), "hours", {"a2": 0.5, "b2": 8.0}, "a1", ["b1"])
    for result, expected in (
        (run(Zoo(), tmp_path), ["dendrogram.png", "matrix.png"]),
        (run(Zoo(), tmp_path, NAMES[:2]), ["matrix.png"]),
        (two, ["scores.png"]),
        (curve, ["curve.png"]),
    ):
        assert sorted(path.name for path in save_pictures(result, folder)) == names_of(folder) == expected
        for name in expected:
            with Image.open(folder / name) as image:
                image.load()
                assert min(image.size) > 300


def test_a_picture_that_cannot_be_written_leaves_none_behind(tmp_path):
    result = run(Zoo(), tmp_path)
    (tmp_path / "matrix.png").mkdir()
    with pytest.raises(OSError):
        save_pictures(result, tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_cells_stand_by_group_and_bear_their_values(tmp_path):
    order = ["a1", "b1", "a2", "b2"]
    result = run(Zoo(), tmp_path, order)
    figure = draw_matrix(result)
    raw, free = (axes for axes in figure.axes if axes.get_title().startswith(("raw", "position-free")))
    shown = raw.images[0].get_array()
    grouped = [0, 2, 1, 3]
    expected = result.main.raw.cas[np.ix_(grouped, grouped)]
    off_diagonal = ~np.eye(4, dtype=bool)
    np.testing.assert_array_equal(np.asarray(shown)[off_diagonal], expected[off_diagonal])
    assert [text.get_text() for text in raw.get_yticklabels()] == ["a1  1", "a2  3", "b1  2", "b2  4"]
    assert f"{expected[0, 1]:.2f}" in [text.get_text() for text in raw.texts]
    assert f"{result.main.position_free.cas[0, 2]:.2f}" in [text.get_text() for text in free.texts]


def test_means_of_groups_stand_with_their_interval(tmp_path):
    result = run(Zoo(), tmp_path)
    titles = [axes.get_title() for axes in draw_matrix(result).axes]
    within = result.main.raw.within.cas
    assert any(f"within groups {within:.3f}" in title and "p = 0.33" in title for title in titles)
    alone = run(Zoo(), tmp_path, groups=list("abcd"))
    assert not any("within" in axes.get_title() for axes in draw_matrix(alone).axes)


def test_names_fit_and_stay_apart():
    assert short_names(["runs/sim_1", "runs/sim_2"]) == ["sim_1", "sim_2"]
    assert short_names(["a/sim_1", "b/sim_1"]) == ["a/sim_1", "b/sim_1"]
    long = short_names(["runs/" + "x" * 50, "untrained:tiny"])[0]
    assert len(long) <= 28 and "…" in long
    assert by_group(["b", "a", "b", "c"]) == [0, 2, 1, 3]
