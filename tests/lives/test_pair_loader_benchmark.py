"""The benchmark of the pair loader runs as its docstring says, and its rival does the same work."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "pair_loader.py"


@pytest.mark.slow
def test_the_benchmark_writes_numbers_that_agree(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--image-size", "64", "--batch-size", "8", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "loader.json")], check=True, capture_output=True, text=True
    )
    results = json.loads((tmp_path / "loader.json").read_text())
    speed = results["pairs_per_second_of_one_core"]
    assert results["times_straightforward"] == pytest.approx(speed["singlelife"] / speed["straightforward"])
    decoded = speed["singlelife, decoded frames"] / speed["straightforward"]
    assert results["times_straightforward_decoded"] == pytest.approx(decoded)
    assert sum(results["milliseconds_per_pair"].values()) < 2 * 1e3 / speed["singlelife"]
    assert f"{results['times_straightforward']:.2f}" in done.stdout


def test_both_pipelines_give_the_model_the_same(small_life):
    spec = importlib.util.spec_from_file_location("pair_loader", BENCHMARK)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    arguments = benchmark.argparse.Namespace(image_size=64, batch_size=64)
    benchmark.torch.manual_seed(0)
    ours = next(benchmark.singlelife_batches(small_life, arguments))
    theirs = next(benchmark.straightforward_batches(small_life, arguments))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values.dtype == theirs[name].dtype and values.shape == theirs[name].shape
    assert ours["bool_masked_pos"].sum() == theirs["bool_masked_pos"].sum()
    for name in ("pixel_values", "source_pixel_values"):
        ours_, theirs_ = ours[name][:, 1:], theirs[name][:, 1:]  # red tells the frame's number, and theirs differ
        assert (ours_.mean() - theirs_.mean()).abs() < 0.2
        assert (ours_.std() - theirs_.std()).abs() < 0.2
