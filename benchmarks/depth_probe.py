"""How much faster a probe is trained on cached features than with the encoder in the loop, and in how much memory.

    python benchmarks/depth_probe.py --model base --images 64
    python benchmarks/depth_probe.py --model base --images 654 --rounds 1 --json probe.json
    python benchmarks/depth_probe.py --model base --images 654 --device cuda

An epoch trains the depth probe of `singlelife evaluate depth` on the same frames, of NYU's 640x480 pixels, which lie
in memory: either from the features that were computed once, or with each batch read, resized and encoded anew. Epochs
of both kinds alternate, and the medians are compared. The cached epochs read from disk as in real use; computing the
features is told beside them, since it is paid once.

Memory is the peak of the process with the model loaded and after the features were written: what it grows by is what
streaming takes, however many frames there are.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()  # as the command does

import numpy as np
import torch
from tqdm import tqdm

from singlelife.alignment.models import load_model
from singlelife.commands.options import positive
from singlelife.croco.depth_croco import depth_probe, log_depth_map, scale_invariant_log_loss
from singlelife.croco.probes_croco import init_probe_weights
from singlelife.evaluation.depth_frames import DepthFrames
from singlelife.evaluation.depth_protocols import PROTOCOLS
from singlelife.evaluation.features import Encoder, extract, patch_size, peak_memory, resized, view_size
from singlelife.evaluation.probing import PROBES, ProbeSettings, train_probe
from singlelife.files import config_names
from singlelife.text import in_bytes


class Frames(DepthFrames):
    """Frames of noise, a few of them over and over."""

    def __init__(self, count: int):
        super().__init__("noise", f"noise {count}", PROTOCOLS["nyu"], count)
        generator = np.random.default_rng(0)
        self._images = torch.from_numpy(generator.integers(0, 256, (4, 3, 480, 640), dtype=np.uint8))
        self._depths = generator.uniform(1, 9, (4, 480, 640)).astype(np.float32)

    def image(self, row: int) -> torch.Tensor:
        return self._images[row % 4]

    def stored_depth(self, row: int) -> np.ndarray:
        return self._depths[row % 4]


class InTheLoop:
    """Serves what a `FeatureSet` does, and computes it each time."""

    def __init__(self, encoder: Encoder, frames: Frames):
        self._encoder, self._frames, self._size = encoder, frames, view_size(encoder)

    def __len__(self) -> int:
        return len(self._frames)

    def features(self, indices: np.ndarray) -> torch.Tensor:
        """As those of a `FeatureSet`."""
        images = [resized(self._frames.image(int(index)), self._size) for index in indices]
        return self._encoder.features(torch.stack(images)).float().clone()  # made in inference mode

    def targets(self, indices: np.ndarray) -> torch.Tensor:
        """As those of a `FeatureSet`."""
        return torch.from_numpy(np.stack([self._frames.item(int(index), self._size).target for index in indices]))


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    encoder = load_model(f"untrained:{arguments.model}", arguments.device)
    frames = Frames(arguments.images)
    loaded = peak_memory()
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        cached = extract(encoder, frames, cache_dir=cache, batch_size=arguments.batch_size)
        seconds = {"features_seconds": time.perf_counter() - start}
        written = peak_memory()
        settings = ProbeSettings(arguments.probe, epochs=1, batch_size=arguments.batch_size)
        patch = patch_size(encoder)

        def loss(output: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
            return scale_invariant_log_loss(log_depth_map(output, encoder.grid, patch), depth.float())

        make = partial(new_probe, arguments.probe, cached.metadata["tokens"][1], encoder.grid, patch)
        ways: dict[str, Any] = {"cached": cached, "in_the_loop": InTheLoop(encoder, frames)}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for way in tqdm(list(ways) * arguments.rounds, desc="epochs", file=sys.stderr):
            start = time.perf_counter()
            train_probe(make, ways[way], loss, settings, 0, device=arguments.device, progress=False)
            taken[way].append(time.perf_counter() - start)
    seconds |= {f"{way}_epoch_seconds": statistics.median(times) for way, times in taken.items()}
    results = {
        "model": arguments.model,
        "probe": arguments.probe,
        "images": arguments.images,
        "batch_size": arguments.batch_size,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **seconds,
        "times_faster": seconds["in_the_loop_epoch_seconds"] / seconds["cached_epoch_seconds"],
        "peak_memory_model_bytes": loaded,
        "peak_memory_features_bytes": written,
    }
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def new_probe(probe_type: str, width: int, grid: tuple[int, int], patch: int) -> torch.nn.Module:
    """A probe with its first weights."""
    return depth_probe(probe_type, width, grid, patch).apply(init_probe_weights)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="base", choices=config_names("models"), help="preset of hub_configs/models")
    parser.add_argument("--probe", default="attentive", choices=PROBES, help="which probe")
    parser.add_argument("--images", type=positive, default=64, help="frames of an epoch")
    parser.add_argument("--batch-size", type=positive, default=16, help="frames per step")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    parser.add_argument("--rounds", type=positive, default=3, help="epochs of each kind")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def table(results: dict[str, Any]) -> str:
    """The numbers for people."""
    cached, loop = results["cached_epoch_seconds"], results["in_the_loop_epoch_seconds"]
    return "\n".join([
        f"{results['model']}, {results['probe']} probe, {results['images']} images of 640x480, on "
        f"{results['device']}, {results['threads']} threads, torch {results['torch']}",
        f"features, once              {results['features_seconds']:9.2f} s",
        f"an epoch on cached features {cached:9.2f} s   {results['images'] / cached:8.1f} images/s",
        f"an epoch with the encoder   {loop:9.2f} s   {results['images'] / loop:8.1f} images/s",
        f"times faster                {results['times_faster']:9.1f}",
        f"peak memory: model {in_bytes(results['peak_memory_model_bytes'])}, with features written "
        f"{in_bytes(results['peak_memory_features_bytes'])}",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
