"""The benchmarks of whole runs work as their docstrings say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measure(name: str, results: Path, *flags: str) -> tuple[dict, str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *flags, "--rounds", "1", "--json", str(results)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(results.read_text()), done.stdout


@pytest.mark.slow
def test_saving_is_a_share_of_the_time(tmp_path):
    results, said = measure(
        "checkpoint_saving", tmp_path / "saving.json", "--model", "tiny", "--folder", str(tmp_path)
    )
    between = results["step_seconds_scaled"] * results["save_steps"]
    assert results["share"] == pytest.approx(results["save_seconds"] / (results["save_seconds"] + between))
    assert f"{results['share']:.4%}" in said
    assert {path.name for path in tmp_path.iterdir()} == {"saving.json"}


@pytest.mark.slow
def test_processes_are_compared_with_threads(tmp_path):
    results, said = measure("processes", tmp_path / "processes.json", "--steps", "20", "--batch-size", "4")
    one, several = results["pairs_per_second_of_one_process"], results["pairs_per_second_of_all_processes"]
    assert results["ratio"] == pytest.approx(several / one)
    assert f"{results['ratio']:.2f}" in said
