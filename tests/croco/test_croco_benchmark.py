"""The benchmark of the training step runs as its docstring says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "training_step.py"


@pytest.mark.slow
def test_the_benchmark_writes_numbers_that_agree(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--model", "tiny", "--batch-size", "2", "--threads", "1"]
    command += ["--rounds", "1", "--json", str(tmp_path / "step.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    results = json.loads((tmp_path / "step.json").read_text())
    achieved = results["flops_per_pair"] * results["pairs_per_second"]
    assert results["model_flops_per_second"] == pytest.approx(achieved)
    share = results["model_flops_utilization"]
    assert share == pytest.approx(achieved / results["peak_fp32_flops_per_second"])
    assert 0 < share < 1
    assert f"{share:.2f}" in done.stdout.splitlines()[-1]
