"""One pretraining run from its settings to its pictures, top to bottom."""

import hashlib
import json
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import RunError
from singlelife.files import atomic_dir
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.segments import recording_time
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.resolve import life_reference, resolve_life
from singlelife.machine import say
from singlelife.optimization import adamw
from singlelife.pretraining.arguments import (
    FREE_ON_RESUME,
    RunConfig,
    annotated_yaml,
    learning_rate_report,
    parse_arguments,
)
from singlelife.pretraining.batches import StepSampler, ToModel, frames_seen, pair_datasets, plain_errors, train_loader
from singlelife.pretraining.callbacks import CasReference, callbacks, start_trackers
from singlelife.pretraining.checkpoints import (
    TrainingState,
    check_same_sequence,
    latest_sound_checkpoint,
    load_moments,
    load_weights,
    read_state,
    starting_config,
    whole_model,
)
from singlelife.pretraining.device import Precision, configure_device, start_accelerator
from singlelife.pretraining.loop import Trainer
from singlelife.pretraining.pictures import can_draw, draw_pictures
from singlelife.pretraining.publishing import adopt, checkpoint_from_hub, start_publisher
from singlelife.pretraining.run_folder import RunFolder, check_start, life_facts, read_metrics, write_text, writing
from singlelife.text import aligned, duration

if TYPE_CHECKING:
    import pandas

_VERSIONS = ("singlelife", "torch", "transformers", "accelerate")


@dataclass(frozen=True)
class TrainedRun:
    """What a run left in its folder.

    Attributes:
        folder: the run folder.
        model: the finished model, or that of the latest checkpoint.
        metrics: the lines of metrics.jsonl, by step.
        pictures: of the model, by file name.
    """

    folder: Path
    model: CroCoForPreTraining
    metrics: "pandas.DataFrame"
    pictures: dict[str, Path]


def train(**settings: Any) -> TrainedRun:
    """Pretrain a model on a life, as `singlelife train` does:

        run = singlelife.train(life="sim_1", max_steps=500)

    Args:
        settings: flags by name; None leaves one out.

    Raises:
        SingleLifeError: whatever the user can act on.
    """
    import pandas  # a second that the command line can do without

    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]
        elif value is not None:
            words.append(f"--{flag}={value}")
    try:
        config = parse_arguments(words)
    except SystemExit as stop:
        raise RunError("A setting has no such name or value: see the message above.") from stop
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run of this process
    stopped, folder = pretrain(config), RunFolder(config.output_dir)
    model = folder.latest_checkpoint() if stopped else folder.path
    return TrainedRun(
        folder.path,
        CroCoForPreTraining.from_pretrained(model),
        pandas.DataFrame(read_metrics(folder.metrics)).groupby("step").first(),
        {path.name: path for path in sorted(folder.path.glob("*.png"))},
    )


