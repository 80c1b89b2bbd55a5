"""The Space, running as a process of its own, and the scores of the command line to compare with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singlelife.cli import main

SPACE = Path(__file__).parents[2] / "spaces" / "cas"


def command_line(tmp_path: Path, b: str, pairs: Path, *options: str) -> dict:
    """What `singlelife cas` says about sim_1 and another model of the page."""
    file, models = tmp_path / "cas.json", [str(SPACE / "models" / name) for name in ("sim_1", b)]
    assert main(["cas", *models, "--pairs", str(pairs), "--json", str(file), *options]) == 0
    return json.loads(file.read_text())


def same_scores(ours: dict, theirs: dict) -> None:
    assert {"cas", "chance", "low", "high"} <= ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name


def peaks(code: str) -> list[int]:
    """The numbers that code prints in a process of its own, which knows its memory `before`."""
    start = f"""
import sys; sys.path.insert(0, {str(SPACE)!r})
import models, media
from singlelife.machine import configure_cpu, peak_resident, resident
configure_cpu()
before = peak_resident()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", start + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass(frozen=True)
class RunningSpace:
    """The app."""

    url: str
    uploads: Path
    """Of visitors' files."""
    log: Path

    def uploaded(self) -> list[Path]:
        """The files of visitors that are still there. Gradio leaves empty files of uploads."""
        return [path for path in self.uploads.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="session")
def space(hub_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSpace]:
    """The page as `singlelife demo` serves it until it is interrupted, with the loopback Hub for the real one."""
    folder, port = tmp_path_factory.mktemp("space"), free_port()
    environment = hub_environment | {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "SINGLELIFE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
    }
    with (folder / "log").open("wb") as log:
        words = [sys.executable, "-m", "singlelife.cli", "demo", "--no-browser", "--port", str(port)]
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    running = RunningSpace(f"http://127.0.0.1:{port}", folder / "uploads", folder / "log")
    try:
        _wait(running, process)
        yield running
        assert running.url in running.log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
    finally:
        process.kill()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A target and a source view, as `singlelife cas --pairs FOLDER` takes them."""
    folder = tmp_path / "mine"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (2, 9, 12, 3), dtype=np.uint8)
    files = [folder / f"a_{view}.png" for view in ("target", "source")]
    for file, pixels in zip(files, noise, strict=True):
        Image.fromarray(pixels).resize((200, 150), Image.Resampling.BICUBIC).save(file)
    return files


def _wait(space: RunningSpace, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, space.log.read_text()
        try:
            urllib.request.urlopen(space.url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"The app did not start: {space.log.read_text()}")
