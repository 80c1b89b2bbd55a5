"""The benchmark of recomputed blocks runs as its docstring says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "recomputed_blocks.py"


@pytest.mark.slow
def test_the_benchmark_says_what_is_kept(tmp_path: Path):
    command = [sys.executable, str(BENCHMARK), "--batch-size=2", "--rounds=1", "--json", str(tmp_path / "kept.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    choices = json.loads((tmp_path / "kept.json").read_text())["choices"]
    kept = [choices[blocks]["kept_bytes"] for blocks in ("all", "encoder", "none")]
    assert kept == sorted(kept) and kept[0] < kept[1] < kept[2]
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == list(choices)