def pretrain(config: RunConfig) -> int:
    """Pretrain one model on one life and write its run folder (see `run_folder.py`).

    Returns:
        The exit code: 0, or 128 + the number of the signal that stopped the run after it saved a checkpoint.

    Raises:
        SingleLifeError: whatever the user can act on, as early as it is known.
    """
    start = time.perf_counter()
    check_start(config)
    disable_progress_bar()  # of transformers, at every save; the run has its own
    folder = RunFolder(config.output_dir)
    checkpoint = _checkpoint_to_resume(folder, config)
    state = read_state(checkpoint) if checkpoint else TrainingState()
    model_config = starting_config(config.model)
    precision = configure_device(config.train, model_config, state)
    chosen: dict[str, Any] = {"mixed_precision": precision.mixed_precision, "attention": precision.attention}
    origins = {name: "auto" for name in chosen if getattr(config.train, name) == "auto"}
    train = replace(config.train, **chosen)
    config = replace(config, train=train, origins=config.origins | origins)
    accelerator = start_accelerator(train, folder)
    publisher = None
    if accelerator.is_main_process:
        publisher = start_publisher(config.hub, config.life_name, folder)
    steps, processes = range(state.step, train.max_steps), (accelerator.num_processes, accelerator.process_index)
    sampler = StepSampler(steps, train.train_batch_size, train.gradient_accumulation_steps, *processes)
    pairs, held_out = _read_pairs(config, accelerator, state, model_config)
    if came_from := pairs.life.metadata.get("hub"):  # so that the run's config says which frames it saw
        config = replace(config, life=replace(config.life, life=f"{came_from['repo_id']}@{came_from['revision']}"))
    sequence = _sequence(config, pairs, model_config)
    if checkpoint:
        check_same_sequence(state, sequence, checkpoint)
    state.sequence = sequence
    processor = CroCoImageProcessor(size={"height": pairs.image_size, "width": pairs.image_size})
    to_model = ToModel(accelerator.device, tuple(processor.image_mean), tuple(processor.image_std))
    reference = None
    if config.cas.cas_reference is not None and accelerator.is_main_process:
        reference = CasReference(config, processor, str(accelerator.device))

    model = _starting_model(config, checkpoint, model_config, pairs.life.name)
    betas = train.adam_beta1, train.adam_beta2
    optimizer = adamw(model, train.peak_learning_rate, train.weight_decay, betas, accelerator.device)
    model, optimizer = accelerator.prepare(model, optimizer)
    if checkpoint:
        load_moments(checkpoint, model, optimizer.optimizer)
        if accelerator.scaler is not None and state.grad_scaler is not None:
            accelerator.scaler.load_state_dict(state.grad_scaler)
    jitter, shared = config.pairs.color_jitter, config.pairs.shared_color
    coloured = replace(to_model, color_jitter=jitter, shared_color=shared, seed=train.seed)
    trainer = Trainer(train, accelerator, folder, state, model, optimizer, processor, coloured)
    loader = train_loader(pairs, sampler, train.dataloader_num_workers, accelerator.device)
    accelerator.print(start_report(config, pairs, held_out, trainer, precision, checkpoint))
    _open_folder(trainer, config, checkpoint, pairs.life)
    trainer.callbacks += callbacks(trainer, config, to_model, pairs, held_out, reference)
    trainer.saved = publisher.offer if publisher else None
    with publisher or nullcontext(), plain_errors(), plain_errors():  # a worker's death may interrupt the inner one
        stopped_by = trainer.train(loader)
    whole = whole_model(trainer.model, accelerator)
    if whole is not None and accelerator.is_main_process:
        if stopped_by:
            print(
                f"Stopped by {signal.Signals(stopped_by).name} after step {state.step} of {train.max_steps}; saved "
                f"{folder.checkpoint_path(state.step)}. Go on with the same command and --resume."
            )
        else:
            _finish(trainer, whole, to_model, held_out or pairs)
            print(end_report(config, folder, time.perf_counter() - start, state.skipped_steps))
        if publisher:
            print(publisher.finish(hurry=bool(stopped_by)))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 128 + stopped_by if stopped_by else 0


def _checkpoint_to_resume(folder: RunFolder, config: RunConfig) -> Path | None:
    """The checkpoint to go on from, or None to start from the beginning.

    Raises:
        RunError: all that are there are damaged.
        HubError: the checkpoint is to come from the Hub, and cannot.
    """
    start = config.start
    if start.resume:
        return latest_sound_checkpoint(folder)
    if start.resume_from == "hub":
        return checkpoint_from_hub(config, folder)
    return Path(start.resume_from) if start.resume_from else None


def _read_pairs(
    config: RunConfig, accelerator: Accelerator, state: TrainingState, model: CroCoConfig
) -> tuple[PairDataset, PairDataset | None]:
    """The pairs to train on, and those of held-out stretches, of a life that is prepared or downloaded now if it has
    not been before. A resumed run of a life on the Hub takes the commit that it began with, if the user names none.

    Raises:
        LifeError, HubError: the life or such pairs cannot be had.
    """
    progress, life = accelerator.is_main_process, config.life.life
    assert life, "parse_arguments makes sure of it"
    reference, before = life_reference(life, config.life.video), str(state.sequence.get("life"))
    if reference.kind == "hub" and reference.revision is None and before.startswith(f"{reference.where}@"):
        life = before
    say(f"Opening the life {reference.name} ...")
    with accelerator.main_process_first():
        prepared = resolve_life(life, videos=config.life.video, cache_dir=config.life.cache_dir, progress=progress)
        return pair_datasets(prepared, config.pairs, config.train, model, progress=progress)


