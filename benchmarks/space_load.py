"""Many visitors of the Space at once: how long they wait, whether one gets an error, and how much memory it takes.

    python benchmarks/space_load.py
    python benchmarks/space_load.py --visitors 50 --json load.json

The app is started as it is on the Hub, on this machine. All visitors come at the same moment. Each opens the page, as
a browser does, and gets its first result; asks for another example; and then sends two pictures of its own, which are
compared two at a time.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psutil
from gradio_client import Client, handle_file
from PIL import Image

from singlelife.commands.options import positive
from singlelife.text import aligned, in_bytes

_APP = Path(__file__).parents[1] / "spaces" / "cas" / "app.py"
_STEPS = ("first result", "another example", "own pictures")


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        process, url, started = start(Path(folder), arguments.cores)
        try:
            wait_for_examples(url)
            memory = Memory(process.pid)
            waits, errors = visit(url, arguments.visitors, Path(folder))
            peak = memory.stop()
        finally:
            process.terminate()
            process.wait()
    measured = {step: each for step, each in waits.items() if each}
    results = {
        "visitors": arguments.visitors,
        "cores": arguments.cores,
        "seconds_until_it_answers": started,
        "waits": {step: {"median": statistics.median(each), "longest": max(each)} for step, each in measured.items()},
        "errors": errors,
        "peak_memory_bytes": peak,
    }
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if errors:
        sys.exit(f"{len(errors)} errors, such as: {errors[0]}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--visitors", type=positive, default=20, help="who come at once")
    parser.add_argument("--cores", type=positive, default=2, help="that the app may use")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def start(folder: Path, cores: int) -> tuple[subprocess.Popen, str, float]:
    """The app, its address, and how long it took until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "SINGLELIFE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": str(cores),
    }
    begun = time.monotonic()
    command = [sys.executable, str(_APP), "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, sorted(os.sched_getaffinity(0))[:cores])
    url = f"http://127.0.0.1:{port}"
    while True:
        if process.poll() is not None:
            sys.exit(f"The app did not start:\n{(folder / 'log').read_text()}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return process, url, time.monotonic() - begun
        except OSError:
            time.sleep(0.1)


def wait_for_examples(url: str) -> None:
    """The app computes its examples when it has started; visitors come after that."""
    browser = Visitor(url)
    browser.open()
    for step in range(len(browser.events)):
        browser.see(step)


class Visitor:
    """What a browser asks for: the page, its result, and the results behind the buttons of examples."""

    def __init__(self, url: str):
        self.http = httpx.Client(base_url=url, timeout=300)
        self.session = uuid4().hex[:10]
        self.events: list[int] = []

    def open(self) -> None:
        """Load the page."""
        self.http.get("/").raise_for_status()
        config = self.http.get("/config").json()
        buttons = {
            each["id"] for each in config["components"]
            if str(each["props"].get("elem_id", "")).startswith("example-")
        }  # fmt: skip
        events = [(each["id"], each["targets"][0]) for each in config["dependencies"] if each["targets"]]
        self.events = [id for id, (_, kind) in events if kind == "load"]
        self.events += [id for id, (component, kind) in events if component in buttons and kind == "click"]

    def see(self, number: int) -> None:
        """Wait for the page's own result (0) or that of an example (from 1).

        Raises:
            RuntimeError: it is an error.
        """
        asked = {"data": [], "event_data": None, "fn_index": self.events[number], "session_hash": self.session}
        self.http.post("/gradio_api/queue/join", json=asked).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if told.get("msg") == "process_completed":
                    if not told["success"] or "They agree" not in json.dumps(told["output"]):
                        raise RuntimeError(json.dumps(told)[:300])
                    return
        raise RuntimeError("The answer broke off.")


def visit(url: str, count: int, folder: Path) -> tuple[dict[str, list[float]], list[str]]:
    """All visitors at once: seconds of each step, and what went wrong."""
    waits: dict[str, list[float]] = {step: [] for step in _STEPS}
    errors: list[str] = []
    together = threading.Barrier(count)

    def one(number: int) -> None:
        try:
            pictures = [picture(folder / f"{number}-{view}.png", 2 * number + view) for view in range(2)]
            client, browser = Client(url, verbose=False), Visitor(url)
            together.wait()
            begun = time.monotonic()
            browser.open()
            browser.see(0)
            waits[_STEPS[0]].append(time.monotonic() - begun)
            begun = time.monotonic()
            browser.see(1 + number % (len(browser.events) - 1))
            waits[_STEPS[1]].append(time.monotonic() - begun)
            begun = time.monotonic()
            found = client.predict("sim_1", "sim_2", *map(handle_file, pictures), api_name="/compare_on_pictures")
            if not 0 <= found["raw"]["cas"] <= 1:
                raise RuntimeError(f"A score of {found['raw']['cas']}.")
            waits[_STEPS[2]].append(time.monotonic() - begun)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))
    return waits, errors


def picture(file: Path, seed: int) -> Path:
    """A picture that no other visitor has."""
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(file)
    return file


class Memory(threading.Thread):
    """The most that a process and its children hold, looked at ten times a second."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._process, self._peak, self._over = psutil.Process(pid), 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.1):
            held = [self._process, *self._process.children(recursive=True)]
            self._peak = max(self._peak, sum(each.memory_info().rss for each in held))

    def stop(self) -> int:
        """The peak, in bytes."""
        self._over.set()
        self.join()
        return self._peak


def table(results: dict[str, Any]) -> str:
    """The numbers for people."""
    rows = [("", "median", "longest")]
    rows += [(step, f"{wait['median']:.2f} s", f"{wait['longest']:.2f} s") for step, wait in results["waits"].items()]
    return "\n".join(
        [
            f"{results['visitors']} visitors at once on {results['cores']} cores; errors: {len(results['errors'])}; "
            f"peak memory {in_bytes(results['peak_memory_bytes'])}",
            aligned(rows),
            f"The app answers {results['seconds_until_it_answers']:.1f} s after its start.",
        ]
    )


if __name__ == "__main__":
    main()
