"""The validation loss and pictures between the steps of a run, and its trackers."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from singlelife.lives.pairs.dataset import PairDataset
from singlelife.pretraining.batches import ToModel
from singlelife.pretraining.checkpoints import whole_model
from singlelife.pretraining.loop import Callback, Trainer
from singlelife.pretraining.pictures import draw_pictures, draw_progress, why_no_pictures
from singlelife.pretraining.run_folder import RunFolder, writing_folder

_FIRST_PICTURES = 100  # steps before a new run draws its second pictures; then after twice as many, and so on


def callbacks(
    trainer: Trainer, to_model: ToModel, pairs: PairDataset, held_out: PairDataset | None
) -> Iterator[Callback]:
    """The callbacks that the settings ask for. A new run draws pictures now, before its first step."""
    if held_out:
        yield _validation(trainer, held_out, to_model)
    config = trainer.accelerator.unwrap_model(trainer.model).config
    if trainer.settings.picture_steps and not why_no_pictures(config):
        yield (pictures := _pictures(trainer, to_model, held_out or pairs))
        if not trainer.state.step:
            pictures.act()


def _validation(trainer: Trainer, pairs: PairDataset, to_model: ToModel) -> Callback:
    """The mean loss on the validation pairs, with the same crops and masks each time."""
    model, accelerator, train = trainer.model, trainer.accelerator, trainer.settings
    batch_size = train.train_batch_size // (train.gradient_accumulation_steps * accelerator.num_processes)

    @torch.no_grad()
    def measure() -> dict[str, Any]:
        total = torch.zeros((), dtype=torch.float64)
        model.eval()
        for start in range(0, len(pairs), batch_size * accelerator.num_processes):
            first = start + accelerator.process_index * batch_size
            indices = range(first, min(first + batch_size, len(pairs)))
            # All processes make the same number of forward passes. One that has no pairs left repeats one and adds 0.
            with accelerator.autocast():
                loss = model(**to_model(pairs.__getitems__(indices or [0]))).loss
            total += len(indices) * loss.double().cpu()
        model.train()
        mean = accelerator.reduce(total.float().to(accelerator.device), "sum").item() / len(pairs)
        return {"val_loss": mean}

    return Callback(train.eval_steps, measure)


def _pictures(trainer: Trainer, to_model: ToModel, pairs: PairDataset) -> Callback:
    """Draw the current model into the run folder's `pictures`. The finished model is drawn into the run folder."""
    state, folder, accelerator = trainer.state, trainer.folder, trainer.accelerator
    every = trainer.settings.picture_steps

    def draw() -> dict[str, Any]:
        doublings = state.step // _FIRST_PICTURES
        is_early = state.step < every and state.step == doublings * _FIRST_PICTURES and doublings.bit_count() < 2
        if state.step == trainer.settings.max_steps or (state.step % every and not is_early):
            return {}
        if (whole := whole_model(trainer.model, accelerator)) is not None and accelerator.is_main_process:
            with writing_folder(folder.pictures / f"step-{state.step}") as aside:
                draw_pictures(aside, whole, to_model, pairs, state.step)
            draw_progress(folder)
            tqdm.write(f"Pictures after {state.step:,} steps: {folder.pictures / f'step-{state.step}'}/*.png")
        accelerator.wait_for_everyone()
        return {}

    return Callback(1, draw)


def start_trackers(accelerator: Accelerator, settings: dict[str, Any], folder: RunFolder, step: int) -> None:
    """Start the trackers under the run folder's name, from `step` on.

    A resumed run continues its record if the tracker can: TensorBoard drops entries from after the checkpoint, and
    trackio appends to the run with that name. wandb starts another run with the same name, unless its own environment
    variables say otherwise.
    """
    shown = {name: str(value) if isinstance(value, list) else value for name, value in settings.items()}
    accelerator.init_trackers(
        "singlelife",
        config={name: value for name, value in shown.items() if value is not None},
        init_kwargs={
            "tensorboard": {"purge_step": step + 1} if step else {},
            "trackio": {"name": folder.path.name, "resume": "allow" if step else "never", "embed": False},
            "wandb": {"name": folder.path.name, "dir": str(folder.path)},
        },
    )
