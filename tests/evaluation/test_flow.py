"""From cost volumes to flow: the conventions of places, and the true cost volume of analytic homographies."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from singlelife.evaluation.correspondence import cost_volume, flow_at, flow_of, measure, patch_centres
from singlelife.evaluation.image_pairs import ImagePair, planar_truth

GRID = (14, 14)
EXACT = 1e-9


def nearest_costs(places: torch.Tensor, grid: tuple[int, int] = GRID) -> torch.Tensor:
    """The true cost volume of true places (N, 2): the nearer a source patch, the larger."""
    return -torch.cdist(places, patch_centres(grid)).square().unsqueeze(0)


def graded_costs(places: torch.Tensor, grid: tuple[int, int] = GRID, temperature: float = 1e-4) -> torch.Tensor:
    """One whose soft-argmax is the very place, between the four patches around it."""
    rows, columns = grid
    weights = []
    for axis, count in ((0, columns), (1, rows)):
        distance = (places[:, axis : axis + 1] * count - 0.5) - torch.arange(count)
        weights.append((1 - distance.abs()).clamp(min=0))
    product = weights[1].unsqueeze(2) * weights[0].unsqueeze(1)
    return (temperature * product.flatten(1).log().clamp(min=-1e6)).unsqueeze(0)


def planar_pair(matrix, target: tuple[int, int], source: tuple[int, int]) -> ImagePair:
    images = (torch.zeros(3, *size, dtype=torch.uint8) for size in (target, source))
    return ImagePair(*images, partial(planar_truth, np.asarray(matrix, dtype=np.float64), target, source), b"")


def true_flow(pair: ImagePair, costs, temperature: float = 1e-4) -> torch.Tensor:
    places, known = pair.truth(patch_centres(GRID).numpy())
    assert known.all()
    return flow_of(costs(torch.from_numpy(places)), GRID, temperature)[0]


def corner_homography(size: int, moves) -> np.ndarray:
    """The homography that moves the corners of a square image by `moves` (4, 2), as shares of its side."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * (size - 1.0)
    moved = corners + np.asarray(moves) * (size - 1)
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, moved, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3)


def test_the_identity_is_exact():
    pair = planar_pair(np.eye(3), (96, 128), (96, 128))
    for costs in (nearest_costs, graded_costs):
        flow = true_flow(pair, costs)
        assert flow.abs().max() < EXACT
        for side in (None, 240):
            errors = measure(flow, pair, side)
            assert errors["aepe"] < 1e-6 and errors["pck1"] == errors["pck5"] == 1
            assert errors["pixels"] == (240 * 240 if side else 96 * 128)


@pytest.mark.parametrize(("target", "source"), [((28, 28), (56, 56)), ((56, 28), (14, 84)), ((31, 45), (97, 20))])
def test_a_resized_image_is_the_identity_however_small_the_patches(target, source):
    """Half a pixel would be a quarter of a patch here."""
    scale = np.diag([source[1] / target[1], source[0] / target[0], 1])
    to_corner, to_centre = np.eye(3), np.eye(3)
    to_corner[:2, 2], to_centre[:2, 2] = 0.5, -0.5  # pixels are counted from the centre of the first one
    pair = planar_pair(to_centre @ scale @ to_corner, target, source)
    for side in (None, 240):
        assert measure(torch.zeros(1, 1, 2, dtype=torch.float64), pair, side)["aepe"] < 1e-6
    assert measure(true_flow(pair, graded_costs), pair)["aepe"] < 1e-6


moves = st.lists(st.tuples(*[st.floats(-0.12, 0.12)] * 2), min_size=4, max_size=4)


