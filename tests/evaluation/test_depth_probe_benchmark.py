"""The benchmark of the probe runs as its docstring says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "depth_probe.py"


@pytest.mark.slow
def test_the_benchmark_writes_numbers_that_agree(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--model", "tiny", "--images", "4", "--batch-size", "2"]
    command += ["--rounds", "1", "--json", str(tmp_path / "probe.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    results = json.loads((tmp_path / "probe.json").read_text())
    ratio = results["in_the_loop_epoch_seconds"] / results["cached_epoch_seconds"]
    assert results["times_faster"] == pytest.approx(ratio)
    assert f"{ratio:.1f}" in done.stdout
    assert results["peak_memory_features_bytes"] >= results["peak_memory_model_bytes"] > 0
