"""One pretraining run from its settings to its pictures, top to bottom."""

import json
import signal
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import RunError
from singlelife.lives.decoded import use_decoded_frames
from singlelife.lives.pairs.pair_dataset import PairDataset
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.resolve import life_reference, resolve_life
from singlelife.pretraining.alignment_curve import AlignmentCurve, draw_alignment
from singlelife.pretraining.arguments import FREE_ON_RESUME, RunArguments
from singlelife.pretraining.batches import StepSampler, ToModel, pair_datasets, train_loader
from singlelife.pretraining.checkpoints import TrainingState, check_same_sequence, load_moments, read_state
from singlelife.pretraining.device import configure_device, start_accelerator
from singlelife.pretraining.dry_run import dry_run, preparation_notice
from singlelife.pretraining.optimizer import create_optimizer, recompute
from singlelife.pretraining.pictures import draw_pictures
from singlelife.pretraining.progress import Stopwatch
from singlelife.pretraining.publishing import adopt, checkpoint_from_hub, forget, start_publisher
from singlelife.pretraining.reports import end_report, learning_rate_report, start_report
from singlelife.pretraining.resources import Resources
from singlelife.pretraining.run_folder import RunFolder, atomic_dir, life_facts, publish, read_metrics
from singlelife.pretraining.sharding import whole_model
from singlelife.pretraining.starting_model import load_weights, starting_config, starting_model
from singlelife.pretraining.trackers import start_trackers, track_pictures
from singlelife.pretraining.trainer import Periodic, Trainer
from singlelife.pretraining.validation import validation_loss
from singlelife.pretraining.watching import alignment_on_the_way, pictures_on_the_way, title

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
    checkpoint = _checkpoint_to_resume(folder, arguments)
    state = read_state(checkpoint) if checkpoint else TrainingState()
    config = starting_config(arguments.model)
    image_size = config.grid_size[0] * config.patch_size  # views are square
    precision = configure_device(train, config, state)
    accelerator = start_accelerator(train, folder)
    publisher = None
    if accelerator.is_main_process and not train.dry_run:
        publisher = start_publisher(arguments.hub, arguments.life_name, folder)
    sampler = StepSampler(
        state.step,
        train.max_steps,
        train.train_batch_size,
        train.gradient_accumulation_steps,
        accelerator.num_processes,
        accelerator.process_index,
    )

    if train.dry_run and accelerator.is_main_process and (notice := preparation_notice(arguments)):
        print(notice)
    with accelerator.main_process_first():
        life = resolve_life(
            _pinned(arguments, state),
            videos=arguments.life.video,
            cache_dir=arguments.life.cache_dir,
            num_workers=arguments.life.preprocessing_workers,
            strict=arguments.life.strict,
            progress=accelerator.is_main_process,
        )
        if arguments.life.decoded_frames:
            use_decoded_frames(life, progress=accelerator.is_main_process)
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

    processor = CroCoImageProcessor(size={"height": image_size, "width": image_size})
    curve = _alignment_curve(arguments, accelerator, processor, config, image_size)

    set_seed(train.seed)
    model = load_weights(checkpoint, config) if checkpoint else starting_model(arguments.model, config)
    model.set_attn_implementation(train.attention)
    recompute(model, train.gradient_checkpointing)
    resources = Resources.of(model, train, accelerator, sampler.local_batch_size)
    if train.torch_compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, create_optimizer(model, train, accelerator.device))
    if checkpoint:
        load_moments(checkpoint, model, optimizer.optimizer)
        if accelerator.scaler is not None and state.grad_scaler is not None:
            accelerator.scaler.load_state_dict(state.grad_scaler)
    to_model = ToModel(accelerator.device, tuple(processor.image_mean), tuple(processor.image_std))
    periodic = []
    if validation_pairs:
        measure = partial(validation_loss, model, validation_pairs, to_model, accelerator, sampler.local_batch_size)
        periodic.append(Periodic(train.eval_steps, lambda: {"val_loss": measure()}))
    trainer = Trainer(
        train,
        accelerator,
        folder,
        state,
        model,
        optimizer,
        processor,
        replace(to_model, color_jitter=arguments.pairs.color_jitter, seed=train.seed),
        periodic,
        saved=publisher.offer if publisher else None,
        utilization=resources.utilization,
    )
    loader = train_loader(train_pairs, sampler, train.dataloader_num_workers, accelerator.device)

    report = start_report(
        arguments, life, train_pairs, validation_pairs, model, accelerator, precision, checkpoint, resources.lines()
    )
    if train.dry_run:
        accelerator.print(report)
        accelerator.print(dry_run(trainer, loader, resources.memory.total))
        accelerator.end_training()
        return 0
    if accelerator.is_main_process:
        if folder.holds_a_run() and not (train.resume or train.resume_from):
            folder.remove_run()  # asked for by --overwrite-output-dir, and nothing can go wrong any more
        folder.path.mkdir(parents=True, exist_ok=True)
        adopt(folder, checkpoint)
        folder.rewind(state.step)
        folder.write_life(life_facts(life))
        if not train.keep_best:
            folder.best.unlink(missing_ok=True)
        folder.write_config(
            arguments.to_dict(),
            {name: version(name) for name in _VERSIONS},
            [f"Learning rate at its peak: {learning_rate_report(train)}"],
        )
        print(report)
    accelerator.wait_for_everyone()
    forget(folder)
    if train.report_to:
        start_trackers(accelerator, arguments.to_dict(), folder, state.step)

    pictured = validation_pairs or train_pairs
    if train.picture_steps:
        periodic.append(pictures_on_the_way(trainer, to_model, pictured, life.name))
    if arguments.alignment.cas_reference is not None:
        periodic.append(alignment_on_the_way(trainer, curve, arguments.alignment.cas_steps))
        if not state.step:
            trainer.log(periodic[-1].act())
    with publisher or nullcontext():
        stopped_by = trainer.train(loader)
    whole = whole_model(model, accelerator)
    if accelerator.is_main_process:
        if stopped_by:
            print(
                f"Stopped by {signal.Signals(stopped_by).name} after step {state.step} of {train.max_steps}; saved "
                f"{folder.checkpoint_path(state.step)}. Go on with the same command and --resume."
            )
        else:
            assert whole is not None, "the main process has it"
            pictures = _finish(folder, whole, processor, to_model, pictured, title(life.name, state.step), curve)
            track_pictures(accelerator, pictures, state.step)
            print(end_report(arguments, folder, watch(), state.skipped_steps))
        if publisher:
            print(publisher.finish(hurry=bool(stopped_by)))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 128 + stopped_by if stopped_by else 0


