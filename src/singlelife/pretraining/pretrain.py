"""One pretraining run from its settings to its pictures, top to bottom."""

import json
import os
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list, parse_flag_from_env, set_seed
from transformers import PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import RunError
from singlelife.lives.pairs.pair_dataset import PairDataset
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.resolve import life_reference, resolve_life
from singlelife.pretraining.arguments import FREE_ON_RESUME, RunArguments, TrainArguments
from singlelife.pretraining.batches import StepSampler, ToModel, pair_datasets, train_loader
from singlelife.pretraining.checkpoints import TrainingState, check_same_sequence, load_moments, read_state
from singlelife.pretraining.optimization import create_optimizer
from singlelife.pretraining.pictures import draw_cross_attention, draw_reconstruction
from singlelife.pretraining.precision import Precision, choose_precision
from singlelife.pretraining.progress import Stopwatch, table
from singlelife.pretraining.run_folder import RunFolder, complete_or_absent, publish, read_metrics
from singlelife.pretraining.starting_model import load_weights, starting_config, starting_model
from singlelife.pretraining.trainer import Trainer
from singlelife.units import duration

_LOSSES = {"training": "loss", "validation": "val_loss"}  # as printed: as in the metrics
_VERSIONS = ("singlelife", "torch", "transformers", "accelerate")


def pretrain(arguments: RunArguments) -> int:
    """Pretrain one model on one life and write its run folder (see `run_folder.py`).

    Returns:
        The exit code: 0, or 128 + the number of the signal that stopped the run after it saved a checkpoint.

    Raises:
        SingleLifeError: whatever the user can act on, as early as it is known.
    """
    watch, train = Stopwatch(), arguments.train
    disable_progress_bar()  # of transformers, at every save; the run has its own
    folder = RunFolder(arguments.output_dir)
    checkpoint = _checkpoint_to_resume(folder, train)
    state = read_state(checkpoint) if checkpoint else TrainingState()
    config = starting_config(arguments.model)
    image_size = config.grid_size[0] * config.patch_size  # views are square
    precision = _settle_device(train, config, state)
    accelerator = _start_accelerator(train, folder)
    sampler = StepSampler(
        state.step,
        train.max_steps,
        train.train_batch_size,
        train.gradient_accumulation_steps,
        accelerator.num_processes,
        accelerator.process_index,
    )

    with accelerator.main_process_first():
        life = resolve_life(
            _pinned(arguments, state),
            videos=arguments.life.video,
            cache_dir=arguments.life.cache_dir,
            num_workers=arguments.life.preprocessing_workers,
            strict=arguments.life.strict,
            progress=accelerator.is_main_process,
        )
        train_pairs, validation_pairs = pair_datasets(
            life,
            arguments.pairs,
            seed=train.seed,
            batch_size=train.train_batch_size,
            num_pairs=train.max_steps * train.train_batch_size,
            num_validation_pairs=train.eval_pairs,
            image_size=image_size,
            patch_size=config.patch_size,
            mask_ratio=config.mask_ratio,
            progress=accelerator.is_main_process,
        )
    if came_from := life.metadata.get("hub"):  # so that the run's config says which frames it saw
        arguments.life.life = f"{came_from['repo_id']}@{came_from['revision']}"
    sequence = _sequence(arguments, life, train_pairs, config)
    if checkpoint:
        check_same_sequence(state, sequence, checkpoint)
    state.sequence = sequence

    set_seed(train.seed)
    model = load_weights(checkpoint, config) if checkpoint else starting_model(arguments.model, config)
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if train.torch_compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, create_optimizer(model, train, accelerator.device))
    if checkpoint:
        load_moments(checkpoint, model, optimizer.optimizer)
        if accelerator.scaler is not None and state.grad_scaler is not None:
            accelerator.scaler.load_state_dict(state.grad_scaler)
    processor = CroCoImageProcessor(size={"height": image_size, "width": image_size})
    mean, std = tuple(processor.image_mean), tuple(processor.image_std)

    if accelerator.is_main_process:
        if folder.holds_a_run() and not train.resume:
            folder.remove_run()  # asked for by --overwrite-output-dir, and nothing can go wrong any more
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.rewind(state.step)
        folder.write_config(arguments.to_dict(), {name: version(name) for name in _VERSIONS})
        print(_start_report(arguments, life, train_pairs, validation_pairs, model, accelerator, precision, checkpoint))
    accelerator.wait_for_everyone()
    if train.report_to:
        accelerator.init_trackers("singlelife", config=_without_lists(arguments.to_dict()))

    trainer = Trainer(
        train,
        accelerator,
        folder,
        state,
        model,
        optimizer,
        processor,
        train_to_model=ToModel(accelerator.device, mean, std, arguments.pairs.color_jitter, train.seed),
        validation_to_model=ToModel(accelerator.device, mean, std),
        validation_pairs=validation_pairs,
    )
    loader = train_loader(train_pairs, sampler, train.dataloader_num_workers, accelerator.device)
    stopped_by = trainer.train(loader)
    if accelerator.is_main_process:
        if stopped_by:
            print(
                f"Stopped by {signal.Signals(stopped_by).name} after step {state.step} of {train.max_steps}; saved "
                f"{folder.checkpoint_path(state.step)}. Go on with the same command and --resume."
            )
        else:
            _finish(folder, accelerator.unwrap_model(model), trainer, validation_pairs or train_pairs, life.name)
            print(_end_report(arguments, folder, watch(), state.skipped_steps))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 128 + stopped_by if stopped_by else 0


