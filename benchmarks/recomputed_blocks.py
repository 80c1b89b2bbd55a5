"""What recomputed activations save and cost: memory and time of a training step, by `--gradient-checkpointing`.

    python benchmarks/recomputed_blocks.py --model base --batch-size 8
    python benchmarks/recomputed_blocks.py --model base --batch-size 64 --device cuda --dtype bfloat16

Memory is what the forward pass keeps for the backward pass, parameters aside: the bytes of all storages that autograd
saves, each counted once. Recomputing has besides to hold one block's share while it is gone through backwards. Steps
(forward, backward, fused AdamW) of the choices alternate; times are medians over that of `none` in the same rounds.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()  # as train.py does

import torch
from tqdm import tqdm

from singlelife.commands.options import positive
from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.files import config_names, hub_configs, read_yaml
from singlelife.optimization import parameter_groups
from singlelife.pretraining.optimizer import recompute
from singlelife.text import in_bytes

_CHOICES = ("none", "encoder", "decoder", "all")


class Trained:
    """A model with one choice of recomputed blocks, and random views to train it on."""

    def __init__(self, blocks: str, config: CroCoConfig, arguments: argparse.Namespace):
        torch.manual_seed(0)
        self.device, self.dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
        self.model = CroCoForPreTraining(config).train().to(self.device)
        recompute(self.model, blocks)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, weight_decay=0.05), lr=1e-4, fused=True)
        rows, columns = config.grid_size
        size = (rows * config.patch_size, columns * config.patch_size)
        self.views = torch.randn(2, arguments.batch_size, config.num_channels, *size, device=self.device)

    def loss(self) -> torch.Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            return self.model(self.views[0], self.views[1]).loss

    def seconds(self) -> float:
        """Of one step."""
        synchronize = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        synchronize()
        start = time.perf_counter()
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronize()
        return time.perf_counter() - start

    def kept(self) -> int:
        """Bytes that a forward pass keeps."""
        own = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        storages: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self.loss()  # the graph holds what was saved until it is gone, so no address is given out twice
        amount = sum(storages.values())
        del loss
        return amount


def main() -> None:
    """Measure, print a table and write the JSON file."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    config = CroCoConfig(**read_yaml(hub_configs() / "models" / f"{arguments.model}.yaml"))
    trained = {blocks: Trained(blocks, config, arguments) for blocks in _CHOICES}
    taken: dict[str, list[float]] = {blocks: [] for blocks in _CHOICES}
    for number in tqdm(range(1 + arguments.rounds), desc="rounds", file=sys.stderr):
        for blocks, one in trained.items():
            seconds = one.seconds()
            if number:
                taken[blocks].append(seconds)
    results: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("model", "batch_size", "dtype", "device", "threads", "rounds")
    }
    results["choices"] = {
        blocks: {
            "kept_bytes": one.kept(),
            "kept_share": one.kept() / trained["none"].kept(),
            "step_seconds": statistics.median(taken[blocks]),
            "time_ratio": statistics.median(map(lambda a, b: a / b, taken[blocks], taken["none"])),
        }
        for blocks, one in trained.items()
    }
    print(f"{arguments.model}, batch {arguments.batch_size}, {arguments.dtype}, {arguments.device}")
    print(f"{'recomputed':<12}{'kept':>10}{'share':>8}{'time':>8}")
    for blocks, row in results["choices"].items():
        print(f"{blocks:<12}{in_bytes(row['kept_bytes']):>10}{row['kept_share']:>8.2f}{row['time_ratio']:>8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", default="tiny", choices=config_names("models"), help="preset of hub_configs/models")
    parser.add_argument("--batch-size", type=positive, default=8, help="pairs per step")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="bfloat16 is autocast")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    parser.add_argument("--rounds", type=positive, default=5, help="steps of each choice to take medians of")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
