"""How fast pairs are read, compared with a straightforward pipeline of Pillow and torchvision that does the same.

    python benchmarks/loader.py
    python benchmarks/loader.py --image-size 112 --batch-size 64 --json loader.json

Both read the same prepared life, from a generated video of 456×256 px frames, and end with the model's input: two
views, decoded, cropped, resized with antialiasing, mirrored, changed in colour, normalised, as float32 batches. The
straightforward pipeline is a torch `Dataset` of one pair at a time: two rows of the `datasets` dataset as Pillow
images, `torchvision.transforms.v2`, the default collation.

On one core the two take turns, so that a change of the machine's speed meets both. The medians of the processor time
are compared, so that other processes on the core do not count. Loaders with one and two workers take turns as well;
they are timed by the clock.
"""

import argparse
import json
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

from singlelife.lives.pairs.dataset import PairDataset, color_factors, to_pixel_values
from singlelife.lives.pairs.pairing import TemporalPairing
from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life

AREA, ASPECT, JITTER, MASK_RATIO, PATCH_SIZE = (0.3, 1.0), (3 / 4, 4 / 3), 0.2, 0.9, 16  # of the recipe `base`
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAMES, HEIGHT, WIDTH = 256, 256, 456


def main() -> None:
    """Measure, print the numbers and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=224, help="side of the views in pixels, a multiple of 16")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs per batch")
    parser.add_argument("--rounds", type=int, default=9, help="turns to take medians of")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(Path(folder) / "walk.mp4")
        life = prepare_life(get_life("walk", [video]), cache_dir=folder, num_workers=1, progress=False)
        pairs = singlelife_pairs(life, arguments.image_size)
        plain = DataLoader(StraightforwardPairs(life, arguments.image_size), batch_size=arguments.batch_size)
        ours, theirs = singlelife_batches(pairs, arguments.batch_size), iter(plain)
        turns = {"ours": lambda: next(ours), "theirs": lambda: next(theirs)}
        one_core = in_turns(turns, arguments.rounds, time.process_time, "one core")
        turns = {
            str(number): lambda number=number: read_by_workers(pairs, arguments.batch_size, number)
            for number in (1, 2)
        }
        workers = in_turns(turns, max(1, arguments.rounds // 3), time.perf_counter, "workers")
    size = arguments.batch_size
    results = {
        "image_size": arguments.image_size,
        "batch_size": size,
        "singlelife_pairs_per_second": size / one_core["ours"],
        "straightforward_pairs_per_second": size / one_core["theirs"],
        "times_straightforward": one_core["theirs"] / one_core["ours"],
        "pairs_per_second_of_1_worker": len(pairs) / workers["1"],
        "pairs_per_second_of_2_workers": len(pairs) / workers["2"],
    }
    for name, value in results.items():
        print(f"{name.replace('_', ' '):<34}{value:.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def write_video(path: Path) -> Path:
    """A camera that pans over a picture with detail at every scale, like an outdoor scene."""
    generator = np.random.default_rng(0)
    world = np.zeros((512, 1024, 3))
    for octave in range(8):
        size = 2**octave
        noise = generator.normal(size=(512 // size, 1024 // size, 3))
        world += np.kron(noise, np.full((size, size, 1), size**0.6))
    world = np.clip(128 + 45 * world / world.std(), 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 20_000_000
        for index in range(FRAMES):
            left, top = round(284 + 280 * np.sin(index / 40)), round(128 + 120 * np.sin(index / 23))
            image = np.ascontiguousarray(world[top : top + HEIGHT, left : left + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def singlelife_pairs(life: PreparedLife, image_size: int) -> PairDataset:
    """The package's pairs, with the settings of the recipe `base`."""
    return PairDataset(
        life,
        TemporalPairing(life.timestamps, life.video_index, 0.1, 2.0),
        seed=0,
        num_pairs=512,
        image_size=image_size,
        patch_size=PATCH_SIZE,
        mask_ratio=MASK_RATIO,
        crop_area=AREA,
        crop_aspect=ASPECT,
    )


def singlelife_batches(pairs: PairDataset, batch_size: int) -> Iterator[list[torch.Tensor]]:
    """Both views of batch after batch, for the model."""
    first = 0
    while True:
        batch = pairs.__getitems__(range(first, first + batch_size))
        factors = color_factors(JITTER, 0, batch["pair_index"].numpy())
        yield [to_pixel_values(batch[view], MEAN, STD, factors) for view in ("target", "source")]
        first += batch_size


class StraightforwardPairs(Dataset):
    """One pair at a time, the way everyone would write it."""

    def __init__(self, life: PreparedLife, image_size: int):
        self.images = life.dataset.select_columns("image")
        self.num_patches = (image_size // PATCH_SIZE) ** 2
        self.crop = v2.RandomResizedCrop(image_size, scale=AREA, ratio=ASPECT, antialias=True)
        self.both = v2.Compose(  # takes two images and changes them alike
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


def read_by_workers(pairs: PairDataset, batch_size: int, num_workers: int) -> None:
    """Read all pairs."""
    for _ in DataLoader(pairs, batch_size=batch_size, num_workers=num_workers, collate_fn=lambda batch: batch):
        pass


def in_turns(
    functions: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float], title: str
) -> dict[str, float]:
    """Median seconds of each function, after a round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in tqdm(range(1 + rounds), desc=title, file=sys.stderr):
        for name, function in functions.items():
            start = clock()
            function()
            if number:
                taken[name].append(clock() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    main()
