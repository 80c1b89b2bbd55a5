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
    assert precision.name in ("no", "bf16") and precision.attention in ("sdpa", "eager")
    assert "a step of 4 took" in precision.reason
    assert str(precision).startswith("fp32" if precision.name == "no" else "bf16")


def test_what_was_asked_for_is_not_timed():
    precision = choose_precision(CONFIG, 4, torch.device("cpu"), "bf16", "eager")
    assert (precision.name, precision.attention, precision.reason) == ("bf16", "eager", "as asked for")
    assert str(precision) == "bf16, eager attention (as asked for)"
    assert choose_precision(CONFIG, 4, torch.device("cpu"), "no").name == "no"
    assert choose_precision(CONFIG, 4, torch.device("cpu"), attention="eager").attention == "eager"
    assert choose_precision(CONFIG, 4, torch.device("cuda"), "bf16").attention == "sdpa"


@pytest.mark.parametrize("told", ["bf16", "fp16"])
def test_what_the_launcher_was_told_wins(monkeypatch, told):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    assert choose_precision(CONFIG, 4, torch.device("cpu")).name == told


def test_a_run_writes_down_its_choice_and_keeps_it(tmp_path: Path, command, capsys):
    folder = tmp_path / "run"
    choose = {"mixed_precision": "auto", "attention": "auto", "max_steps": 3, "save_steps": 2}
    assert pretrain(parse_arguments(command(folder, **choose))) == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    chosen, attention = config["mixed_precision"], config["attention"]
    assert chosen in ("no", "bf16") and attention in ("sdpa", "eager")
    said = "fp32" if chosen == "no" else "bf16"
    assert re.search(rf"precision +{said}(, eager attention)? \(", capsys.readouterr().out)
    whole = [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]

    # As if this machine had been the other kind: a run that goes on does not choose again.
    other = "bf16" if chosen == "no" else "no"
    twin = tmp_path / "twin"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert pretrain(parse_arguments(command(twin, mixed_precision=other, max_steps=3, save_steps=2))) == 0
    twins = [line["loss"] for line in read_metrics(twin / "metrics.jsonl") if "loss" in line]
    AcceleratorState._reset_state(reset_partial_state=True)
    argv = command(twin, f"--resume={twin / 'checkpoint-2'}", **choose)
    assert pretrain(parse_arguments(argv)) == 0
    assert "(as before)" in capsys.readouterr().out
    assert [line["loss"] for line in read_metrics(twin / "metrics.jsonl") if "loss" in line] == twins != whole


def test_both_kinds_of_attention_make_the_same_steps(tmp_path: Path, command):
    losses = {}
    for attention in ("sdpa", "eager"):
        AcceleratorState._reset_state(reset_partial_state=True)
        folder = tmp_path / attention
        assert pretrain(parse_arguments(command(folder, attention=attention, max_steps=6))) == 0
        losses[attention] = [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    assert len(losses["sdpa"]) == 6
    assert losses["sdpa"] == pytest.approx(losses["eager"], abs=1e-5)
