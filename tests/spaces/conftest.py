"""The Space, running as a process of its own."""

import os
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

SPACE = Path(__file__).parents[2] / "spaces" / "cas"


@dataclass(frozen=True)
class RunningSpace:
    """The app.

    Attributes:
        url: where it is.
        uploads: the folder that visitors' files are in.
        log: what it has said.
        pid: of its process.
    """

    url: str
    uploads: Path
    log: Path
    pid: int

    def uploaded(self) -> list[Path]:
        """What visitors have sent that is still there. Gradio leaves empty files of uploads."""
        return [path for path in self.uploads.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="session")
def space(hub_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSpace]:
    """The app as `python spaces/cas/app.py` starts it, with the loopback Hub for the real one and small limits."""
    folder = tmp_path_factory.mktemp("space")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = hub_environment | {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "SINGLELIFE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(SPACE / "app.py"), "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    running = RunningSpace(f"http://127.0.0.1:{port}", folder / "uploads", folder / "log", process.pid)
    try:
        _wait(running, process)
        yield running
    finally:
        process.terminate()
        process.wait(20)


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