def _finish(folder: RunFolder, model: CroCoForPreTraining, trainer: Trainer, pairs: PairDataset, life: str) -> None:
    """Write the finished model and its pictures into the run folder."""
    model.eval()
    with complete_or_absent(folder.path / "final") as aside:
        model.save_pretrained(aside)
        trainer.processor.save_pretrained(aside)
    publish(folder.path / "final", folder.path)
    title = f"{life} after {trainer.state.step:,} steps"
    draw_reconstruction(folder.path / "reconstruction.png", model, trainer.validation_to_model, pairs, title)
    draw_cross_attention(folder.path / "cross_attention.png", model, trainer.validation_to_model, pairs, title)


def _checkpoint_to_resume(folder: RunFolder, train: TrainArguments) -> Path | None:
    """The checkpoint to go on from, or None to start from the beginning.

    Raises:
        RunError: the folder holds another run.
    """
    if train.resume and train.overwrite_output_dir:
        raise RunError("--resume goes on with a run and --overwrite-output-dir deletes it: pass one of them.")
    if train.resume == "latest":
        return next(reversed(folder.checkpoints().values()), None)
    checkpoint = Path(train.resume) if train.resume else None
    is_of_this_run = checkpoint is not None and checkpoint.resolve().parent == folder.path.resolve()
    if folder.holds_a_run() and not is_of_this_run and not train.overwrite_output_dir:
        raise RunError(
            f"{folder.path} already holds a run. Go on with it (--resume), delete it (--overwrite-output-dir) or "
            "write elsewhere (--output-dir)."
        )
    return checkpoint


def _settle_device(train: TrainArguments, config: CroCoConfig, state: TrainingState) -> Precision:
    """Put every core of the machine to work where it has no GPU, and settle on a number format.

    All processes take the main one's choice; a run that goes on keeps its own.
    """
    process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # as Accelerator does it
    if process.device.type == "cpu":
        torch.set_num_threads(train.cpu_threads or _cpu_threads(process.num_processes))
    if train.mixed_precision != "auto":
        return Precision(train.mixed_precision, "as asked for")
    if state.step:
        train.mixed_precision = state.sequence["mixed_precision"]
        return Precision(train.mixed_precision, "as before")
    share = train.train_batch_size // (train.gradient_accumulation_steps * process.num_processes)
    choice = [choose_precision(config, max(1, share), process.device) if process.is_main_process else None]
    (precision,) = broadcast_object_list(choice)
    train.mixed_precision = precision.name
    return precision


def _pinned(arguments: RunArguments, state: TrainingState) -> str:
    """The life as the user names it; in a resumed run of a data set on the Hub, the commit that the run began with."""
    assert arguments.life.life, "parse_arguments makes sure of it"
    reference = life_reference(arguments.life.life, arguments.life.video)
    before = str(state.sequence.get("life"))
    if reference.kind == "hub" and reference.revision is None and before.startswith(f"{reference.where}@"):
        return before
    return arguments.life.life


def _start_accelerator(train: TrainArguments, folder: RunFolder) -> Accelerator:
    """Accelerate, or an error that says what of the settings it cannot have."""
    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in train.report_to or []:
        if tracker not in available:
            raise RunError(
                f"--report-to {tracker}: not a tracker that is installed here; those are "
                f"{', '.join(available) or 'none'}. Install it, for example with pip install tensorboard."
            )
    try:
        accelerator = Accelerator(
            mixed_precision=train.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=train.gradient_accumulation_steps),
            log_with=train.report_to,
            project_dir=folder.path,
        )
    except ValueError as error:  # a number format that the device or the launcher's settings cannot have
        raise RunError(f"Accelerate cannot start with these settings: {error}") from error
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "fp16":
        raise RunError("fp16 needs a GPU; on a CPU pass --mixed-precision no, or bf16 where it is fast.")
    return accelerator