def _alignment_curve(
    arguments: RunArguments,
    accelerator: Accelerator,
    processor: CroCoImageProcessor,
    config: CroCoConfig,
    image_size: int,
) -> AlignmentCurve | None:
    """What the model in training is compared with, in the main process; None in others, or where nothing is asked for.

    Raises:
        SingleLifeError: the reference or the pairs cannot be had.
    """
    if arguments.alignment.cas_reference is None or not accelerator.is_main_process:
        return None
    cache_dir = Path(arguments.life.cache_dir) if arguments.life.cache_dir else None
    device = str(accelerator.device)
    return AlignmentCurve.of(arguments.alignment, processor, config.grid_size, image_size, device, cache_dir)


def _finish(
    folder: RunFolder,
    model: CroCoForPreTraining,
    processor: CroCoImageProcessor,
    to_model: ToModel,
    pairs: PairDataset,
    title: str,
    curve: AlignmentCurve | None,
) -> dict[str, Path]:
    """Write the finished model and its pictures into the run folder, and return those by name."""
    with atomic_dir(folder.path / "final") as aside:
        model.save_pretrained(aside)
        processor.save_pretrained(aside)
        pictures = draw_pictures(aside, model, to_model, pairs, title)
        alignment = aside / "alignment.png"
        if curve is not None and draw_alignment(alignment, read_metrics(folder.metrics), title, curve.name):
            pictures["alignment"] = alignment
    publish(folder.path / "final", folder.path)
    return {name: folder.path / path.name for name, path in pictures.items()}


def _checkpoint_to_resume(folder: RunFolder, arguments: RunArguments) -> Path | None:
    """The checkpoint to go on from, or None to start from the beginning.

    Raises:
        RunError: the folder holds another run.
        HubError: the checkpoint is to come from the Hub, and cannot.
    """
    train = arguments.train
    if (train.resume or train.resume_from) and train.overwrite_output_dir:
        raise RunError("--resume goes on with a run and --overwrite-output-dir deletes it: pass one of them.")
    if train.resume:
        return next(reversed(folder.checkpoints().values()), None)
    if train.resume_from == "hub":
        return checkpoint_from_hub(arguments, folder)
    checkpoint = Path(train.resume_from) if train.resume_from else None
    is_of_this_run = checkpoint is not None and checkpoint.resolve().parent == folder.path.resolve()
    if folder.holds_a_run() and not (is_of_this_run or train.overwrite_output_dir or train.dry_run):
        raise RunError(
            f"{folder.path} already holds a run. Go on with it (--resume), delete it (--overwrite-output-dir) or "
            "write elsewhere (--output-dir)."
        )
    return checkpoint


def _pinned(arguments: RunArguments, state: TrainingState) -> str:
    """The life as the user names it; in a resumed run of a data set on the Hub, the commit that the run began with."""
    assert arguments.life.life, "parse_arguments makes sure of it"
    reference = life_reference(arguments.life.life, arguments.life.video)
    before = str(state.sequence.get("life"))
    if reference.kind == "hub" and reference.revision is None and before.startswith(f"{reference.where}@"):
        return before
    return arguments.life.life


def _sequence(
    arguments: RunArguments, life: PreparedLife, train_pairs: PairDataset, config: CroCoConfig
) -> dict[str, Any]:
    """All that the sequence of losses depends on."""
    settings = {name: value for name, value in arguments.to_dict().items() if name not in FREE_ON_RESUME}
    if not life.metadata.get("hub"):
        settings["life"] = life.name  # wherever its folder is; its fingerprint tells whether it is the same
    own_fields = CroCoConfig().to_dict().keys() - PreTrainedConfig().to_dict().keys()
    settings["learning_rate"] = arguments.train.peak_learning_rate  # however it was given
    settings.pop("base_learning_rate")
    model = {name: value for name, value in sorted(config.to_dict().items()) if name in own_fields}
    sequence = settings | {"life_fingerprint": life.metadata["fingerprint"], "model_config": model}
    if train_pairs.pairing.fingerprint is not None:  # of poses, which may be made again and come out differently
        sequence["pair_table"] = train_pairs.pairing.fingerprint
    return json.loads(json.dumps(sequence))  # as a checkpoint gives it back
