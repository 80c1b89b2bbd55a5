"""One pretraining run from its settings to its pictures, top to bottom."""

import json
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import RunError
from singlelife.files import atomic_dir
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.resolve import life_reference, resolve_life
from singlelife.pretraining.arguments import FREE_ON_RESUME, RunConfig
from singlelife.pretraining.batches import StepSampler, ToModel, pair_datasets, train_loader
from singlelife.pretraining.callbacks import (
    CasReference,
    cas_on_the_way,
    pictures_on_the_way,
    start_trackers,
    title,
    track_pictures,
    validation,
)
from singlelife.pretraining.checkpoints import (
    TrainingState,
    check_same_sequence,
    load_moments,
    load_weights,
    read_state,
    starting_config,
    whole_model,
)
from singlelife.pretraining.device import configure_device, start_accelerator
from singlelife.pretraining.loop import Trainer, create_optimizer
from singlelife.pretraining.pictures import can_draw, draw_alignment, draw_pictures
from singlelife.pretraining.publishing import adopt, checkpoint_from_hub, forget, start_publisher
from singlelife.pretraining.reports import dry_run, end_report, learning_rate_report, start_report
from singlelife.pretraining.run_folder import RunFolder, life_facts, read_metrics, write_text, writing

_VERSIONS = ("singlelife", "torch", "transformers", "accelerate")


def pretrain(config: RunConfig) -> int:
    """Pretrain one model on one life and write its run folder (see `run_folder.py`).

    Returns:
        The exit code: 0, or 128 + the number of the signal that stopped the run after it saved a checkpoint.

    Raises:
        SingleLifeError: whatever the user can act on, as early as it is known.
    """
    try:
        return _run(config)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"The device has too little memory ({str(error).splitlines()[0]}). Two flags help and keep the losses: "
            "more --gradient-accumulation-steps, or --gradient-checkpointing all."
        ) from error


def _run(config: RunConfig) -> int:
    start = time.perf_counter()
    disable_progress_bar()  # of transformers, at every save; the run has its own
    folder = RunFolder(config.output_dir)
    checkpoint = _checkpoint_to_resume(folder, config)
    state = read_state(checkpoint) if checkpoint else TrainingState()
    model_config = starting_config(config.model)
    precision = configure_device(config.train, model_config, state)
    train = replace(config.train, mixed_precision=precision.name, attention=precision.attention)
    config = replace(config, train=train)
    accelerator = start_accelerator(train, folder)
    publisher = None
    if accelerator.is_main_process and not config.start.dry_run:
        publisher = start_publisher(config.hub, config.life_name, folder)
    sampler = StepSampler(
        state.step,
        train.max_steps,
        train.train_batch_size,
        train.gradient_accumulation_steps,
        accelerator.num_processes,
        accelerator.process_index,
    )

    data = _read_data(config, accelerator, state, model_config)
    if came_from := data.life.metadata.get("hub"):  # so that the run's config says which frames it saw
        config = replace(config, life=replace(config.life, life=f"{came_from['repo_id']}@{came_from['revision']}"))
    sequence = _sequence(config, data, model_config)
    if checkpoint:
        check_same_sequence(state, sequence, checkpoint)
    state.sequence = sequence
    size = data.train.image_size
    processor = CroCoImageProcessor(size={"height": size, "width": size})
    to_model = ToModel(accelerator.device, tuple(processor.image_mean), tuple(processor.image_std))
    reference = None
    if config.cas.cas_reference is not None and accelerator.is_main_process:
        reference = CasReference.of(config, processor, model_config, str(accelerator.device))

    trainer = _trainer(config, accelerator, folder, state, checkpoint, model_config, processor, to_model)
    loader = train_loader(data.train, sampler, train.dataloader_num_workers, accelerator.device)
    accelerator.print(start_report(config, data.train, data.validation, trainer, precision, checkpoint))
    if config.start.dry_run:
        accelerator.print(dry_run(trainer, loader))
        accelerator.end_training()
        return 0
    _open_folder(trainer, config, checkpoint, data.life)
    _add_callbacks(trainer, config, data, to_model, reference, sampler.local_batch_size)
    trainer.saved = publisher.offer if publisher else None
    with publisher or nullcontext():
        stopped_by = trainer.train(loader)
    whole = whole_model(trainer.model, accelerator)
    if whole is not None and accelerator.is_main_process:
        if stopped_by:
            print(
                f"Stopped by {signal.Signals(stopped_by).name} after step {state.step} of {train.max_steps}; saved "
                f"{folder.checkpoint_path(state.step)}. Go on with the same command and --resume."
            )
        else:
            _finish(trainer, whole, to_model, data, reference)
            print(end_report(config, folder, time.perf_counter() - start, state.skipped_steps))
        if publisher:
            print(publisher.finish(hurry=bool(stopped_by)))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 128 + stopped_by if stopped_by else 0


