"""One pretraining run, top to bottom, from its settings to its pictures."""

import hashlib
import json
import signal
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader
from transformers import AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from singlelife.croco import CroCoConfig
from singlelife.errors import RunError
from singlelife.files import atomic_dir, read_yaml
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.pairs.motion import MEASURED, measure_motion, with_gaps
from singlelife.lives.pairs.segments import recording_time
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.resolve import life_reference, resolve_life
from singlelife.machine import say
from singlelife.optimization import adamw
from singlelife.pretraining.arguments import (
    FREE_ON_RESUME,
    ModelConfig,
    RunConfig,
    TrainConfig,
    annotated_yaml,
    learning_rate_report,
    parse_arguments,
)
from singlelife.pretraining.batches import StepSampler, ToModel, frames_seen, pair_datasets, train_loader
from singlelife.pretraining.callbacks import callbacks, start_trackers
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
from singlelife.pretraining.networks import image_processor, inputs_of, network_config, new_network
from singlelife.pretraining.pictures import draw_pictures, draw_progress, why_no_pictures
from singlelife.pretraining.publishing import start_publisher
from singlelife.pretraining.run_folder import RunFolder, check_start, life_facts, read_metrics, write_text, writing
from singlelife.text import aligned, duration

if TYPE_CHECKING:
    import pandas

_VERSIONS = ("singlelife", "torch", "transformers", "accelerate")


@dataclass(frozen=True)
class TrainedRun:
    """The results in a run's folder.

    Attributes:
        folder: the run folder.
        model: the finished model, or the latest checkpoint's if the run was stopped.
        metrics: the lines of metrics.jsonl, by step.
        pictures: the model's pictures, by file name.
    """

    folder: Path
    model: PreTrainedModel
    metrics: "pandas.DataFrame"
    pictures: dict[str, Path]


def train(**settings: Any) -> TrainedRun:
    """Pretrain a model on a life, as `singlelife train` does:

        run = singlelife.train(life="sim_1", max_steps=500)

    Args:
        settings: flags by name; None leaves a flag out.

    Raises:
        SingleLifeError: any error that the user can act on.
    """
    import pandas  # takes a second, which the command line saves

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
        raise RunError("A setting's name or value is wrong: see the message above.") from stop
    AcceleratorState._reset_state(reset_partial_state=True)  # left by an earlier run in this process
    stopped, folder = pretrain(config), RunFolder(config.output_dir)
    model = (folder.latest_checkpoint() if stopped else None) or folder.path
    return TrainedRun(
        folder.path,
        AutoModelForPreTraining.from_pretrained(model),
        pandas.DataFrame(read_metrics(folder.metrics) or {"step": []}).groupby("step").first(),
        {path.name: path for path in sorted(folder.path.glob("*.png"))},
    )


