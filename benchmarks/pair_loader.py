"""How fast pairs are read, next to a straightforward pipeline of Pillow and torchvision that does the same.

    python benchmarks/pair_loader.py
    python benchmarks/pair_loader.py --image-size 112 --batch-size 64 --json loader.json

Both read the same prepared life, of a generated video of 456×256 px frames, and end with what the model takes: two
views, decoded, cropped, resized with antialiasing, mirrored, changed in colour, normalised, as float32 batches. The
package's pipeline is also measured on a decoded copy of the frames (`train.py --decoded-frames`).

The straightforward pipeline is a torch `Dataset` of one pair at a time: two rows of the `datasets` dataset as Pillow
images, `torchvision.transforms.v2`, the default collation.

On one core (one process, one thread) the two take turns, so that a change of the machine's speed meets both, and the
medians are compared. So do the stages, the parts of a batch. All that is in seconds of processor time: what other
processes take of the core does not count.

Loaders of one and of two workers take turns, too. Their batches are as they leave the workers, since what comes after
is done by the device, and are timed by the clock: on a machine that does other things, their ratio says little.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()  # as train.py does

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from singlelife.commands.options import positive
from singlelife.croco import CroCoConfig, CroCoImageProcessor
from singlelife.croco.flops import training_flops_per_pair
from singlelife.files import hub_configs, read_yaml
from singlelife.lives.decoded import use_decoded_frames
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.pairing import CROP_STREAM, TemporalPairing, pair_generators
from singlelife.lives.pairs.transforms import crop_and_resize, random_crop_box
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife, decode_jpeg
from singlelife.lives.registry import get_life
from singlelife.pretraining.batches import StepSampler, ToModel, train_loader

AREA, ASPECT, JITTER, MASK_RATIO, PATCH_SIZE = (0.3, 1.0), (3 / 4, 4 / 3), 0.2, 0.9, 16  # of the recipe `base`
MEAN, STD = tuple(CroCoImageProcessor.image_mean), tuple(CroCoImageProcessor.image_std)

_FRAMES, _HEIGHT, _WIDTH = 256, 256, 456
_WARM_UP_ROUNDS = 1
_PAIRS_PER_TURN = 64
_PAIRS_PER_WORKER = 512
_H100_FLOPS, _H100_UTILIZATION = 989e12, 0.4  # dense bf16, from its data sheet; and the share of it that is assumed


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder) / "walk.mp4")
        life = prepare_life(get_life("walk", [video]), cache_dir=folder, num_workers=1, progress=False)
        decoded = PreparedLife.load(life.path)
        use_decoded_frames(decoded, progress=False)
        ours, theirs = singlelife_batches(life, arguments), straightforward_batches(life, arguments)
        ours_decoded = singlelife_batches(decoded, arguments)
        turns = max(1, _PAIRS_PER_TURN // arguments.batch_size)
        seconds = interleave(
            {
                "singlelife": lambda: take(ours, turns),
                "singlelife, decoded frames": lambda: take(ours_decoded, turns),
                "straightforward": lambda: take(theirs, turns),
            },
            arguments.rounds,
            "one core",
        )
        one_core = {name: turns * arguments.batch_size / each for name, each in seconds.items()}
        by_clock: dict[int, list[float]] = {1: [], 2: []}
        by_processor: list[float] = []
        for _ in tqdm(range(max(1, arguments.rounds // 3)), desc="workers", file=sys.stderr):
            for number, taken in by_clock.items():
                clock, processor = worker_seconds(life, arguments, number)
                taken.append(clock)
                by_processor.append(processor)
        by_workers = {str(number): 1 / statistics.median(taken) for number, taken in by_clock.items()}
        worker = statistics.median(by_processor)
        stage_seconds = interleave(stages(life, arguments), arguments.rounds, "stages")
        frame_bytes = float(np.mean([len(frame) for frame in life.encoded(np.arange(len(life)))]))

    flops = training_flops_per_pair(CroCoConfig(**read_yaml(hub_configs() / "models" / "base.yaml")))
    h100 = _H100_FLOPS * _H100_UTILIZATION / flops
    results = {
        "image_size": arguments.image_size,
        "frame_size": [_WIDTH, _HEIGHT],
        "frame_bytes": frame_bytes,
        "batch_size": arguments.batch_size,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load_average_before": busy,
        "pairs_per_second_of_one_core": one_core,
        "times_straightforward": one_core["singlelife"] / one_core["straightforward"],
        "times_straightforward_decoded": one_core["singlelife, decoded frames"] / one_core["straightforward"],
        "pairs_per_second_by_workers": by_workers,
        "scaling_from_1_to_2_workers": by_workers["2"] / by_workers["1"],
        "pairs_per_second_of_a_workers_core": 1 / worker,
        "milliseconds_per_pair": {name: 1e3 * each / arguments.batch_size for name, each in stage_seconds.items()},
        "h100_pairs_per_second_computed": h100,
        "h100_cores_computed": h100 * worker,
    }
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--image-size", type=positive, default=224, help="side of the views in pixels, times of 16")
    parser.add_argument("--batch-size", type=positive, default=32, help="pairs per batch")
    parser.add_argument("--rounds", type=positive, default=9, help="turns to take medians of")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def write_video(path: Path) -> Path:
    """A camera that pans over a picture with detail at every scale, as outdoor scenes have it."""
    generator = np.random.default_rng(0)
    world = np.zeros((512, 1024, 3))
    for octave in range(8):
        size = 2**octave
        noise = generator.normal(size=(512 // size, 1024 // size, 3)) + generator.normal(
            size=(512 // size, 1024 // size, 1)
        )
        world += np.kron(noise, np.full((size, size, 1), size**0.6))
    world = np.clip(128 + 45 * world / world.std(), 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = _WIDTH, _HEIGHT, "yuv420p", 20_000_000
        for index in range(_FRAMES):
            left, top = round(284 + 280 * np.sin(index / 40)), round(128 + 120 * np.sin(index / 23))
            image = np.ascontiguousarray(world[top : top + _HEIGHT, left : left + _WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def pair_dataset(life: PreparedLife, arguments: argparse.Namespace) -> PairDataset:
    """The package's pairs, as the recipe `base` has them."""
    return PairDataset(
        life,
        TemporalPairing(life.timestamps, life.video_index, 0.1, 2.0),
        seed=0,
        num_pairs=2**40,
        image_size=arguments.image_size,
        patch_size=PATCH_SIZE,
        mask_ratio=MASK_RATIO,
        crop_area=AREA,
        crop_aspect=ASPECT,
    )


