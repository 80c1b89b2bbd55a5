"""The benchmark of the training step runs as its docstring says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.files import hub_configs, read_yaml

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "training_step.py"


@pytest.mark.slow
def test_the_benchmark_writes_numbers_that_agree(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--model", "tiny", "--batch-size", "2", "--threads", "1"]
    command += ["--rounds", "1", "--json", str(tmp_path / "step.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    results = json.loads((tmp_path / "step.json").read_text())
    (row,) = results["rows"]
    achieved = results["flops_per_pair"] * row["pairs_per_second"]
    assert row["model_flops_per_second"] == pytest.approx(achieved)
    share = row["model_flops_utilization"]
    assert share == pytest.approx(achieved / row["peak_flops_per_second"])
    assert 0 < share < 1
    assert row["times_plain"] == pytest.approx(row["plain_step_seconds"] / row["step_seconds"])
    times_plain = f"{row['times_plain']:.2f}"
    assert done.stdout.splitlines()[-1].split()[-3:] == [f"{share:.2f}", times_plain, times_plain]  # fp32 is plain


def test_the_plain_model_is_the_same_model(monkeypatch):
    """As many parameters, all of which it learns."""
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    from plain_croco import PlainCroCo

    config = CroCoConfig(**read_yaml(hub_configs() / "models" / "tiny.yaml"))
    plain, ours = PlainCroCo(config), CroCoForPreTraining(config)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    views = torch.randn(2, 2, 3, config.image_size, config.image_size)
    loss = plain(*views)
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is not None for p in plain.parameters())