def pretrain(config: RunConfig) -> int:
    """Pretrain one model on one life and write its run folder (see `run_folder.py`). Returns the exit code: 0, or 128
    + the number of the signal that stopped the run after a checkpoint. Errors are raised as early as possible."""
    start = time.perf_counter()
    check_start(config)
    disable_progress_bar()  # transformers shows one at every save
    folder = RunFolder(config.output_dir)
    checkpoint = latest_sound_checkpoint(folder) if config.start.resume else None
    if config.start.resume_from:
        checkpoint = Path(config.start.resume_from)
    state = read_state(checkpoint) if checkpoint else TrainingState()
    sizes = _sizes(config, checkpoint)
    network = network_config(sizes, config.model.model_type)
    precision = configure_device(config.train, network, state)
    config = _with_precision(config, precision)
    train = config.train
    accelerator = start_accelerator(train, folder)
    publisher = start_publisher(config.hub, config.life_name, folder) if accelerator.is_main_process else None
    steps, processes = range(state.step, train.max_steps), (accelerator.num_processes, accelerator.process_index)
    sampler = StepSampler(steps, train.train_batch_size, train.gradient_accumulation_steps, *processes)
    config, pairs, held_out = _read_pairs(config, accelerator, state, sizes)
    if came_from := pairs.life.metadata.get("hub"):  # the run's config records which frames it saw
        config = replace(config, life=replace(config.life, life=f"{came_from['repo_id']}@{came_from['revision']}"))
    sequence = _sequence(config, pairs, sizes)
    if checkpoint:
        check_same_sequence(state, sequence, checkpoint)
    state.sequence = sequence

    model = _starting_model(config, checkpoint, network, pairs.life.name)
    model, optimizer = accelerator.prepare(model, make_optimizer(model, train, accelerator.device))
    if checkpoint:
        load_moments(checkpoint, model, optimizer.optimizer)
        if accelerator.scaler is not None and state.grad_scaler is not None:
            accelerator.scaler.load_state_dict(state.grad_scaler)
    processor = image_processor(network)
    plain = inputs_of(network)(accelerator.device, tuple(processor.image_mean), tuple(processor.image_std))
    coloured = replace(
        plain, color_jitter=config.pairs.color_jitter, shared_color=config.pairs.shared_color, seed=train.seed
    )
    trainer = Trainer(train, accelerator, folder, state, model, optimizer, processor, coloured)
    loader = train_loader(pairs, sampler, train.dataloader_num_workers, accelerator.device)
    accelerator.print(start_report(config, pairs, held_out, trainer, precision, checkpoint))
    _open_folder(trainer, config, pairs.life)
    trainer.callbacks += callbacks(trainer, plain, pairs, held_out)
    trainer.saved = publisher.offer if publisher else None
    with publisher or nullcontext():
        stopped_by = _train(trainer, loader)
    whole = whole_model(trainer.model, accelerator)
    if whole is not None and accelerator.is_main_process:
        if stopped_by:
            print(
                f"Stopped by {signal.Signals(stopped_by).name} after step {state.step} of {train.max_steps}; saved "
                f"{folder.checkpoint_path(state.step)}. Continue with the same command and --resume."
            )
        else:
            _finish(trainer, whole, plain, held_out or pairs)
            print(end_report(config, trainer, time.perf_counter() - start))
        if publisher:
            print(publisher.finish(hurry=bool(stopped_by)))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 128 + stopped_by if stopped_by else 0


def _with_precision(config: RunConfig, precision: Precision) -> RunConfig:
    """The settings with the chosen number format and attention in place of `auto`."""
    chosen: dict[str, Any] = {"mixed_precision": precision.mixed_precision, "attention": precision.attention}
    origins = {name: "auto" for name in chosen if getattr(config.train, name) == "auto"}
    return replace(config, train=replace(config.train, **chosen), origins=config.origins | origins)


def _train(trainer: Trainer, loader: DataLoader) -> int:
    try:
        return trainer.train(loader)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"The device has too little memory ({str(error).splitlines()[0]}). Two flags help without changing the "
            "losses: more --gradient-accumulation-steps, or --gradient-checkpointing all."
        ) from error