@dataclass(frozen=True)
class _Data:
    """A life, the pairs to train on, and those of held-out stretches (None where none are held out)."""

    life: PreparedLife
    train: PairDataset
    validation: PairDataset | None

    @property
    def pictured(self) -> PairDataset:
        """The pairs to draw pictures of."""
        return self.validation or self.train


def _checkpoint_to_resume(folder: RunFolder, config: RunConfig) -> Path | None:
    """The checkpoint to go on from, or None to start from the beginning.

    Raises:
        RunError: the folder holds another run.
        HubError: the checkpoint is to come from the Hub, and cannot.
    """
    start = config.start
    if start.resume:
        return folder.latest_checkpoint()
    if start.resume_from == "hub":
        return checkpoint_from_hub(config, folder)
    checkpoint = Path(start.resume_from) if start.resume_from else None
    is_of_this_run = checkpoint is not None and checkpoint.resolve().parent == folder.path.resolve()
    if folder.holds_a_run() and not (is_of_this_run or start.overwrite_output_dir or start.dry_run):
        raise RunError(
            f"{folder.path} already holds a run. Go on with it (--resume), delete it (--overwrite-output-dir) or "
            "write elsewhere (--output-dir)."
        )
    return checkpoint


def _read_data(config: RunConfig, accelerator: Accelerator, state: TrainingState, model: CroCoConfig) -> _Data:
    """The life, prepared or downloaded now if it has not been before, and its pairs.

    A resumed run of a life on the Hub takes the commit that it began with, if the user names none.

    Raises:
        LifeError, HubError: the life or such pairs cannot be had.
    """
    progress, life = accelerator.is_main_process, config.life.life
    assert life, "parse_arguments makes sure of it"
    reference, before = life_reference(life, config.life.video), str(state.sequence.get("life"))
    if reference.kind == "hub" and reference.revision is None and before.startswith(f"{reference.where}@"):
        life = before
    with accelerator.main_process_first():
        prepared = resolve_life(
            life,
            videos=config.life.video,
            cache_dir=config.life.cache_dir,
            num_workers=config.life.preprocessing_workers,
            strict=config.life.strict,
            progress=progress,
        )
        return _Data(prepared, *pair_datasets(prepared, config.pairs, config.train, model, progress=progress))


def _sequence(config: RunConfig, data: _Data, model_config: CroCoConfig) -> dict[str, Any]:
    """All that the sequence of losses depends on."""
    settings = {name: value for name, value in config.to_dict().items() if name not in FREE_ON_RESUME}
    if not data.life.metadata.get("hub"):
        settings["life"] = data.life.name  # wherever its folder is; its fingerprint tells whether it is the same
    own_fields = CroCoConfig().to_dict().keys() - PreTrainedConfig().to_dict().keys()
    settings["learning_rate"] = config.train.peak_learning_rate  # however it was given
    settings.pop("base_learning_rate")
    model = {name: value for name, value in sorted(model_config.to_dict().items()) if name in own_fields}
    sequence = settings | {"life_fingerprint": data.life.metadata["fingerprint"], "model_config": model}
    if data.train.pairing.fingerprint is not None:  # of poses, which may be made again and come out differently
        sequence["pair_table"] = data.train.pairing.fingerprint
    return json.loads(json.dumps(sequence))  # as a checkpoint gives it back


