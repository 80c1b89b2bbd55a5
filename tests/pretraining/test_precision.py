"""The number format that a run settles on."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from singlelife.croco import CroCoConfig
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.precision import choose_precision
from singlelife.pretraining.pretrain import pretrain
from singlelife.pretraining.run_folder import read_metrics

CONFIG = CroCoConfig(
    image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
    decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=64,
)  # fmt: skip


def test_a_cpu_takes_what_it_measured_and_says_so(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    precision = choose_precision(CONFIG, 4, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)  # the run's weights are not other ones for it
    assert precision.name in ("no", "bf16")
    assert "two steps took" in precision.reason or "times as long" in precision.reason


@pytest.mark.parametrize("told", ["bf16", "fp16"])
def test_what_the_launcher_was_told_wins(monkeypatch, told):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    assert choose_precision(CONFIG, 4, torch.device("cpu")).name == told


def test_a_run_writes_down_its_choice_and_keeps_it(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    assert pretrain(parse_arguments(command(folder, mixed_precision="auto", max_steps=3, save_steps=2))) == 0
    chosen = yaml.safe_load((folder / "config.yaml").read_text())["mixed_precision"]
    assert chosen in ("no", "bf16")
    said = "fp32" if chosen == "no" else "bf16"
    assert re.search(rf"precision +{said} \(", capsys.readouterr().out)
    whole = [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]

    # As if this machine had been the other kind: a run that goes on does not choose again.
    other = "bf16" if chosen == "no" else "no"
    twin = tmp_path / "twin"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert pretrain(parse_arguments(command(twin, mixed_precision=other, max_steps=3, save_steps=2))) == 0
    twins = [line["loss"] for line in read_metrics(twin / "metrics.jsonl") if "loss" in line]
    AcceleratorState._reset_state(reset_partial_state=True)
    argv = command(twin, f"--resume={twin / 'checkpoint-2'}", mixed_precision="auto", max_steps=3, save_steps=2)
    assert pretrain(parse_arguments(argv)) == 0
    assert "(as before)" in capsys.readouterr().out
    assert [line["loss"] for line in read_metrics(twin / "metrics.jsonl") if "loss" in line] == twins != whole
