"""The evaluation as a whole: what is measured, what is kept when a pair is bad, and what the result holds."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from singlelife.alignment.models import load_model
from singlelife.alignment.pair_sets import make_pair_set
from singlelife.errors import CheckpointError, EvaluationError
from singlelife.evaluation.correspondence import evaluate_correspondence, match
from singlelife.evaluation.correspondence_sheet import draw_correspondence, matches_of, sheet_pairs
from singlelife.evaluation.flow import Matching, cost_volume, patch_centres
from singlelife.evaluation.image_pairs import PairData, homography_pair, hpatches, pairs_of_set

from .conftest import SHIFT, SIZE, save, texture

KEEP = Matching(sinks="keep")


@dataclass
class PixelMatcher:
    """A model of which the answer is known: patches match that look alike."""

    grid: tuple[int, int] = (16, 20)
    image_size: int = 80
    name, revision, method, layers, num_heads = "pixels", "1", "feature correlation", (0,), 1

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        target, source = (
            torch.nn.functional.unfold(views.float() / 255, 4, stride=4).mT for views in (target, source)
        )
        return -torch.cdist(target, source)


def evaluate(model, data, **options):
    return evaluate_correspondence(model, data, progress=False, **options)


def test_the_identity_flow_is_off_by_the_true_displacement(sequences):
    result = evaluate(None, hpatches(sequences))
    length = np.hypot(*SHIFT[:2, 2])
    assert list(result.summary["original"].levels.values()) == pytest.approx([length * times for times in range(1, 6)])
    assert result.summary["original"].aepe == pytest.approx(3 * length)
    side_240 = np.hypot(SHIFT[0, 2] * 240 / SIZE[1], SHIFT[1, 2] * 240 / SIZE[0])
    assert result.summary["240"].aepe == pytest.approx(3 * side_240)
    assert result.summary["original"].pck == (0, 0, 0)
    first = result.pairs[0]
    assert first.errors["original"].pixels == (SIZE[0] - 4) * (SIZE[1] - 6)
    still = evaluate(None, hpatches(sequences, "illumination"))
    assert still.summary["240"].aepe < 1e-6 and still.summary["240"].pck == (1, 1, 1)


def test_matching_by_pixels_finds_the_way(sequences):
    """Shifts by the patch's size are found exactly, but for the border."""
    for number in range(2, 7):
        folder = sequences / "v_one"
        wide = texture(200, 200, 9)
        left, top = 60 - 4 * number, 60 + 4 * number
        save(folder / f"{number}.ppm", wide[top : top + SIZE[0], left : left + SIZE[1]])
        np.savetxt(folder / f"H_1_{number}", [[1, 0, 4 * (number - 1)], [0, 1, -4 * (number - 1)], [0, 0, 1]])
    save(folder / "1.ppm", wide[64 : 64 + SIZE[0], 56 : 56 + SIZE[1]])
    data = hpatches(folder)
    found, identity = evaluate(PixelMatcher(), data), evaluate(None, data)
    assert found.summary["original"].aepe < 0.15 * identity.summary["original"].aepe
    assert found.summary["original"].pck[0] > 0.8
    assert found.summary["240"].aepe < 0.15 * identity.summary["240"].aepe


@pytest.mark.parametrize("method", ["cross-attention", "feature-correlation", "decoder-correlation"])
def test_batches_change_nothing(checkpoint, sequences, method):
    model, data = load_model(str(checkpoint), method=method), hpatches(sequences)
    one, many = (evaluate(model, data, batch_size=size) for size in (1, 7))
    assert one.data_hash == many.data_hash
    for a, b in zip(one.pairs, many.pairs, strict=True):
        assert a.pair == b.pair and a.errors["240"].aepe == pytest.approx(b.errors["240"].aepe, rel=1e-3)
    assert one.summary["original"].low <= one.summary["original"].aepe <= one.summary["original"].high
    assert json.loads(json.dumps(one.to_dict()))["pairs"][0]["errors"]["240"]["pixels"] > 0


