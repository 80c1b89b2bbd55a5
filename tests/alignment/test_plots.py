"""Pictures show the numbers, are whole, and are there for any number of models."""

import numpy as np
import pytest
from PIL import Image

from singlelife.alignment.comparison import cas
from singlelife.alignment.curve import curve_of
from singlelife.alignment.plots import draw_matrix, save_pictures

from .providers import numbered_pairs
from .test_matrix import run, zoo

pytestmark = pytest.mark.integration


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
