"""What a run prints: at its start, of a dry run, and at its end."""

from pathlib import Path

import torch
from accelerate import Accelerator

from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.segments import recording_time
from singlelife.pretraining.arguments import RunConfig, learning_rate_report
from singlelife.pretraining.batches import frames_seen
from singlelife.pretraining.device import Precision
from singlelife.pretraining.loop import Trainer
from singlelife.pretraining.pictures import can_draw
from singlelife.pretraining.run_folder import RunFolder, read_metrics
from singlelife.text import aligned, duration

_SECONDS, _MOST_STEPS = 10.0, 50  # of a dry run's timed steps


def start_report(
    config: RunConfig,
    train_pairs: PairDataset,
    validation_pairs: PairDataset | None,
    trainer: Trainer,
    precision: Precision,
    checkpoint: Path | None,
) -> str:
    """The table that a run prints before its first step."""
    life, train, pairs = train_pairs.life, config.train, config.pairs
    model = trainer.accelerator.unwrap_model(trainer.model).config
    seconds = recording_time(life.timestamps, life.video_index)
    millions = sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6
    held_out = f"{pairs.validation_fraction:.0%} held out" if validation_pairs else "none held out"
    lines = {
        "life": f"{life.name}: {len(life):,} frames, {duration(seconds[-1])} of video, {held_out}",
        "pairs": f"{train_pairs.pairing}, crops of {pairs.crop_area_min:.0%} to {pairs.crop_area_max:.0%}",
        "model": f"{config.model.model}, {millions:.2f} M parameters, {model.image_size} px, "
        f"patches of {model.patch_size} px, {model.mask_ratio:.0%} masked",
        "device": _device(trainer.accelerator),
        "precision": str(precision),
        "steps": f"{train.max_steps:,} of {train.train_batch_size} pairs",
        "learning rate": f"{learning_rate_report(train)} after {train.warmup:,} steps of warm-up",
        "settings": f"{', '.join(dict.fromkeys(config.origins.values()))}, defaults (config.yaml says which is which)",
        "run folder": str(config.output_dir),
    }
    if (num_frames := frames_seen(life, pairs)) < len(life):
        lines["hours"] = f"only the first {duration(seconds[num_frames])} of it, {num_frames:,} frames, are trained on"
    if validation_pairs and type(validation_pairs.pairing) is not type(train_pairs.pairing):
        lines["validation"] = f"{validation_pairs.pairing}: the held-out stretches hold no {pairs.pairing} pairs"
    if not can_draw():
        lines["pictures"] = "none: matplotlib is not installed (pip install 'singlelife[plots]')"
    if checkpoint or config.start.resume:
        lines["going on from"] = str(checkpoint or "the beginning: the run folder has no checkpoint yet")
    return _table(lines)


def _device(accelerator: Accelerator) -> str:
    kind = accelerator.device.type
    device = torch.cuda.get_device_name() if kind == "cuda" else f"{kind}, threads: {torch.get_num_threads()}"
    shards = ", model in shards (FSDP2)," if accelerator.is_fsdp2 else ""
    return device if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes{shards} on {device}"


def end_report(config: RunConfig, folder: RunFolder, seconds: float, skipped_steps: int) -> str:
    """The table that a run prints at its end, and what to do next."""
    last = {name: value for line in read_metrics(folder.metrics) for name, value in line.items()}
    losses = {"training": last.get("loss"), "validation": last.get("val_loss")}
    other = "sim_2" if config.life_name == "sim_1" else "sim_1"
    skipped = f"; {skipped_steps:,} of the steps were skipped, see {folder.metrics}" if skipped_steps else ""
    lines = {
        "done": f"{config.train.max_steps:,} steps in {duration(seconds)}{skipped}",
        "loss": ", ".join(f"{n} {x:.4f}" for n, x in losses.items() if x is not None) or "never finite",
        "model": f'{folder.path}   (import singlelife; AutoModel.from_pretrained("{folder.path}"))',
        "pictures": f"{folder.path}/*.png" if can_draw() else "none",
    }
    return (
        f"{_table(lines)}\nNext: train another life, and see how far the two agree about the geometry of a third:\n"
        f"  accelerate launch train.py --life {other}\n  singlelife cas {folder.path} runs/{other} --pairs sim_test"
    )


def _table(lines: dict[str, str]) -> str:
    return aligned([(f"  {name}", value) for name, value in lines.items()])