def singlelife_batches(life: PreparedLife, arguments: argparse.Namespace) -> Iterator[Any]:
    """Batches for the model, of the package's loader in this process."""
    sampler = StepSampler(0, 2**30, arguments.batch_size)
    loader = train_loader(pair_dataset(life, arguments), sampler, num_workers=0, device=torch.device("cpu"))
    return map(ToModel(torch.device("cpu"), MEAN, STD, JITTER), loader)


class StraightforwardPairs(Dataset):
    """One pair at a time, by the means that everyone knows."""

    def __init__(self, life: PreparedLife, image_size: int):
        self.images = life.dataset.select_columns("image")
        self.num_patches = (image_size // PATCH_SIZE) ** 2
        self.crop = v2.RandomResizedCrop(image_size, scale=AREA, ratio=ASPECT, antialias=True)
        self.both = v2.Compose(  # which takes two images and changes them alike
            [
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=JITTER, contrast=JITTER, saturation=JITTER),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return 2**30

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        first = int(torch.randint(len(self.images) - 20, ()))
        rows = first, first + int(torch.randint(1, 21, ()))
        target, source = self.both(*(self.crop(self.images[row]["image"]) for row in rows))
        masked = torch.zeros(self.num_patches, dtype=torch.bool)
        masked[torch.randperm(self.num_patches)[: round(MASK_RATIO * self.num_patches)]] = True
        return {"pixel_values": target, "source_pixel_values": source, "bool_masked_pos": masked}


def straightforward_batches(life: PreparedLife, arguments: argparse.Namespace) -> Iterator[Any]:
    """Batches for the model, of the straightforward pipeline in this process."""
    return iter(DataLoader(StraightforwardPairs(life, arguments.image_size), batch_size=arguments.batch_size))


def take(batches: Iterator[Any], number: int) -> None:
    """Take some batches."""
    for _ in range(number):
        next(batches)


def worker_seconds(life: PreparedLife, arguments: argparse.Namespace, num_workers: int) -> tuple[float, float]:
    """Seconds per pair of a loader with that many workers, once all are under way, and their processor seconds."""
    ahead, counted = 4 * num_workers, max(1, _PAIRS_PER_WORKER * num_workers // arguments.batch_size)
    sampler = StepSampler(0, ahead + counted, arguments.batch_size)
    elsewhere = torch.device("meta")  # no CPU that workers would have to leave to the training
    before = os.times()
    batches = iter(train_loader(pair_dataset(life, arguments), sampler, num_workers, elsewhere))
    take(batches, ahead)
    start = time.perf_counter()
    for _ in batches:  # to the end, at which the workers are gone and their time is known
        pass
    seconds, after = time.perf_counter() - start, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    pairs_ahead, pairs_counted = ahead * arguments.batch_size, counted * arguments.batch_size
    return seconds / pairs_counted, processor / (pairs_ahead + pairs_counted)


def stages(life: PreparedLife, arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The parts of reading one batch, each on what the part before it gives."""
    dataset = pair_dataset(life, arguments)
    indices = np.arange(arguments.batch_size)
    rows = dataset.pairing.pairs(0, indices).reshape(-1)
    encoded = life.encoded(rows)
    images = life.decode(rows)
    generator = np.random.default_rng(0)
    boxes = [random_crop_box(generator, _HEIGHT, _WIDTH, AREA, ASPECT) for _ in rows]
    batch = dataset.__getitems__(indices.tolist())
    to_model = ToModel(torch.device("cpu"), MEAN, STD, JITTER)

    def random_numbers() -> None:
        dataset.pairing.pairs(0, indices)
        for generator in pair_generators(0, CROP_STREAM, indices):
            for _ in range(2):
                random_crop_box(generator, _HEIGHT, _WIDTH, AREA, ASPECT)
        dataset._masks(indices)

    return {
        "random numbers": random_numbers,
        "read": lambda: life.encoded(rows),
        "decode": lambda: [decode_jpeg(content) for content in encoded],
        "crop and resize": lambda: [
            crop_and_resize(image, box, arguments.image_size) for image, box in zip(images, boxes, strict=True)
        ],
        "colour and normalise": lambda: to_model(batch),
    }


def interleave(functions: dict[str, Callable[[], Any]], rounds: int, title: str) -> dict[str, float]:
    """Median seconds of processor time of each function, measured in turns."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in tqdm(range(_WARM_UP_ROUNDS + rounds), desc=title, file=sys.stderr):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if number >= _WARM_UP_ROUNDS:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def table(results: dict[str, Any]) -> str:
    """The numbers for people."""
    one_core, workers = results["pairs_per_second_of_one_core"], results["pairs_per_second_by_workers"]
    width, height = results["frame_size"]
    lines = {
        "frames": f"{width}×{height} px, JPEGs of {results['frame_bytes'] / 1e3:.0f} kB on average",
        "views": f"{results['image_size']} px, batches of {results['batch_size']} pairs, torch {results['torch']}",
        "machine": f"{results['cores']} cores, load average {results['load_average_before']} before",
        "straightforward": f"{one_core['straightforward']:.0f} pairs/s on one core",
        "singlelife": f"{one_core['singlelife']:.0f} pairs/s, {results['times_straightforward']:.2f} times as many",
        "of decoded frames": f"{one_core['singlelife, decoded frames']:.0f} pairs/s, "
        f"{results['times_straightforward_decoded']:.2f} times as many",
        "1 worker": f"{workers['1']:.0f} pairs/s",
        "2 workers": f"{workers['2']:.0f} pairs/s",
        "a worker's core": f"{results['pairs_per_second_of_a_workers_core']:.0f} pairs/s, of processor time",
        "scaling": f"{results['scaling_from_1_to_2_workers']:.2f}",
    }
    lines |= {f"  {name}": f"{value:.3f} ms a pair" for name, value in results["milliseconds_per_pair"].items()}
    lines["one H100"] = (
        f"{results['h100_pairs_per_second_computed']:.0f} pairs/s of `base` at {_H100_UTILIZATION:.0%} of "
        f"{_H100_FLOPS / 1e12:.0f} TFLOP/s (computed, not run): the time of {results['h100_cores_computed']:.1f} cores"
    )
    return "\n".join(f"{name:<24}{value}" for name, value in lines.items())


if __name__ == "__main__":
    main()