def _cpu_threads(num_processes: int) -> int:
    """Threads for this process: what the user's OMP_NUM_THREADS says, or a fair share of the cores.

    `accelerate launch` and `torchrun` export OMP_NUM_THREADS=1 where the user has said nothing, which would leave all
    cores but one idle; a 1 of theirs is not taken for the user's.
    """
    launched = bool(os.environ.keys() & {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"})
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said and not (launched and said == "1"):
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)))


def _sequence(
    arguments: RunArguments, life: PreparedLife, train_pairs: PairDataset, config: CroCoConfig
) -> dict[str, Any]:
    """All that the sequence of losses depends on."""
    settings = {name: value for name, value in arguments.to_dict().items() if name not in FREE_ON_RESUME}
    own_fields = CroCoConfig().to_dict().keys() - PreTrainedConfig().to_dict().keys()
    model = {name: value for name, value in sorted(config.to_dict().items()) if name in own_fields}
    sequence = settings | {"life_fingerprint": life.metadata["fingerprint"], "model_config": model}
    if train_pairs.pairing.fingerprint is not None:  # of poses, which may be made again and come out differently
        sequence["pair_table"] = train_pairs.pairing.fingerprint
    return json.loads(json.dumps(sequence))  # as a checkpoint gives it back


def _start_report(
    arguments: RunArguments,
    life: PreparedLife,
    train_pairs: PairDataset,
    validation_pairs: PairDataset | None,
    model: torch.nn.Module,
    accelerator: Accelerator,
    precision: Precision,
    checkpoint: Path | None,
) -> str:
    train, pairs = arguments.train, arguments.pairs
    config = accelerator.unwrap_model(model).config
    hours = sum(np.ptp(life.timestamps[life.video_index == video]) for video in np.unique(life.video_index)) / 3600
    parameters = sum(parameter.numel() for parameter in model.parameters())
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type
    threads = f", threads: {torch.get_num_threads()}" if accelerator.device.type == "cpu" else ""
    processes = f"{accelerator.num_processes} processes on " if accelerator.num_processes > 1 else ""
    held_out = f"{pairs.validation_fraction:.0%} held out" if validation_pairs else "none held out"
    lines = {
        "life": f"{life.name}: {len(life):,} frames, {duration(hours * 3600)} of video, {held_out}",
        "pairs": f"{train_pairs.pairing}, crops of {pairs.crop_area_min:.0%} to {pairs.crop_area_max:.0%}",
        "model": f"{arguments.model.model}, {parameters / 1e6:.2f} M parameters, {config.image_size} px, "
        f"patches of {config.patch_size} px, {config.mask_ratio:.0%} masked",
        "device": f"{processes}{device}{threads}",
        "precision": f"{'fp32' if precision.name == 'no' else precision.name} ({precision.reason})",
        "steps": f"{train.max_steps:,} of {train.train_batch_size} pairs",
        "run folder": str(arguments.output_dir),
    }
    if validation_pairs and type(validation_pairs.pairing) is not type(train_pairs.pairing):
        lines["validation"] = (
            f"{validation_pairs.pairing}: the held-out stretches hold no {pairs.pairing} pairs of their own"
        )
    if checkpoint:
        lines["going on from"] = str(checkpoint)
    elif train.resume:
        lines["going on from"] = "the beginning: the run folder has no checkpoint yet"
    return table(lines)


def _end_report(arguments: RunArguments, folder: RunFolder, seconds: float, skipped_steps: int) -> str:
    last = {name: value for line in read_metrics(folder.metrics) for name, value in line.items()}
    losses = [f"{name} {last[key]:.4f}" for name, key in _LOSSES.items() if key in last]
    other = "sim_2" if arguments.life_name == "sim_1" else "sim_1"
    skipped = f"; {skipped_steps:,} of the steps were skipped, see {folder.metrics}" if skipped_steps else ""
    summary = table(
        {
            "done": f"{arguments.train.max_steps:,} steps in {duration(seconds)}{skipped}",
            "loss": ", ".join(losses) or "never finite",
            "model": f'{folder.path}   (import singlelife; AutoModel.from_pretrained("{folder.path}"))',
            "pictures": f"{folder.path / 'reconstruction.png'}, {folder.path / 'cross_attention.png'}",
        }
    )
    return (
        f"{summary}\nNext: train another life, then see how far the two agree about the geometry of a third:\n"
        f"  accelerate launch train.py --life {other}\n"
        f"  singlelife cas {folder.path} runs/{other} --pairs sim_test"
    )


def _without_lists(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as trackers take them: no None, no lists."""
    return {
        name: str(value) if isinstance(value, list) else value for name, value in settings.items() if value is not None
    }
