"""The number format that a run settles on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from singlelife.croco import CroCoConfig
from singlelife.pretraining import loop
from singlelife.pretraining.device import choose_precision

from ..micro import MICRO
from .runs import column, losses, run

CONFIG = CroCoConfig(**MICRO)


def test_a_cpu_takes_what_it_measured_and_says_so(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    precision = choose_precision(CONFIG, 4, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)  # the run's weights are not other ones for it
    assert precision.mixed_precision in ("no", "bf16") and precision.attention in ("sdpa", "eager")
    assert "a step of 4 took" in precision.reason


@pytest.mark.parametrize("told", ["bf16", "fp16"])
def test_what_the_launcher_was_told_wins(monkeypatch, told):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    assert choose_precision(CONFIG, 4, torch.device("cpu")).mixed_precision == told


@pytest.mark.integration
def test_a_run_writes_down_its_choice_and_keeps_it(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    choose = {"mixed_precision": "auto", "attention": "auto", "max_steps": 3, "save_steps": 2}
    assert run(command(folder, **choose)) == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    chosen, attention = config["mixed_precision"], config["attention"]
    assert chosen in ("no", "bf16") and attention in ("sdpa", "eager")
    said = "fp32" if chosen == "no" else "bf16"
    assert re.search(rf"precision +{said} \(.*\), {attention} attention \(", capsys.readouterr().out)

    # As if this machine had been the other kind: a run that goes on does not choose again.
    other = "bf16" if chosen == "no" else "no"
    twin = tmp_path / "twin"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert run(command(twin, mixed_precision=other, max_steps=3, save_steps=2)) == 0
    before = losses(twin)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert run(command(twin, resume_from=twin / "checkpoint-2", **choose)) == 0
    assert "(as before)" in capsys.readouterr().out
    assert losses(twin) == before != losses(folder)


@pytest.mark.integration
def test_both_kinds_of_attention_make_the_same_steps(tmp_path: Path, finished_run: Path, command):
    assert run(command(tmp_path / "run", attention="eager")) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(finished_run), abs=1e-4)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("of_the_user", [True, False])
def test_a_thread_that_the_user_asked_for_is_not_taken_for_the_launchers(of_the_user):
    """`accelerate launch` exports OMP_NUM_THREADS=1 by itself, with the user's or without."""
    code = "from singlelife.pretraining.device import _cpu_threads; print(_cpu_threads(1))"
    launch = (
        f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True, env=os.environ |"
    )
    launch += "{'OMP_NUM_THREADS': '1', 'ACCELERATE_MIXED_PRECISION': 'no', 'LOCAL_WORLD_SIZE': '1'})"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": "1"} if of_the_user else {}
    ran = subprocess.run([sys.executable, "-c", launch], env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) == (1 if of_the_user else len(os.sched_getaffinity(0)))


@pytest.mark.integration
def test_the_peak_of_a_run_recovers_from_a_disturbed_start_and_is_never_under_the_steps(
    tmp_path: Path, command, monkeypatch
):
    timed = iter([1.0, 1.0, 1e11, 1.0, 1e10])  # operations a second: other work slows the first two down
    monkeypatch.setattr(loop, "peak_flops", lambda *_: next(timed))
    assert run(command(tmp_path / "run", max_steps=5)) == 0
    mfu, tflops = column(tmp_path / "run", "mfu"), column(tmp_path / "run", "tflops")
    assert mfu[1] == 1 and mfu[2] <= 1
    for step in (3, 4, 5):
        assert 0 < mfu[step] == pytest.approx(tflops[step] * 1e12 / 1e11, abs=1e-4)