def _sequence(config: RunConfig, pairs: PairDataset, model_config: CroCoConfig) -> dict[str, Any]:
    """All that the sequence of losses depends on."""
    settings = {name: value for name, value in config.to_dict().items() if name not in FREE_ON_RESUME}
    if not pairs.life.metadata.get("hub"):
        settings["life"] = pairs.life.name  # wherever its folder is; its fingerprint tells whether it is the same
    own_fields = CroCoConfig().to_dict().keys() - PreTrainedConfig().to_dict().keys()
    # However these were given.
    settings |= {"learning_rate": config.train.peak_learning_rate, "warmup_steps": config.train.warmup}
    for name in ("base_learning_rate", "warmup_ratio"):
        del settings[name]
    model = {name: value for name, value in sorted(model_config.to_dict().items()) if name in own_fields}
    sequence = settings | {"life_fingerprint": pairs.life.metadata["fingerprint"], "model_config": model}
    if pairs.pairing.fingerprint is not None:  # of poses, which may be made again and come out differently
        sequence["pair_table"] = pairs.pairing.fingerprint
    return json.loads(json.dumps(sequence))  # as a checkpoint gives it back


def _starting_model(
    config: RunConfig, checkpoint: Path | None, model_config: CroCoConfig, life: str
) -> CroCoForPreTraining:
    """The model with the weights that the run starts or goes on with.

    New weights are drawn for the seed and the life's name: models of two lives share nothing, whatever their seeds.

    Raises:
        CheckpointError: they cannot be read.
    """
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{config.train.seed} {life}".encode()).digest()[:8]))
    weights = checkpoint or Path(config.model.model)
    model = load_weights(weights, model_config) if weights.is_dir() else CroCoForPreTraining(model_config)
    model.set_attn_implementation(config.train.attention)
    recompute(model, config.train.gradient_checkpointing)
    if config.train.torch_compile:
        model.compile()
    return model


def recompute(model: CroCoForPreTraining, blocks: str) -> None:
    """Let the blocks of the `encoder`, the `decoder` or `all` keep only their inputs for the backward pass, which then
    runs them forward once more (Chen et al., 2016)."""
    part = {"encoder": model.croco.encoder, "decoder": model.croco.decoder, "all": model}.get(blocks)
    if part is not None:
        # By the name that transformers 5.23 gave it where there is one; the older name warns there.
        enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def _open_folder(trainer: Trainer, config: RunConfig, checkpoint: Path | None, life: PreparedLife) -> None:
    """Make the run folder what it was at this step, with the settings of this run, and start the trackers."""
    folder, accelerator, step = trainer.folder, trainer.accelerator, trainer.state.step
    accelerator.wait_for_everyone()  # all have read the checkpoint
    if accelerator.is_main_process:
        folder.path.mkdir(parents=True, exist_ok=True)
        adopt(folder, checkpoint)
        folder.rewind(step)
        write_text(folder.life, json.dumps(life_facts(life), indent=2) + "\n")
        comment = (
            f"# Written by a run with {', '.join(f'{name} {version(name)}' for name in _VERSIONS)}.\n"
            f"# Start another with: --config config.yaml\n"
        )
        write_text(folder.config, comment + annotated_yaml(config))
    accelerator.wait_for_everyone()
    if config.train.report_to:
        start_trackers(accelerator, config.to_dict(), folder, step)


def _finish(trainer: Trainer, model: CroCoForPreTraining, to_model: ToModel, pairs: PairDataset) -> None:
    """Write the finished model and its pictures into the run folder."""
    folder = trainer.folder.path
    final = folder / "final"
    with writing(folder):
        with atomic_dir(final) as aside:
            model.save_pretrained(aside)
            trainer.processor.save_pretrained(aside)
            draw_pictures(aside, model, to_model, pairs, trainer.state.step)
        for path in final.iterdir():  # all of them complete; each takes its place in one step
            path.replace(folder / path.name)
        final.rmdir()


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
        f"  singlelife train --life {other}\n  singlelife cas {folder.path} runs/{other} --pairs sim_test"
    )


def _table(lines: dict[str, str]) -> str:
    return aligned([(f"  {name}", value) for name, value in lines.items()])