@settings(max_examples=40)
@given(moves, st.sampled_from([(96, 96), (150, 90)]))
def test_the_true_cost_volume_of_a_perspective_is_within_half_a_patch(moves, source):
    matrix = corner_homography(112, moves)
    matrix = np.diag([source[1] / 112, source[0] / 112, 1]) @ matrix
    pair = planar_pair(matrix, (112, 112), source)
    half_a_patch = min(source) / 14 / 2
    graded = true_flow(pair, graded_costs)
    assert measure(graded, pair)["aepe"] < half_a_patch / 2  # that of interpolation alone
    assert measure(graded, pair, 240)["aepe"] < 240 / 14 / 4
    nearest = true_flow(pair, nearest_costs)  # one patch alone is the match
    assert measure(nearest, pair)["aepe"] < np.hypot(*source) / 14 / 2


@settings(max_examples=40)
@given(st.floats(0.5, 1.0), st.floats(-0.5, 0.5), st.floats(-0.08, 0.08), st.floats(-0.08, 0.08))
def test_an_affine_map_into_the_source_is_exact_between_the_outer_patches(scale, angle, x, y):
    """Linear flow is what bilinear interpolation reproduces, so any shift in the conventions would show."""
    turn = 0.6 * scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (112 - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, middle + 112 * np.array([x, y]) - turn @ [middle, middle]
    pair = planar_pair(matrix, (112, 112), (112, 112))
    flow = true_flow(pair, graded_costs)
    side = (np.arange(112) + 0.5) / 112
    points = np.stack(np.meshgrid(side[4:-4], side[4:-4]), axis=-1).reshape(-1, 2)  # patches are of 8 px
    found, _ = pair.truth(points)
    np.testing.assert_allclose(points + flow_at(flow, torch.from_numpy(points)).numpy(), found, atol=1e-6)


def test_flow_at_pixels_is_the_flow_resized():
    flow = torch.randn(5, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(flow.permute(2, 0, 1)[None], (33, 50), mode="bilinear")[0]
    points = patch_centres((33, 50))
    torch.testing.assert_close(flow_at(flow, points).T.reshape(2, 33, 50), expected)


def test_large_logits_stay_finite_and_equal_ones_share():
    costs = torch.full((1, 4, 4), -3e4)
    costs[0, :, 3] = 3e4
    flow = flow_of(costs, (2, 2), 1e-4)
    torch.testing.assert_close(flow[0].flatten(0, 1) + patch_centres((2, 2)), torch.full((4, 2), 0.75).double())
    middle = flow_of(torch.zeros(1, 4, 4), (2, 2), 1e-4)[0].flatten(0, 1) + patch_centres((2, 2))
    torch.testing.assert_close(middle, torch.full((4, 2), 0.5).double())


class Maps:
    """A model whose maps are what they are given: forward, and backward if the views are swapped."""

    name, revision, method, layers, num_heads = "maps", "0", "cross-attention", (0,), 1
    grid, image_size = (2, 2), 4

    def __init__(self, forward: torch.Tensor, backward: torch.Tensor):
        self.forward, self.backward = forward, backward

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return self.forward if target.sum() < source.sum() else self.backward


def test_reciprocity_and_sinks():
    generator = torch.Generator().manual_seed(1)
    forward, backward = torch.randn(2, 3, 4, 4, generator=generator)
    model = Maps(forward, backward)
    views = torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.ones(3, 3, 4, 4, dtype=torch.uint8)
    one_way = cost_volume(model, *views, reciprocal=False, mask_sinks=False)
    torch.testing.assert_close(one_way, forward)
    both = cost_volume(model, *views, reciprocal=True, mask_sinks=False)
    torch.testing.assert_close(both, (forward + backward.mT) / 2)
    masked = cost_volume(model, *views, reciprocal=False, mask_sinks=True)
    torch.testing.assert_close(masked[:, :, 1:], forward[:, :, 1:])
    torch.testing.assert_close(masked[:, :, 0], forward.amin((1, 2))[:, None].expand(3, 4))
    assert (model.forward == forward).all()  # what the model gave is not written to
    both = cost_volume(model, *views, reciprocal=True, mask_sinks=True)
    backward[:, :, 0] = backward.amin((1, 2))[:, None]
    torch.testing.assert_close(both, (masked + backward.mT) / 2)
