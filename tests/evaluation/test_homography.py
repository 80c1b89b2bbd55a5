"""Homographies in files, good and bad, and where they say that pixels go."""

import numpy as np
import pytest

from singlelife.errors import EvaluationError
from singlelife.evaluation.homography import PlanarTruth, is_singular, read_homography

GRAF = np.array(  # a real one, of the pair graf1 and graf3
    [[0.76285898, -0.29922929, 225.67123], [0.33443473, 1.0143901, -76.999973], [3.4663091e-4, -1.4364524e-5, 1]]
)
WORDS = " ".join(f"{value:.10e}" for value in GRAF.ravel())

XML = f"""<?xml version="1.0"?>
<opencv_storage>
<H13 type_id="opencv-matrix">
  <rows>3</rows>
  <cols>3</cols>
  <dt>d</dt>
  <data>
    {WORDS} </data></H13>
</opencv_storage>
"""
YAML = f"""%YAML:1.0
---
H13: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ {WORDS.replace(" ", ", ")} ]
"""
JSON = (
    f'{{"H13": {{"type_id": "opencv-matrix", "rows": 3, "cols": 3, "dt": "d", "data": [{WORDS.replace(" ", ", ")}]}}}}'
)
LINES = "\n".join(" ".join(f"{value:.10e}" for value in row) for row in GRAF)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("H_1_3", LINES),
        ("H1to3p", f"\n  {LINES.replace(' ', '   ')}\n\n"),
        ("h.txt", WORDS),
        ("h.csv", LINES.replace(" ", ",")),
        ("h.xml", XML),
        ("h.yml", YAML),
        ("h.yaml", YAML.replace("%YAML:1.0\n---\n", "")),
        ("h.json", JSON),
        ("H13", XML),
        ("H13", YAML),
    ],
)
def test_the_common_forms_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    matrix = read_homography(tmp_path / name)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix, GRAF, rtol=1e-9)


def test_a_numpy_array_is_read_and_never_unpickled(tmp_path):
    np.save(tmp_path / "h.npy", GRAF)
    np.testing.assert_array_equal(read_homography(tmp_path / "h.npy"), GRAF)
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(EvaluationError, match=r"pickled\.npy: not a homography that can be read"):
        read_homography(tmp_path / "pickled.npy")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.txt", b"1 0 0\n0 1 0\n", "it has 6 numbers instead of nine"),
        ("h.txt", b"1 0 0 0 1 0 0 0 one", "could not convert string to float"),
        ("h.txt", b"", "it has 0 numbers"),
        ("h.txt", b"\xff\xfe\x00", "not a homography that can be read"),
        ("h.txt", b"1 0 0\n0 nan 0\n0 0 1\n", "some are not finite"),
        ("h.txt", b"1 0 0\n0 1 0\n1 1 0\n", "it is singular"),
        ("h.txt", b"0 0 0 0 0 0 0 0 0", "it is singular"),
        ("h.txt", b"100 200 3 50 100 7 0 0 1", "it is singular"),
        ("h.txt", b"1 " * 40_000, "too large for nine numbers"),
        ("h.xml", b"<opencv_storage><H></opencv_storage>", "not a homography that can be read"),
        ("h.xml", b"<opencv_storage></opencv_storage>", "it has 0 matrices of 3x3 instead of one"),
        ("h.xml", XML.replace("<rows>3", "<rows>2").encode(), "not a homography that can be read"),
        ("h.xml", XML.replace("<rows>3</rows>", "").encode(), "not a homography that can be read"),
        ("h.xml", XML.replace("</H13>", "</H13>" + XML[XML.index("<H13") : XML.index("</open")]).encode(), "it has 2"),
        ("h.yml", YAML.replace("rows: 3", "rows: x").encode(), "not a homography that can be read"),
        ("h.yml", b"H: !!python/object/apply:os.system ['true']", "not a homography that can be read"),
        ("h.yml", b"[" * 30_000, "not a homography that can be read"),
        ("h.json", b"[" * 30_000, "not a homography that can be read"),
        ("h.json", b"{", "not a homography that can be read"),
        ("h.npy", b"", "not a homography that can be read"),
        ("h.npy", b"\x93NUMPY", "not a homography that can be read"),
        ("h.npz", b"PK", "an archive of arrays"),
        ("h.txt", None, "no such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(EvaluationError, match=message) as error:
        read_homography(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))


def test_an_array_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "h.npy", np.eye(4))
    with pytest.raises(EvaluationError, match="3x3 numbers"):
        read_homography(tmp_path / "h.npy")


def test_real_homographies_are_far_from_singular():
    assert not is_singular(GRAF) and not is_singular(np.linalg.inv(GRAF)) and not is_singular(1e-6 * GRAF)


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
