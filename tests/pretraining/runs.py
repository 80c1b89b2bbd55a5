"""How tests make runs, in this process or in others, and what they read of them."""

import os
import subprocess
import sys
from pathlib import Path

from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.pretrain import pretrain
from singlelife.pretraining.run_folder import read_metrics

ROOT = Path(__file__).parents[2]
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def run(words: list[str]) -> int:
    return pretrain(parse_arguments(words))


def column(folder: Path, name: str) -> dict[int, float]:
    """A value of the metrics by step."""
    return {line["step"]: line[name] for line in read_metrics(folder / "metrics.jsonl") if name in line}


def losses(folder: Path) -> dict[int, float]:
    return column(folder, "loss")


def launch(words: list[str], script: str = "train.py", **environment: str) -> str:
    """Train in two processes, which exchange gradients over gloo. Returns what they print."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    ran = subprocess.run(
        [*start, *words], cwd=ROOT, text=True, capture_output=True, timeout=200,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def launch_sharded(words: list[str], **environment: str) -> str:
    """As `launch`, with the model in shards (FSDP2)."""
    return launch(words, "tests/pretraining/fsdp2_on_cpu.py", **SHARDED | environment)
