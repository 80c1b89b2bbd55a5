"""The benchmark of preparing runs as its docstring says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "prepare_video.py"
HIGHWAY = Path(__file__).parents[1] / "data" / "highway_2s.mp4"


def run(*words: str, json_file: Path) -> dict:
    command = [sys.executable, str(BENCHMARK), "--video", str(HIGHWAY), "--json", str(json_file), *words]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(json_file.read_text())


@pytest.mark.slow
def test_speed_is_a_ratio_of_what_was_measured(tmp_path):
    results = run("--rounds", "1", json_file=tmp_path / "speed.json")
    ratio = results["prepare_frames_per_second"] / results["decode_frames_per_second"]
    assert results["prepare_over_decode"] == pytest.approx(ratio)
    assert 2 * results["frames_kept"] < results["frames"] <= 3 * results["frames_kept"]


@pytest.mark.slow
def test_a_video_ten_times_as_long_takes_no_more_memory(tmp_path):
    results = run("--memory", "--minutes", "0.5", json_file=tmp_path / "memory.json")
    assert results["long_file_megabytes"] > 8 * results["short_file_megabytes"]
    assert results["long_over_short_peak"] < 1.2
    assert results["long_peak_mebibytes"] < 1536
