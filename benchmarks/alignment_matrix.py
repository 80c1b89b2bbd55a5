"""What it costs to align n models beyond running each of them once, and how fast top-k sets are compared.

    python benchmarks/alignment_matrix.py
    python benchmarks/alignment_matrix.py --models 20 --pairs 2000 --threads 2 --json alignment.json

The models are untrained ones of `--preset` with `--patches` patches along a side, and the pairs are noise: neither
matters for the time. The whole of `align_models` (raw and position-free, intervals, test; an empty cache) is timed. In
it, every forward pass is done twice, and one of the two, first and second in turn, is taken out of the time and is
what the rest is measured by. So a change of the machine's speed meets both.

Then the sets of two models are compared as packed bits and as lists of indices in torch, in turn, and medians are
taken: by `torch.isin`, by `cas.overlap`, and by `cas.overlap` with the top k that comes before it. The agreement of
every patch of every pair must be equal to the last bit.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()

import numpy as np
import torch
from tqdm import tqdm

from singlelife.alignment.matrix import align_models
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.score import overlap, top_k
from singlelife.alignment.score import common_per_pair, common_per_patch, select_top_k
from singlelife.alignment.pair_sets import PairSet
from singlelife.commands.options import positive
from singlelife.croco import CroCoConfig, CroCoImageProcessor
from singlelife.files import config_names, hub_configs, read_yaml


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    results = {
        "models": arguments.models,
        "pairs": arguments.pairs,
        "patches": arguments.patches**2,
        "k": arguments.k,
        "preset": arguments.preset,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        **time_matrix(arguments),
        **time_kernel(arguments),
    }
    print(summary(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", type=positive, default=20, help="how many")
    parser.add_argument("--pairs", type=positive, default=2000, help="of the pair set")
    parser.add_argument("--patches", type=positive, default=14, help="along a side of a view")
    parser.add_argument("--k", type=positive, default=5, help="of the top k")
    parser.add_argument("--preset", default="tiny", choices=config_names("models"), help="of the models' sizes")
    parser.add_argument("--batch-size", type=positive, default=64, help="pairs at once")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--kernel-pairs", type=positive, default=500, help="pairs whose sets are compared in turn")
    parser.add_argument("--rounds", type=positive, default=9, help="turns of which medians are taken")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


class Twice:
    """A model that does each forward pass twice, and adds up the time of one of the two."""

    def __init__(self, model: AttentionMapProvider):
        self._model, self._calls, self.seconds = model, 0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Those of the model."""
        self._calls += 1
        if self._calls % 2:
            self._time(target, source)
        logits = self._model.logits(target, source)
        if not self._calls % 2:
            self._time(target, source)
        return logits

    def _time(self, *views: torch.Tensor) -> None:
        start = time.perf_counter()
        self._model.logits(*views)
        self.seconds += time.perf_counter() - start


def time_matrix(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the forward passes and of everything, and the memory that it takes."""
    with tempfile.TemporaryDirectory() as folder:
        config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{arguments.preset}.yaml"))
        side = arguments.patches * config.patch_size
        config.image_size = side
        config.save_pretrained(folder)
        CroCoImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
        names = [f"untrained:{folder}@{seed}" for seed in range(arguments.models)]
        pairs = noise(arguments.pairs, side)
        load_model(names[0]).logits(pairs.target[:2], pairs.source[:2])  # what is done once is done before
        run: list[Twice] = []

        def load(name: str, layers: Any) -> Any:
            run.append(Twice(load_model(name, layers=layers)))
            return run[-1]

        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        start = time.perf_counter()
        result = align_models(
            names,
            load,
            lambda _: pairs,
            groups=[str(index % 2) for index in range(len(names))],
            ks=[arguments.k],
            batch_size=arguments.batch_size,
            cache_dir=Path(folder) / "cache",
        )
        seconds = time.perf_counter() - start
        peak = memory("VmHWM") - before
        start = time.perf_counter()
        align_models(names, load, lambda _: pairs, ks=[arguments.k], cache_dir=Path(folder) / "cache", progress=False)
        again = time.perf_counter() - start
    assert result.num_run == arguments.models
    forward = sum(model.seconds for model in run)
    return {
        "forward_seconds": forward,
        "matrix_seconds": seconds - forward,
        "matrix_over_forward": (seconds - forward) / forward,
        "from_cache_seconds": again,
        "peak_gibibytes": peak / 2**20,
    }


def noise(num_pairs: int, side: int) -> PairSet:
    """Pairs of views that show nothing."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(256, (2, num_pairs, 3, side, side), generator=generator, dtype=torch.uint8)
    return PairSet("noise", views[0], views[1], {}, np.zeros((num_pairs, 2, 4), dtype=np.int64))


def memory(what: str) -> int:
    """A line of /proc/self/status, in kibibytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def time_kernel(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds to compare the sets of two models on the same pairs, and the proof that all ways agree."""
    k, patches = arguments.k, arguments.patches**2
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(arguments.kernel_pairs, patches, patches, generator=generator) for _ in range(2)]
    lists = [top_k(each, k) for each in logits]
    bits = [select_top_k(each.numpy(), [k])[k] for each in logits]
    if not np.array_equal((common_per_patch(*bits) / k).astype(np.float32), overlap(*lists).numpy()):
        sys.exit("The overlaps of packed bits and of lists differ.")

    row = torch.arange(arguments.kernel_pairs * patches).view(arguments.kernel_pairs, patches, 1) * patches
    numbered = [each + row for each in lists]  # so that rows do not meet in `isin`
    ways: dict[str, Callable[[], Any]] = {
        "packed": lambda: common_per_pair(*bits),
        "isin": lambda: torch.isin(*numbered).sum(dim=(1, 2)),
        "lists": lambda: overlap(*lists).mean(dim=-1),
        "top_k_and_lists": lambda: overlap(*(each.topk(k).indices for each in logits)).mean(dim=-1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(arguments.rounds + 1), "Comparing sets", leave=False):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(all_of[1:]) for name, all_of in seconds.items()}  # the first warms up
    return {f"{name}_seconds": each for name, each in medians.items()} | {
        f"speedup_over_{name}": each / medians["packed"] for name, each in medians.items() if name != "packed"
    }


def summary(results: dict[str, Any]) -> str:
    """The numbers for people."""
    speedups = {name: results[f"speedup_over_{name}"] for name in ("isin", "lists", "top_k_and_lists")}
    lines = {
        "models": f"{results['models']} of {results['preset']}, {results['threads']} threads",
        "pairs": f"{results['pairs']:,} of {results['patches']} patches, top {results['k']}",
        "forward passes": f"{results['forward_seconds']:.1f} s",
        "everything": f"{results['matrix_seconds']:.1f} s, {results['matrix_over_forward']:.3f} of the forward passes",
        "again, from the cache": f"{results['from_cache_seconds']:.1f} s",
        "peak memory": f"{results['peak_gibibytes']:.2f} GiB, above what was there before",
        "overlap of packed bits": f"{results['packed_seconds'] * 1e3:.2f} ms for two models; equal in every patch",
        "faster than": f"{speedups['isin']:.0f}× torch.isin, {speedups['lists']:.0f}× torch == of ready lists, "
        f"{speedups['top_k_and_lists']:.0f}× with torch.topk",
    }
    return "\n".join(f"{name:<24}{value}" for name, value in lines.items())


if __name__ == "__main__":
    main()
