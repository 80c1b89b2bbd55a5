"""What a run tells the trackers that it reports to, through Accelerate: numbers, and pictures where they take them."""

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from singlelife.pretraining.run_folder import RunFolder

_PROJECT = "singlelife"


def start_trackers(accelerator: Accelerator, settings: dict[str, Any], folder: RunFolder, step: int) -> None:
    """Begin to report, under the name of the run folder.

    A run that goes on goes on there too where a tracker can: TensorBoard drops what came after the checkpoint, trackio
    appends to the run of that name; wandb gets another run of the same name, unless its own variables say otherwise
    (`WANDB_RUN_ID`, `WANDB_RESUME`).

    Args:
        settings: of the run, shown with it.
        folder: of the run.
        step: that it goes on from, 0 for a new one.
    """
    accelerator.init_trackers(
        _PROJECT,
        config={
            name: str(value) if isinstance(value, list) else value
            for name, value in settings.items()
            if value is not None
        },
        init_kwargs={
            "tensorboard": {"purge_step": step + 1} if step else {},
            "trackio": {"name": folder.path.name, "resume": "allow" if step else "never", "embed": False},
            "wandb": {"name": folder.path.name, "dir": str(folder.path)},
        },
    )


def track(accelerator: Accelerator, values: dict[str, Any], step: int) -> None:
    """Report the numbers among `values`."""
    accelerator.log({name: value for name, value in values.items() if not isinstance(value, str)}, step=step)


def track_pictures(accelerator: Accelerator, pictures: dict[str, Path], step: int) -> None:
    """Report PNG files by name, to those trackers that take pictures; called in the main process."""
    for tracker in accelerator.trackers:
        images = {name: np.asarray(Image.open(path).convert("RGB")) for name, path in pictures.items()}
        if tracker.name == "tensorboard":
            for name, image in images.items():
                tracker.log_images({name: image[None]}, step=step, dataformats="NHWC")
            tracker.tracker.flush()
        elif tracker.name == "wandb":
            tracker.log_images({name: [image] for name, image in images.items()}, step=step)
        elif tracker.name == "trackio":
            import trackio

            tracker.log({name: trackio.Image(image) for name, image in images.items()}, step=step)
