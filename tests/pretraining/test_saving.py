"""Checkpoints outlive what ends a run: a kill at any moment, a full disk."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from singlelife.pretraining.checkpoints import read_state
from singlelife.pretraining.run_folder import RunFolder

from .runs import ROOT, losses, run

pytestmark = pytest.mark.integration


def check_all(folder: RunFolder) -> list[int]:
    """Load every checkpoint that is there, and see that its files are of one moment."""
    for step, path in folder.checkpoints().items():
        model, info = AutoModelForPreTraining.from_pretrained(path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert {float(value) for p in model.state_dict().values() for value in (p.min(), p.max())} == {float(step)}
        moments = load_file(path / "training_state.safetensors")
        assert len(moments) == 3 * len(list(model.parameters()))  # two moments and a count of steps
        values = {float(m.max()) for name, m in moments.items() if not name.endswith(".step")}
        assert values == {float(step)}
        assert read_state(path).step == step
    return list(folder.checkpoints())


def test_killed_ten_times_while_saving_every_checkpoint_that_is_there_loads(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    moments = random.Random(0)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("save_again_and_again.py")), str(folder.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    halves = last = 0
    for _ in range(10):
        process.stdin.write("\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        try:
            deadline = time.monotonic() + 60
            while max(folder.checkpoints(), default=0) < last + 2:  # it has started, and saved
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.1))
        finally:
            os.kill(child, signal.SIGKILL)
        assert process.stdout.readline() == "ended\n"
        halves += bool(list(folder.path.glob("*.tmp")))
        steps = check_all(folder)
        assert 1 <= len(steps) <= 3  # the last two, and one not yet rotated
        assert last < max(steps)
        last = max(steps)
    process.stdin.close()
    process.wait(10)
    assert halves, "no kill fell into the middle of a save"


def test_a_file_that_cannot_be_written_stops_the_run_and_spares_the_checkpoints(tmp_path: Path, command):
    """As on a full disk: the weights fit into a limit on the size of files, the moments of the optimiser do not."""
    folder = tmp_path / "run"
    settings = {"max_steps": 6, "save_steps": 2}
    assert run(command(folder, **settings | {"save_steps": 3})) == 0
    shutil.rmtree(folder / "checkpoint-6")
    largest = (folder / "model.safetensors").stat().st_size + 4096
    words = command(folder, "--resume", **settings)
    ran = subprocess.run(
        [sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
    )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert "Cannot write" in ran.stderr and "checkpoint-4" in ran.stderr and "Traceback" not in ran.stderr
    assert list(RunFolder(folder).checkpoints()) == [3]
    assert not list(folder.glob("*.tmp"))
    assert run(command(folder, "--resume", **settings)) == 0
    assert list(losses(folder)) == list(range(1, 7))
