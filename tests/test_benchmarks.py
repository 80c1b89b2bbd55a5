"""The benchmarks run, and write the numbers that they print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HIGHWAY = Path(__file__).parent / "data" / "highway_2s.mp4"
SMALL = {  # what makes each of them quick
    "training_step": ["--batch-size", "2", "--threads", "1", "--rounds", "1"],
    "loader": ["--image-size", "64", "--batch-size", "8", "--rounds", "1"],
    "matrix": ["--models", "3", "--pairs", "20", "--patches", "4", "--k", "2", "--rounds", "1"],
    "video": ["--video", str(HIGHWAY), "--rounds", "1"],
    "five_minutes": ["--max-steps", "30", "--num-pairs", "16", "--seeds", "0", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_writes_its_numbers(name, tmp_path):
    file = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SMALL[name], "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text()) and done.stdout


@pytest.mark.slow
def test_a_video_ten_times_as_long_takes_no_more_memory_to_prepare(tmp_path):
    file = tmp_path / "memory.json"
    words = ["--memory", "--minutes", "0.5", "--video", str(HIGHWAY), "--json", str(file)]
    subprocess.run([sys.executable, str(BENCHMARKS / "video.py"), *words], check=True, capture_output=True)
    results = json.loads(file.read_text())
    assert results["long_file_megabytes"] > 8 * results["short_file_megabytes"]
    assert results["long_over_short_peak"] < 1.2