def _trainer(
    config: RunConfig,
    accelerator: Accelerator,
    folder: RunFolder,
    state: TrainingState,
    checkpoint: Path | None,
    model_config: CroCoConfig,
    processor: CroCoImageProcessor,
    to_model: ToModel,
) -> Trainer:
    """The model and its optimiser as they were at `state.step`, ready for the next one.

    Raises:
        CheckpointError, RunError: the checkpoint cannot be read.
    """
    train = config.train
    set_seed(train.seed)
    weights = checkpoint or Path(config.model.model)
    model = load_weights(weights, model_config) if weights.is_dir() else CroCoForPreTraining(model_config)
    model.set_attn_implementation(train.attention)
    recompute(model, train.gradient_checkpointing)
    if train.torch_compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, create_optimizer(model, train, accelerator.device))
    if checkpoint:
        load_moments(checkpoint, model, optimizer.optimizer)
        if accelerator.scaler is not None and state.grad_scaler is not None:
            accelerator.scaler.load_state_dict(state.grad_scaler)
    coloured = replace(to_model, color_jitter=config.pairs.color_jitter, seed=train.seed)
    return Trainer(train, accelerator, folder, state, model, optimizer, processor, coloured)


def recompute(model: CroCoForPreTraining, blocks: str) -> None:
    """Let blocks keep only their inputs for the backward pass (Chen et al., 2016), which runs them forward once more.

    Args:
        blocks: `none`, `encoder` (its blocks see both views), `decoder` or `all`.
    """
    parts = {"encoder": (model.croco.encoder,), "decoder": (model.croco.decoder,), "all": (model,)}
    for part in parts.get(blocks, ()):
        # By the name that transformers 5.23 gave it where there is one; the older name warns there.
        enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def _open_folder(trainer: Trainer, config: RunConfig, checkpoint: Path | None, life: PreparedLife) -> None:
    """Make the run folder what it was at this step, with the settings of this run, and start the trackers."""
    folder, accelerator, step = trainer.folder, trainer.accelerator, trainer.state.step
    if accelerator.is_main_process:
        if folder.holds_a_run() and not config.start.resumes:
            folder.remove_run()  # asked for by --overwrite-output-dir, and nothing can go wrong any more
        folder.path.mkdir(parents=True, exist_ok=True)
        adopt(folder, checkpoint)
        folder.rewind(step)
        write_text(folder.life, json.dumps(life_facts(life), indent=2) + "\n")
        if not config.train.keep_best:
            folder.best.unlink(missing_ok=True)
        folder.write_config(
            config.to_dict(),
            f"Written by a run with {', '.join(f'{name} {version(name)}' for name in _VERSIONS)}.",
            "Start another with: --config config.yaml",
            f"Learning rate at its peak: {learning_rate_report(config.train)}",
        )
    accelerator.wait_for_everyone()
    forget(folder)
    if config.train.report_to:
        start_trackers(accelerator, config.to_dict(), folder, step)


def _add_callbacks(
    trainer: Trainer,
    config: RunConfig,
    data: _Data,
    to_model: ToModel,
    reference: CasReference | None,
    batch_size: int,
) -> None:
    """Have the trainer validate, draw and compare between its steps, and compare now if it has made none."""
    if data.validation:
        trainer.callbacks.append(validation(trainer, data.validation, to_model, batch_size))
    if config.train.picture_steps and can_draw():
        trainer.callbacks.append(pictures_on_the_way(trainer, to_model, data.pictured, data.life.name))
    if config.cas.cas_reference is not None:
        trainer.callbacks.append(cas_on_the_way(trainer, reference, config.cas.cas_steps))
        if not trainer.state.step:
            trainer.log(trainer.callbacks[-1].act())


def _finish(
    trainer: Trainer, model: CroCoForPreTraining, to_model: ToModel, data: _Data, reference: CasReference | None
) -> None:
    """Write the finished model and its pictures into the run folder, and report the pictures to trackers."""
    folder, step = trainer.folder, trainer.state.step
    name, final = title(data.life.name, step), folder.path / "final"
    with writing(folder.path):
        with atomic_dir(final) as aside:
            model.save_pretrained(aside)
            trainer.processor.save_pretrained(aside)
            pictures = draw_pictures(aside, model, to_model, data.pictured, name)
            alignment = aside / "alignment.png"
            if reference is not None and draw_alignment(alignment, read_metrics(folder.metrics), name, reference.name):
                pictures["alignment"] = alignment
        for path in final.iterdir():  # all of them complete; each takes its place in one step
            path.replace(folder.path / path.name)
        final.rmdir()
    track_pictures(trainer.accelerator, {n: folder.path / path.name for n, path in pictures.items()}, step)
