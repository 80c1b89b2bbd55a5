"""What a run does between its steps: the validation loss, pictures, CAS with another model; and trackers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from singlelife.alignment.comparison import coarser, compare_extractions
from singlelife.alignment.extraction import Extraction, extract
from singlelife.alignment.models import AttentionMapProvider, CrossAttention, load_model
from singlelife.alignment.pair_sets import VIEWS, resolve_pair_set
from singlelife.alignment.settings import CasConfig
from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import CheckpointError
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.pretraining.arguments import RunConfig
from singlelife.pretraining.batches import ToModel
from singlelife.pretraining.checkpoints import whole_model
from singlelife.pretraining.loop import Callback, Trainer
from singlelife.pretraining.pictures import can_draw, draw_pictures
from singlelife.pretraining.run_folder import RunFolder, writing_folder

_K = 5  # of the top k, as everywhere


def callbacks(
    trainer: Trainer,
    config: RunConfig,
    to_model: ToModel,
    pairs: PairDataset,
    held_out: PairDataset | None,
    reference: "CasReference | None",
) -> Iterator[Callback]:
    """What the settings ask for: validate, draw, compare. A new run compares now, before its first step.

    Args:
        reference: in the main process; None in the others, which take part only where the model is in shards.
    """
    if held_out:
        yield _validation(trainer, held_out, to_model)
    if config.train.picture_steps and can_draw():
        yield _pictures(trainer, to_model, held_out or pairs)
    if config.cas.cas_reference is not None:
        compare = partial(_compare, trainer, reference)
        if not trainer.state.step:
            trainer.log(compare())
        yield Callback(config.cas.cas_steps, compare)


def _validation(trainer: Trainer, pairs: PairDataset, to_model: ToModel) -> Callback:
    """The mean loss on the validation pairs; the same pairs, crops and masks each time."""
    model, accelerator, train = trainer.model, trainer.accelerator, trainer.settings
    batch_size = train.train_batch_size // (train.gradient_accumulation_steps * accelerator.num_processes)

    @torch.no_grad()
    def measure() -> dict[str, Any]:
        total = torch.zeros((), dtype=torch.float64)
        model.eval()
        for start in range(0, len(pairs), batch_size * accelerator.num_processes):
            first = start + accelerator.process_index * batch_size
            indices = range(first, min(first + batch_size, len(pairs)))
            # Every process makes the same number of forward passes; one without pairs left repeats one for nothing.
            with accelerator.autocast():
                loss = model(**to_model(pairs.__getitems__(indices or [0]))).loss
            total += len(indices) * loss.double().cpu()
        model.train()
        mean = accelerator.reduce(total.float().to(accelerator.device), "sum").item() / len(pairs)
        return {"val_loss": mean}

    return Callback(train.eval_steps, measure)


def _pictures(trainer: Trainer, to_model: ToModel, pairs: PairDataset) -> Callback:
    """Draw the model as it is into the run folder's `pictures`; at its end the run has pictures of its own."""
    state, folder, accelerator = trainer.state, trainer.folder, trainer.accelerator

    def draw() -> dict[str, Any]:
        if state.step == trainer.settings.max_steps:
            return {}
        if (whole := whole_model(trainer.model, accelerator)) is not None and accelerator.is_main_process:
            with writing_folder(folder.pictures / f"step-{state.step}") as aside:
                draw_pictures(aside, whole, to_model, pairs, state.step)
        accelerator.wait_for_everyone()
        return {}

    return Callback(trainer.settings.picture_steps, draw)


def _compare(trainer: Trainer, reference: "CasReference | None") -> dict[str, Any]:
    whole = whole_model(trainer.model, trainer.accelerator)
    return reference.compare(whole) if reference is not None and whole is not None else {}


class CasReference:
    """What a model in training is compared with. The reference's own attention is computed once, at the start.

    Args:
        config: names the reference and the pairs.
        model: config of the model in training. CAS is on the coarser grid of the two models.
        processor: of the model in training.
        device: where it runs.

    Attributes:
        name: of reference and pairs, as metrics and pictures show it, without any path of this machine.

    Raises:
        SingleLifeError: the reference or the pairs are not there or cannot be used.
    """

    def __init__(self, config: RunConfig, model: CroCoConfig, processor: CroCoImageProcessor, device: str):
        assert config.cas.cas_reference, "there is nothing to compare with"
        reference = load_model(config.cas.cas_reference, device)
        life, _, views = config.cas.cas_pairs.rpartition("/")
        if not life or views not in VIEWS:
            life, views = config.cas.cas_pairs, VIEWS[0]
        self.pairs = resolve_pair_set(
            life,
            views=views,
            num_pairs=config.cas.cas_num_pairs,
            seed=0,
            image_size=max(processor.size["height"], reference.image_size),
            cache_dir=Path(config.life.cache_dir) if config.life.cache_dir else None,
        )
        self.name = f"{_short(reference.name)} on {self.pairs.name}"
        self._processor, self._device = processor, device
        self._grid = coarser([reference.grid, model.grid_size])
        self._reference = self._extract(reference)

    def compare(self, model: CroCoForPreTraining) -> dict[str, Any]:
        """The scores of a model, for the metrics. It is left in the mode it was in, and no random number is drawn.

        Returns:
            For each row of `singlelife.cas` about the model: `cas` for the raw score, else `cas_` and the metric; with
            `_low` and `_high` (95% interval) and `_chance`, where it has them. Also `cas_reference`, the name. Empty
            for a model whose attention is not finite.
        """
        was_training = model.training
        try:
            own = self._extract(
                CrossAttention("the model in training", "", model.croco, self._processor, self._device)
            )
        except CheckpointError:  # the training itself says so, and stops if it goes on
            return {}
        finally:
            model.train(was_training)
        found = compare_extractions({_K: own}, {_K: self._reference}, self.pairs, CasConfig(k=(_K,)))
        values: dict[str, Any] = {"cas_reference": self.name}
        for row in found.rows():
            if row.model == own.model:
                numbers = {"": row.value, "_low": row.low, "_high": row.high, "_chance": row.settings.get("chance")}
                name = "cas" if row.metric == "raw" else f"cas_{row.metric}"
                values |= {name + end: round(number, 6) for end, number in numbers.items() if number is not None}
        return values

    def _extract(self, model: AttentionMapProvider) -> Extraction:
        return extract(model, self.pairs, [_K], grid=self._grid, progress=False)[_K]


def _short(model: str) -> str:
    """What to call a model in metrics and pictures, which may be published: of a folder, no more than its own name."""
    if not Path(model).is_dir():
        return model
    path = Path(model).resolve()
    return f"{path.parent.name}/{path.name}" if path.name.startswith("checkpoint-") else path.name


def start_trackers(accelerator: Accelerator, settings: dict[str, Any], folder: RunFolder, step: int) -> None:
    """Begin to report, under the name of the run folder; `step` is where the run goes on, 0 for a new one.

    A run that goes on goes on there too where a tracker can: TensorBoard drops what came after the checkpoint, trackio
    appends to the run of that name; wandb gets another run of the same name, unless its own variables say otherwise.
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
