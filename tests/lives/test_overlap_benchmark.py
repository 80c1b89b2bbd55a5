"""The benchmark of the search for overlaps runs as its docstring says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "overlap_search.py"


def test_the_benchmark_writes_numbers_that_agree(tmp_path):
    command = [
        sys.executable,
        str(BENCHMARK),
        "--frames",
        "1500",
        "--points",
        "60",
        "--sample",
        "50",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "overlap.json")], check=True, capture_output=True, text=True
    )
    results = json.loads((tmp_path / "overlap.json").read_text())
    assert results["frames_per_second"] == pytest.approx(1500 / results["seconds"])
    assert results["speedup"] == pytest.approx(results["brute_force_seconds"] / results["seconds"])
    assert 0 < results["pairs_kept"] <= min(1500 * results["max_neighbours"], results["pairs_in_range"])
    assert f"{results['pairs_kept']:,}" in done.stdout
