"""Matches as they are measured: in Python, and as a user types it."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from singlelife.alignment.models import load_model
from singlelife.cli import main
from singlelife.errors import CheckpointError, EvaluationError
from singlelife.evaluation.correspondence import Matcher, evaluate_correspondence, measure_matches
from singlelife.evaluation.image_pairs import hpatches
from singlelife.evaluation.settings import CorrespondenceConfig
from singlelife.results import read_results

from .conftest import SHIFT, SIZE, save, texture


def config(data, **settings) -> CorrespondenceConfig:
    return CorrespondenceConfig(data=str(data), device="cpu", progress=False, **settings)


def identity_of(folder, **settings):
    """The identity flow's result, the hash of the data, and the pairs that could not be measured."""
    return measure_matches(Matcher(None, config(folder, **settings)), hpatches(folder))


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


def test_the_identity_flow_is_off_by_the_true_displacement(sequences):
    measures = identity_of(sequences)[0].measures
    length = np.hypot(*SHIFT[:2, 2])
    by_level = [measures[f"aepe_{level}"].mean for level in ("I", "II", "III", "IV", "V")]
    assert by_level == pytest.approx([length * times for times in range(1, 6)])
    assert measures["aepe"].mean == pytest.approx(3 * length)
    side_240 = np.hypot(SHIFT[0, 2] * 240 / SIZE[1], SHIFT[1, 2] * 240 / SIZE[0])
    assert measures["aepe_240"].mean == pytest.approx(3 * side_240)
    assert measures["pck5"].mean == 0
    assert identity_of(sequences)[0].details["v_one 1-2"]["pixels"] == (SIZE[0] - 4) * (SIZE[1] - 6)
    for name in ("v_one", "v_two"):
        (sequences / name / "1.ppm").unlink()
    with pytest.raises(EvaluationError, match=r"None of the 10 pairs .* v_one 1-2: .*1\.ppm: no such file"):
        identity_of(sequences)


def test_matching_by_pixels_finds_the_way(sequences):
    """Shifts by the patch's size are found exactly, but for the border."""
    for number in range(2, 7):
        folder = sequences / "v_one"
        wide = texture(200, 200, 9)
        left, top = 60 - 4 * number, 60 + 4 * number
        save(folder / f"{number}.ppm", wide[top : top + SIZE[0], left : left + SIZE[1]])
        np.savetxt(folder / f"H_1_{number}", [[1, 0, 4 * (number - 1)], [0, 1, -4 * (number - 1)], [0, 0, 1]])
    save(folder / "1.ppm", wide[64 : 64 + SIZE[0], 56 : 56 + SIZE[1]])
    found = measure_matches(Matcher(PixelMatcher(), config(folder)), hpatches(folder))[0].measures
    identity = identity_of(folder)[0].measures
    assert found["aepe"].mean < 0.15 * identity["aepe"].mean and found["pck1"].mean > 0.8
    assert found["aepe_240"].mean < 0.15 * identity["aepe_240"].mean


@pytest.mark.parametrize("method", ["cross-attention", "feature-correlation", "decoder-correlation"])
@pytest.mark.integration
def test_batches_change_nothing_and_only_cross_attention_has_sinks_by_default(checkpoint, sequences, method):
    one, many = (
        evaluate_correspondence([str(checkpoint)], config(sequences, method=method, batch_size=size))
        for size in (1, 7)
    )
    assert one.data_hash == many.data_hash and one.settings == many.settings
    for a, b in zip(one.models, many.models, strict=True):
        assert a.measures["aepe_240"].mean == pytest.approx(b.measures["aepe_240"].mean, rel=1e-3)
        assert set(a.details) == set(b.details) and len(a.details) == 10
    usual, other = ("mask", "keep") if method == "cross-attention" else ("keep", "mask")
    assert one.models[0].settings["sinks"] == usual
    changed = evaluate_correspondence([str(checkpoint)], config(sequences, method=method, sinks=other))
    assert changed.models[0].measures["aepe"].mean != one.models[0].measures["aepe"].mean


