"""What is done between the steps of a run to see what the model learns: pictures, and alignment with another model."""

from typing import Any

from singlelife.lives.pairs.dataset import PairDataset
from singlelife.pretraining.alignment_curve import AlignmentCurve
from singlelife.pretraining.batches import ToModel
from singlelife.pretraining.pictures import draw_pictures
from singlelife.pretraining.run_folder import atomic_dir
from singlelife.pretraining.sharding import whole_model
from singlelife.pretraining.trackers import track_pictures
from singlelife.pretraining.trainer import Periodic, Trainer


def title(life: str, step: int) -> str:
    """Of a picture."""
    return f"{life} after {step:,} steps"


def pictures_on_the_way(trainer: Trainer, to_model: ToModel, pairs: PairDataset, life: str) -> Periodic:
    """Draw the model as it is into the run folder's `pictures`; at its end the run has pictures of its own."""
    state, folder, accelerator = trainer.state, trainer.folder, trainer.accelerator

    def draw() -> dict[str, Any]:
        if state.step == trainer.arguments.max_steps:
            return {}
        whole = whole_model(trainer.model, accelerator)
        if accelerator.is_main_process:
            assert whole is not None, "the main process has it"
            where = folder.pictures_path(state.step)
            with atomic_dir(where) as aside:
                names = draw_pictures(aside, whole, to_model, pairs, title(life, state.step))
            track_pictures(accelerator, {name: where / path.name for name, path in names.items()}, state.step)
        accelerator.wait_for_everyone()
        return {}

    return Periodic(trainer.arguments.picture_steps, draw)


def alignment_on_the_way(trainer: Trainer, curve: AlignmentCurve | None, every: int) -> Periodic:
    """Measure the model as it is.

    Args:
        curve: in the main process; None in the others, which take part only where the model lies in shards.
    """

    def compare() -> dict[str, Any]:
        whole = whole_model(trainer.model, trainer.accelerator)
        return curve(whole) if curve is not None and whole is not None else {}

    return Periodic(every, compare)
