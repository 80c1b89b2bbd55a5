"""What a matrix of n models costs beyond running each of them once, and how fast top-k sets are compared.

    python benchmarks/matrix.py
    python benchmarks/matrix.py --models 20 --pairs 2000 --threads 2 --json matrix.json

The models are untrained, and the pairs are noise: neither matters for the time. The forward passes of all models are
timed alone, then all of `cas_matrix` (both scores, the null, intervals, test; with an empty cache). Then the sets of
two models are compared as packed bits and as lists of indices in torch, in turns; the agreement of every patch must be
equal.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()

import numpy as np
import torch
import tyro

from singlelife.alignment.comparison import cas_matrix
from singlelife.alignment.models import load_model
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import agreement, select_top_k
from singlelife.alignment.settings import CasConfig
from singlelife.croco import CroCoConfig, CroCoImageProcessor
from singlelife.files import hub_configs, read_yaml


@dataclass(frozen=True)
class Benchmark:
    """Time a matrix of models, and the comparison of two models' sets."""

    models: int = 20
    """number of models"""
    pairs: int = 2000
    """pairs of the pair set"""
    patches: int = 14
    """patches along a side of a view"""
    k: int = 5
    """strongest matches per patch"""
    preset: str = "tiny"
    """preset of hub_configs/models for the models"""
    threads: int = torch.get_num_threads()
    """CPU threads of torch"""
    kernel_pairs: int = 500
    """pairs whose sets are compared in turns"""
    rounds: int = 9
    """turns to take medians of"""
    json: Path | None = None
    """also write the numbers to this file"""

    def run(self) -> None:
        torch.set_num_threads(self.threads)
        sizes = {name: value for name, value in asdict(self).items() if name != "json"}
        results = sizes | self.time_matrix() | self.time_sets()
        for name, value in results.items():
            print(f"{name:<28}{value:.4g}" if isinstance(value, float) else f"{name:<28}{value}")
        if self.json:
            self.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    def time_matrix(self) -> dict[str, float]:
        """Seconds of the forward passes alone and of everything, and the memory that it takes."""
        with tempfile.TemporaryDirectory() as folder:
            config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{self.preset}.yaml"))
            config.image_size = side = self.patches * config.patch_size
            config.save_pretrained(folder)
            CroCoImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
            names = [f"untrained:{folder}@{seed}" for seed in range(self.models)]
            groups = {str(index): names[index::2] for index in range(2)}
            views = torch.randint(256, (2, self.pairs, 3, side, side), dtype=torch.uint8)
            pairs = PairSet("noise", views[0], views[1], {}, np.zeros((self.pairs, 2, 4), dtype=np.int64))
            settings = CasConfig(k=(self.k,), cache_dir=Path(folder) / "cache", device="cpu")
            load_model(names[0]).logits(pairs.target[:2], pairs.source[:2])  # set up what is done only once
            start = time.perf_counter()
            for name in names:
                model = load_model(name)
                for batch in zip(*(each.split(settings.batch_size) for each in views), strict=True):
                    model.logits(*batch)
            forward = time.perf_counter() - start
            del model
            before = memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # measure the peak from now on
            start = time.perf_counter()
            cas_matrix(names, settings, pairs=pairs, groups=groups)
            seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
            start = time.perf_counter()
            cas_matrix(names, settings, pairs=pairs, groups=groups)
            again = time.perf_counter() - start
        return {
            "forward_seconds": forward,
            "matrix_seconds": seconds,
            "matrix_over_forward": seconds / forward,
            "from_cache_seconds": again,
            "peak_gibibytes": peak / 2**20,
        }

    def time_sets(self) -> dict[str, float]:
        """Seconds to compare the sets of two models on the same pairs."""
        k, patches = self.k, self.patches**2
        logits = [torch.randn(self.kernel_pairs, patches, patches) for _ in range(2)]
        lists = [each.topk(k).indices for each in logits]
        bits = [select_top_k(each.numpy(), [k])[k] for each in logits]
        if not np.array_equal(np.bitwise_count(bits[0] & bits[1]).sum(axis=-1), common(*lists).numpy()):
            sys.exit("The overlaps of packed bits and of lists differ.")
        ways: dict[str, Callable[[], Any]] = {
            "packed": lambda: agreement(*bits, k),
            "lists": lambda: common(*lists).sum(dim=-1),
            "top_k_and_lists": lambda: common(*(each.topk(k).indices for each in logits)).sum(dim=-1),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.rounds + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(all_of[1:]) for name, all_of in seconds.items()}  # the first warms up
        return {f"{name}_seconds": each for name, each in medians.items()} | {
            f"speedup_over_{name}": each / medians["packed"] for name, each in medians.items() if name != "packed"
        }


def common(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How many columns two lists (P, N, k) share, int64 (P, N)."""
    return (first.unsqueeze(-1) == second.unsqueeze(-2)).any(dim=-1).sum(dim=-1)


def memory(what: str) -> int:
    """A line of /proc/self/status, in kibibytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


if __name__ == "__main__":
    tyro.cli(Benchmark).run()