def test_decoder_correlation_is_of_each_view_given_the_other(checkpoint):
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
    with pytest.raises(CheckpointError, match="layers 0 to 1"):
        load_model(str(checkpoint), method="decoder-correlation", layers=[2])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("H_1_3", b"1 0 0\n0 1\n", "H_1_3: not a homography"),
        ("H_1_3", b"1 0 0\n0 1 0\n1 1 0\n", "singular"),
        ("3.ppm", b"P6\n80 64\n255\nshort", "3.ppm: not a picture"),
        ("H_1_3", b"1 0 500\n0 1 0\n0 0 1\n", "no overlap"),
    ],
)
def test_a_bad_pair_is_named_and_the_rest_is_kept(sequences, file, content, message):
    whole, whole_hash, _ = identity_of(sequences)
    (sequences / "v_one" / file).write_bytes(content)
    result, data_hash, failures = identity_of(sequences)
    assert list(failures) == ["v_one 1-3"] and message in failures["v_one 1-3"]
    assert result.details == {pair: errors for pair, errors in whole.details.items() if pair != "v_one 1-3"}
    assert data_hash != whole_hash


def run(*words: object) -> int:
    return main(["evaluate", "correspondence", *map(str, words), "--device", "cpu", "--no-progress"])


@pytest.mark.integration
def test_hpatches_is_a_table_files_and_a_sheet(checkpoint, sequences, tmp_path, capsys):
    (sequences / "v_one/2.ppm").unlink()
    files = ("--json", tmp_path / "out.json", "--sheet", tmp_path / "out.png", "--results", tmp_path / "out.jsonl")
    assert run(checkpoint, "--data", sequences, *files) == 1  # as a pair is missing
    out, err = capsys.readouterr()
    assert "device: cpu" in err and all(f"wrote {file}" in err for file in files[1::2])
    names = [str(checkpoint), f"untrained:{checkpoint}@0", "identity flow"]
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["protocol"] == "correspondence/1" and len(content["data_hash"]) == 64 and content["num_items"] == 9
    assert [model["model"] for model in content["models"]] == names and len(content["models"][0]["revision"]) == 64
    assert list(content["left_out"]) == ["v_one 1-2"]
    assert all(out.count(f"\n{name} ") == 2 for name in names) and "v_one 1-2" in out
    frame = read_results(tmp_path / "out.jsonl")
    aepe = frame[(frame.metric == "aepe") & (frame.model == str(checkpoint))].iloc[0]
    assert aepe.value == content["models"][0]["measures"]["aepe"]["mean"] and aepe.low < aepe.value < aepe.high
    assert aepe.settings["sinks"] == "mask" and aepe.data_hash == content["data_hash"]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000


@pytest.mark.integration
def test_pairs_of_a_life(checkpoint, sim_test, tmp_path):
    words = ("--data", sim_test.path, "--num-pairs", 6, "--views", "shifted", "--results", tmp_path / "out.jsonl")
    assert run(checkpoint, "untrained:tiny", *words) == 0
    assert run(checkpoint, *words, "--seed", 1, "--no-baselines") == 0
    frame = read_results(tmp_path / "out.jsonl")
    assert set(frame.model) == {str(checkpoint), "untrained:tiny", f"untrained:{checkpoint}@0", "identity flow"}
    assert frame.data_hash.nunique() == frame.seed.nunique() == 2 and set(frame.data) == {"sim_test/shifted"}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--data", "nothing_here/at/all"], "nothing_here/at/all"), (["--temperature", "0"], "--temperature 0")],
)
def test_wrong_usage_is_exit_code_2(words, message, capsys):
    assert main(["evaluate", "correspondence", "untrained:tiny", *words]) == 2
    assert message in capsys.readouterr().err
