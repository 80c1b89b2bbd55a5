"""Homographies in files, good and bad, and where they say that pixels go."""

import numpy as np
import pytest

from singlelife.errors import EvaluationError
from singlelife.evaluation.homography import PlanarTruth, read_homography

GRAF = np.array(  # a real one, of the pair graf1 and graf3
    [[0.76285898, -0.29922929, 225.67123], [0.33443473, 1.0143901, -76.999973], [3.4663091e-4, -1.4364524e-5, 1]]
)
LINES = "\n".join(" ".join(f"{value:.10e}" for value in row) for row in GRAF)
COMMAS = ", ".join(LINES.split())
XML = f"""<?xml version="1.0"?>
<opencv_storage>
<H13 type_id="opencv-matrix">
  <rows>3</rows> <cols>3</cols> <dt>d</dt>
  <data>
    {LINES} </data></H13>
</opencv_storage>
"""
YAML = f"%YAML:1.0\n---\nH13: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   data: [ {COMMAS} ]\n"
JSON = f'{{"H13": {{"type_id": "opencv-matrix", "rows": 3, "cols": 3, "dt": "d", "data": [{COMMAS}]}}}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [("H_1_3", LINES), ("h.txt", LINES.replace("\n", " ")), ("h.csv", LINES.replace(" ", ",")), ("h.xml", XML),
     ("h.yml", YAML), ("h.json", JSON)],
)  # fmt: skip
def test_the_common_forms_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    matrix = read_homography(tmp_path / name)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix, GRAF, rtol=1e-9)


def test_a_numpy_array_is_read_and_never_unpickled(tmp_path):
    np.save(tmp_path / "h.npy", GRAF)
    np.testing.assert_array_equal(read_homography(tmp_path / "h.npy"), GRAF)
    np.save(tmp_path / "four.npy", np.eye(4))
    with pytest.raises(EvaluationError, match=r"\(4, 4\)"):
        read_homography(tmp_path / "four.npy")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(EvaluationError, match=r"pickled\.npy: not a homography"):
        read_homography(tmp_path / "pickled.npy")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.txt", b"1 0 0\n0 1 0\n", r"\[6\]"),
        ("h.txt", b"1 0 0 0 1 0 0 0 one", "'one'"),
        ("h.txt", b"", r"\[0\]"),
        ("h.txt", b"\xff\xfe\x00", "not a homography"),
        ("h.txt", b"1 0 0\n0 nan 0\n0 0 1\n", "not finite"),
        ("h.txt", b"1 0 0\n0 1 0\n1 1 0\n", "singular"),
        ("h.txt", b"100 200 3 50 100 7 0 0 1", "singular"),
        ("h.txt", b"1 " * 40_000, "too large"),
        ("h.xml", b"<opencv_storage></opencv_storage>", "not a homography"),
        ("h.xml", 2 * XML.encode(), "2 matrices"),
        ("h.yml", b"H: !!python/object/apply:os.system ['true']", "not a homography"),
        ("h.npy", b"", "not a homography"),
        ("h.npy", b"\x93NUMPY", "not a homography"),
        ("h.txt", None, "no such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EvaluationError, match=message) as error:
        read_homography(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))


def test_pixels_go_where_the_homography_says():
    truth = PlanarTruth(GRAF, (640, 800), (600, 900))
    pixels = np.array([[0.0, 0.0], [799, 639], [400, 17]])
    found, known = truth((pixels + 0.5) / [800, 640])
    expected = np.c_[pixels, np.ones(3)] @ GRAF.T
    np.testing.assert_allclose(found * [900, 600] - 0.5, expected[:, :2] / expected[:, 2:], rtol=1e-12)
    assert known.all()


def test_behind_the_horizon_nothing_is_seen():
    """Row 60 of this target is the plane's horizon; rows above it would be seen from behind."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0, 1 / 60, -1.0]])
    truth = PlanarTruth(-matrix, (200, 100), (100, 100))
    rows = np.array([0, 59.0, 60, 61, 199])
    found, known = truth(np.stack([np.full(5, 0.5), (rows + 0.5) / 200], axis=-1))
    assert known.tolist() == [False, False, False, True, True]
    assert np.isfinite(found).all()
