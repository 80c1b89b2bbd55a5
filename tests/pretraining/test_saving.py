"""Checkpoints outlive what ends a run: a kill at any moment, a full disk."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForPreTraining

from singlelife.errors import RunError
from singlelife.pretraining.checkpoints import TrainingState, read_state
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


@pytest.mark.slow
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


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-len(data) // 3] ^= 1
    file.write_bytes(data)


def test_every_damaged_file_is_named_with_the_checkpoint_before_it(whole_run: Path):
    checkpoint = whole_run / "checkpoint-12"
    assert read_state(checkpoint).step == 12
    for file in checkpoint.iterdir():
        sound = file.read_bytes()
        for damage in (flip_a_byte, lambda file: file.write_bytes(file.read_bytes()[:-9]), Path.unlink):
            if damage is Path.unlink and (file.suffix == ".py" or file.name == "digests.json"):
                continue  # code does not come along from the Hub, and older checkpoints have no digests
            damage(file)
            with pytest.raises(RunError) as raised:
                read_state(checkpoint)
            facts = {"" if file.name == "digests.json" else file.name, f"{whole_run / 'checkpoint-8'}:"}
            assert all(fact in str(raised.value) for fact in facts)
            file.write_bytes(sound)


def test_a_run_goes_on_from_the_last_sound_checkpoint(whole_run: Path, finished_run: Path, command, capsys):
    flip_a_byte(whole_run / "checkpoint-12" / "training_state.safetensors")
    assert run(command(whole_run, "--resume")) == 0
    streams = capsys.readouterr()
    assert "checkpoint-12/training_state.safetensors is damaged" in streams.err
    assert f"{whole_run / 'checkpoint-8'}\n" in streams.out
    assert losses(whole_run) == losses(finished_run)  # bit for bit
    for name in (8, 12):
        flip_a_byte(whole_run / f"checkpoint-{name}" / "model.safetensors")
    with pytest.raises(RunError, match=r"All checkpoints .* damaged"):
        run(command(whole_run, "--resume"))


def test_a_checkpoint_of_an_earlier_version_goes_on_exactly(whole_run: Path, finished_run: Path, command):
    """It has no digests, lacks newer settings, and its model's config has other fields."""
    checkpoint = whole_run / "checkpoint-8"
    (checkpoint / "digests.json").unlink()
    state = json.loads((checkpoint / "training_state.json").read_text())
    for added in ("shared_color", "model_type"):
        del state["sequence"][added]
    state["sequence"]["model_config"] |= {"depth_head": "linear"}
    (checkpoint / "training_state.json").write_text(json.dumps(state))
    assert run(command(whole_run, resume_from=checkpoint)) == 0
    assert losses(whole_run) == losses(finished_run)
    moments = load_file(checkpoint / "training_state.safetensors")
    name = next(iter(moments))
    for wrong in ({**moments, name: torch.zeros(3)}, {n: m for n, m in moments.items() if n != name}):
        save_file(wrong, checkpoint / "training_state.safetensors")
        with pytest.raises(RunError, match=name):
            run(command(whole_run, resume_from=checkpoint))


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "step": ["x", -5, 13, 8.0, True, None],
        "skipped_steps": ["0"],
        "pending_losses": ["x", [float("nan")], ["1"]],
        "sequence": [[], None],
        "stpe": [1],
    }.items(),
)
def test_a_state_that_no_run_wrote_is_refused(tmp_path: Path, name: str, values: list):
    folder = tmp_path / "checkpoint-8"
    folder.mkdir()
    for value in values:
        state = asdict(TrainingState(step=8, sequence={"max_steps": 12})) | {name: value}
        (folder / "training_state.json").write_text(json.dumps(state))
        with pytest.raises(RunError, match=name):
            read_state(folder)


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