def test_decoder_correlation_is_of_each_view_given_the_other(checkpoint, sequences):
    model = load_model(str(checkpoint), method="decoder-correlation")
    views = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    forward, backward = model.logits(views[:1], views[1:]), model.logits(views[1:], views[:1])
    torch.testing.assert_close(forward, backward.mT)
    assert forward.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(model.logits(views, views).diagonal(dim1=1, dim2=2), torch.ones(2, 16))
    both = load_model(str(checkpoint), method="decoder-correlation", layers=[0, 1])
    first = load_model(str(checkpoint), method="decoder-correlation", layers=[0])
    torch.testing.assert_close(
        both.logits(views[:1], views[1:]), (forward + first.logits(views[:1], views[1:])) / 2, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(first.features(views), load_model(str(checkpoint)).features(views))
    with pytest.raises(CheckpointError, match="layers 0 to 1"):
        load_model(str(checkpoint), method="decoder-correlation", layers=[2])


def test_views_are_the_whole_images_stretched(sequences):
    """A model of another aspect ratio sees all of an image too: nothing is cropped."""
    pair = hpatches(sequences).pairs[0].load()
    model = PixelMatcher(grid=(8, 4), image_size=32)
    flow = match(model, pair, KEEP)
    assert flow.shape == (8, 4, 2)
    resized = [
        torch.nn.functional.interpolate(image[None], (32, 16), mode="bicubic", antialias=True)
        for image in (pair.target, pair.source)
    ]
    best = cost_volume(model, *resized, KEEP)[0].argmax(dim=1)
    torch.testing.assert_close(
        flow.flatten(0, 1), patch_centres((8, 4))[best] - patch_centres((8, 4)), atol=1e-3, rtol=0
    )


# Bad input: a clear error for the pair, and the others are kept.


def singular(folder):
    (folder / "v_one/H_1_3").write_text("1 0 0\n0 1 0\n1 1 0\n")


def malformed(folder):
    (folder / "v_one/H_1_3").write_text("1 0 0\n0 1\n")


def missing_truth(folder):
    (folder / "v_one/H_1_3").unlink()


def missing_image(folder):
    (folder / "v_one/3.ppm").unlink()


def damaged_image(folder):
    (folder / "v_one/3.ppm").write_bytes((folder / "v_one/3.ppm").read_bytes()[:500])


def no_overlap(folder):
    np.savetxt(folder / "v_one/H_1_3", [[1, 0, 500], [0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (singular, "it is singular"),
        (malformed, "it has 5 numbers instead of nine"),
        (missing_truth, "H_1_3: no such file"),
        (missing_image, "3.ppm: no such file"),
        (damaged_image, "3.ppm: not an image that can be read"),
        (no_overlap, "the images have no overlap"),
    ],
)
def test_a_bad_pair_is_named_and_the_rest_is_kept(checkpoint, sequences, damage, message):
    model = load_model(str(checkpoint))
    whole = evaluate(model, hpatches(sequences), batch_size=4)
    damage(sequences)
    result = evaluate(model, hpatches(sequences), batch_size=4)
    assert list(result.failures) == ["v_one 1-3"] and message in result.failures["v_one 1-3"]
    kept = {pair.pair: pair.errors["240"].aepe for pair in whole.pairs if pair.pair != "v_one 1-3"}
    assert {pair.pair: pytest.approx(pair.errors["240"].aepe, rel=1e-3) for pair in result.pairs} == kept
    assert result.data_hash != whole.data_hash


def test_a_sequence_without_its_first_image_loses_all_its_pairs(sequences):
    (sequences / "v_one/1.ppm").unlink()
    result = evaluate(None, hpatches(sequences))
    assert list(result.failures) == [f"v_one 1-{number}" for number in range(2, 7)]
    assert len(result.pairs) == 5


def test_no_pair_at_all_is_an_error(sequences):
    (sequences / "v_one/H_1_2").write_text("0 0 0 0 0 0 0 0 0")
    data = homography_pair(sequences / "v_one/1.ppm", sequences / "v_one/2.ppm", sequences / "v_one/H_1_2")
    with pytest.raises(EvaluationError, match=r"None of the 1 pairs .* could be measured. 1-2: .*singular"):
        evaluate(None, data)


def test_a_level_without_pairs_is_empty(sequences):
    for name in ("v_one", "v_two"):
        (sequences / name / "6.ppm").unlink()
    levels = evaluate(None, hpatches(sequences)).summary["240"].levels
    assert levels["V"] is None and levels["IV"] > levels["I"]


def test_simulated_pairs_are_measured(sim_test, checkpoint):
    pairs = make_pair_set(sim_test, views="shifted", num_pairs=8, seed=0, image_size=64)
    data = pairs_of_set(pairs)
    result = evaluate(load_model(str(checkpoint)), data)
    assert len(result.pairs) == len(data) and not result.failures
    again = evaluate(None, pairs_of_set(make_pair_set(sim_test, views="shifted", num_pairs=8, seed=0, image_size=64)))
    assert again.data_hash == result.data_hash
    other = evaluate(None, pairs_of_set(make_pair_set(sim_test, views="shifted", num_pairs=8, seed=1, image_size=64)))
    assert other.data_hash != result.data_hash


def test_memory_holds_one_batch(sequences):
    """Pairs are read when their turn comes: no more are alive than there are in a batch."""
    data, alive, most = hpatches(sequences), [], []

    def watched(entry):
        def load():
            import weakref

            pair = entry.load()
            alive.append(weakref.ref(pair))
            most.append(sum(reference() is not None for reference in alive))
            return pair

        return type(entry)(entry.name, entry.level, load)

    evaluate(None, PairData(data.name, data.kind, data.levels, [watched(entry) for entry in data.pairs]), batch_size=2)
    assert len(most) == 10 and max(most) <= 4  # the batch that is read, and the one before until it is replaced


# The sheet.


def test_the_sheet_shows_pairs_that_can_be_read(checkpoint, sequences, tmp_path):
    (sequences / "v_one/2.ppm").unlink()
    models = [load_model(str(checkpoint)), PixelMatcher()]
    path = tmp_path / "sheet.png"
    pairs = sheet_pairs(hpatches(sequences))
    assert len(pairs) == 4
    drawn = [matches_of(model, pairs, matching) for model, matching in zip(models, [None, KEEP], strict=True)]
    draw_correspondence(path, "two sequences", pairs, drawn)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 1000


def test_a_sheet_of_nothing_is_an_error(sequences):
    for number in range(1, 7):
        (sequences / f"v_one/{number}.ppm").unlink()
    with pytest.raises(EvaluationError, match="No pair of"):
        sheet_pairs(hpatches(sequences / "v_one"))
