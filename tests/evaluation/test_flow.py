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
TEMPERATURE = 1e-4


def graded_costs(places: torch.Tensor) -> torch.Tensor:
    """A cost volume whose soft-argmax are these places (N, 2), between the four patches around each."""
    rows, columns = GRID
    weights = []
    for axis, count in ((0, columns), (1, rows)):
        distance = (places[:, axis : axis + 1] * count - 0.5) - torch.arange(count)
        weights.append((1 - distance.abs()).clamp(min=0))
    product = weights[1].unsqueeze(2) * weights[0].unsqueeze(1)
    return (TEMPERATURE * product.flatten(1).log().clamp(min=-1e6)).unsqueeze(0)


def planar_pair(matrix, target: tuple[int, int], source: tuple[int, int]) -> ImagePair:
    images = (torch.zeros(3, *size, dtype=torch.uint8) for size in (target, source))
    return ImagePair(*images, partial(planar_truth, np.asarray(matrix, dtype=np.float64), target, source), b"")


def true_flow(pair: ImagePair) -> torch.Tensor:
    places, known = pair.truth(patch_centres(GRID).numpy())
    assert known.all()
    return flow_of(graded_costs(torch.from_numpy(places)), GRID, TEMPERATURE)[0]


def test_the_identity_is_exact():
    pair = planar_pair(np.eye(3), (96, 128), (96, 128))
    flow = true_flow(pair)
    assert flow.abs().max() < 1e-9
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
    assert measure(true_flow(pair), pair)["aepe"] < 1e-6


@settings(max_examples=40)
@given(st.floats(0.5, 1.0), st.floats(-0.5, 0.5), *[st.floats(-0.08, 0.08)] * 2, *[st.floats(-1e-3, 1e-3)] * 2)
def test_an_affine_map_is_exact_between_the_outer_patches_and_a_perspective_nearly(scale, angle, x, y, g, h):
    """Linear flow is what bilinear interpolation reproduces, so any shift in the conventions would show."""
    turn = 0.6 * scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = (112 - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, middle + 112 * np.array([x, y]) - turn @ [middle, middle]
    pair = planar_pair(matrix, (112, 112), (112, 112))
    flow = true_flow(pair)
    side = (np.arange(112) + 0.5) / 112
    points = np.stack(np.meshgrid(side[4:-4], side[4:-4]), axis=-1).reshape(-1, 2)  # patches are of 8 px
    found, _ = pair.truth(points)
    np.testing.assert_allclose(points + flow_at(flow, torch.from_numpy(points)).numpy(), found, atol=1e-6)
    matrix[2, :2] = g, h
    pair = planar_pair(matrix, (112, 112), (112, 112))
    assert measure(true_flow(pair), pair)["aepe"] < 2  # a quarter of a patch
    assert measure(true_flow(pair), pair, 240)["aepe"] < 240 / 14 / 4


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
