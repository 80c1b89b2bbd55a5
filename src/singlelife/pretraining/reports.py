"""What a run says when it starts and when it is done."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator

from singlelife.lives.pairs.pair_dataset import PairDataset
from singlelife.lives.pairs.segments import recording_time
from singlelife.lives.prepared import PreparedLife
from singlelife.pretraining.arguments import BATCH_OF_BASE_RATE, RunArguments, TrainArguments
from singlelife.pretraining.batches import frames_seen
from singlelife.pretraining.precision import Precision
from singlelife.pretraining.progress import table
from singlelife.pretraining.run_folder import RunFolder, read_metrics
from singlelife.text import duration

_PICTURES = ("reconstruction.png", "cross_attention.png", "alignment.png")
_LOSSES = {"training": "loss", "validation": "val_loss"}  # as printed: as in the metrics


def start_report(
    arguments: RunArguments,
    life: PreparedLife,
    train_pairs: PairDataset,
    validation_pairs: PairDataset | None,
    model: torch.nn.Module,
    accelerator: Accelerator,
    precision: Precision,
    checkpoint: Path | None,
    resources: dict[str, str],
) -> str:
    """The table that a run prints before its first step; `resources` are lines of their own."""
    train, pairs = arguments.train, arguments.pairs
    config = accelerator.unwrap_model(model).config
    time = recording_time(life.timestamps, life.video_index)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type
    threads = f", threads: {torch.get_num_threads()}" if accelerator.device.type == "cpu" else ""
    shards = ", model in shards (FSDP2)," if accelerator.is_fsdp2 else ""
    processes = f"{accelerator.num_processes} processes{shards} on " if accelerator.num_processes > 1 else ""
    held_out = f"{pairs.validation_fraction:.0%} held out" if validation_pairs else "none held out"
    lines = {
        "life": f"{life.name}: {len(life):,} frames, {duration(time[-1])} of video, {held_out}",
        "pairs": f"{train_pairs.pairing}, crops of {pairs.crop_area_min:.0%} to {pairs.crop_area_max:.0%}",
        "model": f"{arguments.model.model}, {parameters / 1e6:.2f} M parameters, {config.image_size} px, "
        f"patches of {config.patch_size} px, {config.mask_ratio:.0%} masked",
        "device": f"{processes}{device}{threads}",
        "precision": str(precision),
        "steps": f"{train.max_steps:,} of {train.train_batch_size} pairs",
        "learning rate": learning_rate_report(train),
        **resources,
        "run folder": str(arguments.output_dir),
    }
    if (num_frames := frames_seen(life, pairs)) < len(life):
        lines["hours"] = f"only the first {duration(time[num_frames])} of it, {num_frames:,} frames, are trained on"
    if validation_pairs and type(validation_pairs.pairing) is not type(train_pairs.pairing):
        lines["validation"] = (
            f"{validation_pairs.pairing}: the held-out stretches hold no {pairs.pairing} pairs of their own"
        )
    if checkpoint:
        lines["going on from"] = str(checkpoint)
    elif train.resume or train.resume_from:
        lines["going on from"] = "the beginning: the run folder has no checkpoint yet"
    return table(lines)


def learning_rate_report(train: TrainArguments) -> str:
    """The rate at its peak, and how it came to be."""
    rate = f"{train.peak_learning_rate:g}"
    if train.learning_rate is not None:
        return f"{rate} (as asked for)"
    return f"{rate} ({train.base_learning_rate:g} × {train.train_batch_size} / {BATCH_OF_BASE_RATE})"


def best_report(folder: RunFolder) -> str:
    """The checkpoint with the lowest validation loss, or nothing where none has one."""
    if not folder.best.exists():
        return ""
    best = json.loads(folder.best.read_text(encoding="utf-8"))
    return f"{folder.path / best['checkpoint']}, validation {best['val_loss']:.4f}"


def end_report(arguments: RunArguments, folder: RunFolder, seconds: float, skipped_steps: int) -> str:
    """The table that a run prints at its end, and what to do next."""
    last = {name: value for line in read_metrics(folder.metrics) for name, value in line.items()}
    losses = [f"{name} {last[key]:.4f}" for name, key in _LOSSES.items() if key in last]
    other = "sim_2" if arguments.life_name == "sim_1" else "sim_1"
    best = best_report(folder)
    skipped = f"; {skipped_steps:,} of the steps were skipped, see {folder.metrics}" if skipped_steps else ""
    summary = table(
        {
            "done": f"{arguments.train.max_steps:,} steps in {duration(seconds)}{skipped}",
            "loss": ", ".join(losses) or "never finite",
            "model": f'{folder.path}   (import singlelife; AutoModel.from_pretrained("{folder.path}"))',
            "pictures": ", ".join(map(str, filter(Path.exists, (folder.path / name for name in _PICTURES)))),
        }
        | ({"best checkpoint": best} if best else {})
    )
    return (
        f"{summary}\nNext: train another life, then see how far the two agree about the geometry of a third:\n"
        f"  accelerate launch train.py --life {other}\n"
        f"  singlelife cas {folder.path} runs/{other} --pairs sim_test"
    )
