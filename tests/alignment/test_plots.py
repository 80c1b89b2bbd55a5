"""Pictures are of the numbers, whole, and there for any number of models."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from singlelife.alignment.plots.all import write_pictures
from singlelife.alignment.plots.breakdown import draw_breakdown
from singlelife.alignment.plots.kinship import classical_scaling
from singlelife.alignment.plots.matrix import draw_matrix
from singlelife.alignment.plots.models import draw_models
from singlelife.alignment.plots.style import by_group, short_names

from .test_align import NAMES, Zoo, run


def names_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_result_has_its_pictures(tmp_path):
    run(Zoo(), tmp_path, ks=[2, 1]).save(tmp_path / "saved")
    found = [name for name in names_of(tmp_path / "saved") if name.endswith(".png")]
    assert found == ["breakdown.png", "kinship.png", "matrix.png", "models.png"]
    for name in found:
        with Image.open(tmp_path / "saved" / name) as image:
            image.load()
            assert min(image.size) > 300


def test_pictures_of_an_earlier_result_do_not_stay(tmp_path):
    folder = tmp_path / "saved"
    run(Zoo(), tmp_path).save(folder)
    run(Zoo(), tmp_path, NAMES[:2]).save(folder)
    assert "kinship.png" not in names_of(folder) and "matrix.png" in names_of(folder)
    run(Zoo(), tmp_path, NAMES[:1]).save(folder)
    assert [name for name in names_of(folder) if name.endswith(".png")] == ["models.png"]


def test_a_picture_that_cannot_be_written_leaves_none_behind(tmp_path, monkeypatch):
    result = run(Zoo(), tmp_path)
    (tmp_path / "matrix.png").mkdir()
    with pytest.raises(OSError):
        write_pictures(result, tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_cells_stand_by_group_and_bear_their_values(tmp_path):
    order = ["a1", "b1", "a2", "b2"]
    result = run(Zoo(), tmp_path, order)
    figure = draw_matrix(result)
    raw, free = (axes for axes in figure.axes if axes.get_title() in ("raw", "position-free"))
    shown = raw.images[0].get_array()
    grouped = [0, 2, 1, 3]
    expected = result.main.raw.cas[np.ix_(grouped, grouped)]
    off_diagonal = ~np.eye(4, dtype=bool)
    np.testing.assert_array_equal(np.asarray(shown)[off_diagonal], expected[off_diagonal])
    assert [text.get_text() for text in raw.get_yticklabels()] == ["a1  1", "a2  3", "b1  2", "b2  4"]
    assert f"{expected[0, 1]:.2f}" in [text.get_text() for text in raw.texts]
    assert f"{result.main.position_free.cas[0, 2]:.2f}" in [text.get_text() for text in free.texts]


def test_block_means_are_told_with_their_interval(tmp_path):
    result = run(Zoo(), tmp_path)
    titles = [axes.get_title() for axes in draw_matrix(result).axes]
    within = result.main.raw.within.cas
    assert any(f"within {within:.3f}" in title and "p = 0.33" in title for title in titles)
    alone = run(Zoo(), tmp_path, groups=list("abcd"))
    assert not any("within" in axes.get_title() for axes in draw_matrix(alone).axes)


def test_the_breakdown_has_what_differs(tmp_path):
    names = [axes.get_xlabel() for axes in draw_breakdown(run(Zoo(), tmp_path, ks=[2, 1])).axes]
    assert [name for name in names if name] == [
        "k, of the top k", "overlap of the two frames (k = 2)", "gap of the two frames, s (k = 2)",
    ]  # fmt: skip


def test_sinks_and_chance_are_drawn(tmp_path):
    place, sinks = draw_models(run(Zoo(), tmp_path)).axes
    assert place.lines[-1].get_xdata()[0] == pytest.approx(2 / 9)
    assert "no model has any" in [text.get_text() for text in sinks.texts]
    assert len(place.patches) == 4


@given(st.integers(0, 2**32 - 1), st.integers(3, 8))
def test_points_in_a_plane_are_placed_at_their_distances(seed, count):
    points = np.random.default_rng(seed).normal(size=(count, 2))

    def distances(places):
        return np.linalg.norm(places[:, None] - places[None], axis=-1)

    places, kept = classical_scaling(distances(points))
    np.testing.assert_allclose(distances(places), distances(points), atol=1e-6)
    assert kept == pytest.approx(1)


def test_models_that_are_all_the_same_are_placed_at_one_point():
    places, kept = classical_scaling(np.zeros((3, 3)))
    assert not places.any() and kept == 1


def test_names_fit_and_stay_apart():
    assert short_names(["runs/sim_1", "runs/sim_2"]) == ["sim_1", "sim_2"]
    assert short_names(["a/sim_1", "b/sim_1"]) == ["a/sim_1", "b/sim_1"]
    long = short_names(["runs/" + "x" * 50, "untrained:tiny"])[0]
    assert len(long) <= 28 and "…" in long
    assert by_group(["b", "a", "b", "c"]) == [0, 2, 1, 3]
