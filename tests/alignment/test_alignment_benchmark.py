"""The benchmark of the matrix runs as its docstring says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "alignment_matrix.py"


def test_the_benchmark_writes_numbers_that_agree(tmp_path):
    sizes = {"models": 3, "pairs": 20, "patches": 4, "k": 2, "kernel-pairs": 10, "rounds": 2, "threads": 1}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    command = [sys.executable, str(BENCHMARK), *words, "--json", str(tmp_path / "alignment.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    results = json.loads((tmp_path / "alignment.json").read_text())
    assert results["matrix_over_forward"] == pytest.approx(results["matrix_seconds"] / results["forward_seconds"])
    assert results["speedup_over_isin"] == pytest.approx(results["isin_seconds"] / results["packed_seconds"])
    assert 0 <= results["peak_gibibytes"] < 1 and results["patches"] == 16
    assert f"{results['matrix_over_forward']:.3f}" in done.stdout