def make_optimizer(model: torch.nn.Module, train: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a run. The training loop sets its learning rate at every step."""
    betas = train.adam_beta1, train.adam_beta2
    return adamw(model, train.peak_learning_rate, train.weight_decay, betas, device)


def _read_pairs(
    config: RunConfig, accelerator: Accelerator, state: TrainingState, model: CroCoConfig
) -> tuple[RunConfig, PairDataset, PairDataset | None]:
    """The settings with measured gaps, the pairs to train on, and the pairs from held-out stretches.

    A life that is not here is prepared or downloaded. A resumed run on a life from the Hub uses the commit that it
    began with, unless the user names one.

    Raises:
        LifeError, HubError: the life cannot be prepared or downloaded, or gives no such pairs.
    """
    progress, life = accelerator.is_main_process, config.life.life
    assert life, "parse_arguments checks this"
    reference, before = life_reference(life, config.life.video), str(state.sequence.get("life"))
    if reference.kind == "hub" and reference.revision is None and before.startswith(f"{reference.where}@"):
        life = before
    say(f"Opening the life {reference.name} ...")
    with accelerator.main_process_first():
        prepared = resolve_life(life, videos=config.life.video, cache_dir=config.life.cache_dir, progress=progress)
        pairs = with_gaps(config.pairs, prepared)
        changed = [name for name in ("min_gap", "max_gap") if getattr(pairs, name) != getattr(config.pairs, name)]
        config = replace(config, pairs=pairs, origins=config.origins | dict.fromkeys(changed, MEASURED))
        return config, *pair_datasets(prepared, pairs, config.train, model, progress=progress)


def _sequence(config: RunConfig, pairs: PairDataset, model_config: CroCoConfig) -> dict[str, Any]:
    """Everything that the sequence of losses depends on."""
    settings = {name: value for name, value in config.to_dict().items() if name not in FREE_ON_RESUME}
    if not pairs.life.metadata.get("hub"):
        settings["life"] = pairs.life.name  # its folder may move; the fingerprint identifies it
    own_fields = CroCoConfig().to_dict().keys() - PreTrainedConfig().to_dict().keys()
    # The same two numbers, however the user gave them.
    settings |= {"learning_rate": config.train.peak_learning_rate, "warmup_steps": config.train.warmup}
    for name in ("base_learning_rate", "warmup_ratio"):
        del settings[name]
    model = {name: value for name, value in sorted(model_config.to_dict().items()) if name in own_fields}
    sequence = settings | {"life_fingerprint": pairs.life.metadata["fingerprint"], "model_config": model}
    if pairs.pairing.fingerprint is not None:  # poses may be computed again and come out differently
        sequence["pair_table"] = pairs.pairing.fingerprint
    return json.loads(json.dumps(sequence))  # as a checkpoint gives it back


def _sizes(config: RunConfig, checkpoint: Path | None) -> CroCoConfig:
    """The model's config. A run that continues with the same settings of the model keeps its checkpoint's, because the
    preset that `--model` names may have changed since."""
    model = config.model
    if checkpoint and model.model_type == "croco" and (saved := RunFolder(checkpoint.parent).config).is_file():
        was = asdict(ModelConfig()) | read_yaml(saved)  # older runs lack some settings
        if asdict(model).items() <= was.items():
            model = replace(model, model=str(checkpoint))
    return starting_config(model)


def _starting_model(
    config: RunConfig, checkpoint: Path | None, network: PreTrainedConfig, life: str
) -> PreTrainedModel:
    """The model with the weights that the run starts or continues with.

    The seed and the life's name determine new weights, so models of two lives share nothing, whatever their seeds.
    Raises a CheckpointError if the weights cannot be read.
    """
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{config.train.seed} {life}".encode()).digest()[:8]))
    weights = checkpoint or Path(config.model.model)
    model = load_weights(weights, network) if weights.is_dir() else new_network(network)
    model.set_attn_implementation(config.train.attention)
    recompute(model, config.train.gradient_checkpointing)
    if config.train.torch_compile:
        model.compile()
    return model


def recompute(model: PreTrainedModel, blocks: str) -> None:
    """Make the blocks of the `encoder`, the `decoder` or `all` keep only their inputs for the backward pass, which
    then runs them forward again (Chen et al., 2016).

    Raises:
        RunError: the model can only do this for all its blocks.
    """
    if blocks == "none":
        return
    part = model if blocks == "all" else getattr(getattr(model, "croco", None), blocks, None)
    if part is None:
        raise RunError(f"--gradient-checkpointing {blocks} is for CroCo; this model takes none or all.")
    # transformers 5.23 has a new name for this, and warns about the old one.
    enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _open_folder(trainer: Trainer, config: RunConfig, life: PreparedLife) -> None:
    """Set the run folder back to this step, write the settings of this run into it, and start the trackers."""
    folder, accelerator, step = trainer.folder, trainer.accelerator, trainer.state.step
    accelerator.wait_for_everyone()  # all have read the checkpoint
    if accelerator.is_main_process:
        folder.path.mkdir(parents=True, exist_ok=True)
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


def _finish(trainer: Trainer, model: PreTrainedModel, to_model: ToModel, pairs: PairDataset) -> None:
    """Write the finished model and its pictures into the run folder."""
    folder = trainer.folder.path
    final = folder / "final"
    with writing(folder):
        with atomic_dir(final) as aside:
            model.save_pretrained(aside)
            trainer.processor.save_pretrained(aside)
            draw_pictures(aside, model, to_model, pairs, trainer.state.step)
        for path in final.iterdir():  # all are complete; each is moved in one step
            path.replace(folder / path.name)
        final.rmdir()
    draw_progress(trainer.folder)


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
        "model": f"{config.model.model} ({config.model.model_type}), {millions:.2f} M parameters, "
        f"{model.image_size} px, patches of {model.patch_size} px, {model.mask_ratio:.0%} masked",
        "device": _device(trainer.accelerator),
        "precision": str(precision),
        "steps": f"{train.max_steps:,} of {train.train_batch_size} pairs",
        "learning rate": f"{learning_rate_report(train)} after {train.warmup:,} steps of warm-up",
        "settings": f"{', '.join(dict.fromkeys(config.origins.values()))}, defaults (see config.yaml for each one)",
        "run folder": str(config.output_dir),
    }
    if (num_frames := frames_seen(life, pairs)) < len(life):
        lines["hours"] = f"training uses only the first {duration(seconds[num_frames])}, {num_frames:,} frames"
    if MEASURED in config.origins.values():
        lines["motion"] = str(measure_motion(life))
    if validation_pairs and type(validation_pairs.pairing) is not type(train_pairs.pairing):
        lines["validation"] = f"{validation_pairs.pairing}: the held-out stretches have no {pairs.pairing} pairs"
    lines["pictures"] = f"in {config.output_dir}/pictures before the first step, after 100 steps, 200, 400 ..."
    if why := why_no_pictures(model):
        lines["pictures"] = f"none: {why}"
    if checkpoint or config.start.resume:
        lines["continues from"] = str(checkpoint or "the beginning: the run folder has no checkpoint yet")
    return _table(lines)


def _device(accelerator: Accelerator) -> str:
    kind = accelerator.device.type
    device = torch.cuda.get_device_name() if kind == "cuda" else f"{kind}, threads: {torch.get_num_threads()}"
    shards = ", model in shards (FSDP2)," if accelerator.is_fsdp2 else ""
    return device if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes{shards} on {device}"


def end_report(config: RunConfig, trainer: Trainer, seconds: float) -> str:
    """The table that a run prints at its end, and what to do next."""
    folder, skipped_steps = trainer.folder, trainer.state.skipped_steps
    last = {name: value for line in read_metrics(folder.metrics) for name, value in line.items()}
    losses = {"training": last.get("loss"), "validation": last.get("val_loss")}
    other = "sim_2" if config.life_name == "sim_1" else "sim_1"
    none = "never finite" if skipped_steps else "not logged"
    skipped = f"; {skipped_steps:,} of the steps were skipped, see {folder.metrics}" if skipped_steps else ""
    lines = {
        "done": f"{config.train.max_steps:,} steps in {duration(seconds)}{skipped}",
        "loss": ", ".join(f"{n} {x:.4f}" for n, x in losses.items() if x is not None) or none,
        "model": f'{folder.path}   (import singlelife; AutoModel.from_pretrained("{folder.path}"))',
    }
    if folder.progress.exists():
        lines["pictures"] = f"{folder.path}/*.png, and {folder.progress} for its progress"
    return (
        f"{_table(lines)}\nNext: train on another life, and see how far the two models agree about a third one's "
        "geometry:\n"
        f"  singlelife train --life {other}\n  singlelife cas {folder.path} runs/{other} --pairs sim_test"
    )


def _table(lines: dict[str, str]) -> str:
    return aligned([(f"  {name}", value) for name, value in lines.items()])
