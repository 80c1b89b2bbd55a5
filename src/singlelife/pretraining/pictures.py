"""Pictures of what a model in training has learnt, always on the same validation pairs."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig

from singlelife.croco import CroCoConfig, CroCoForPreTraining
from singlelife.files import atomic_write
from singlelife.lives.pairs.dataset import PairDataset
from singlelife.pretraining.batches import ToModel
from singlelife.pretraining.run_folder import RunFolder, writing

_ROWS = 4  # pairs in a picture
_MARKS = ("#ff3b6b", "#ffb000", "#21d07a", "#3fa7ff")  # one colour per marked patch
_INK, _CELL, _DPI = "#222222", 1.9, 160  # the text's colour; inches per image; dots per inch
_GAP = 0.03  # around an image, as a share of its cell
_SHRINK, _FRAME_MS = 3, 1000  # how much smaller the animation is than the pictures; its milliseconds per step


def why_no_pictures(config: PreTrainedConfig) -> str:
    """The reason why a run with this config draws no pictures; empty if it draws some."""
    if not isinstance(config, CroCoConfig):
        return "they show how a target is completed from a source, which this model does not see"
    if find_spec("matplotlib") is None:
        return "matplotlib is not installed (pip install 'singlelife[plots]')"
    return ""


@torch.no_grad()
def draw_pictures(folder: Path, model: Any, to_model: ToModel, pairs: PairDataset, step: int) -> None:
    """Draw both pictures of the model into a folder, unless `why_no_pictures`. The model's mode does not change."""
    if why_no_pictures(model.config):
        return
    was_training = model.training
    torch.nn.Module.to(model, to_model.device)
    model.eval()
    batch = pairs.__getitems__([row * len(pairs) // _ROWS for row in range(_ROWS)])
    for draw in (draw_reconstruction, draw_cross_attention):
        figure = draw(model, to_model, batch, f"{pairs.life.name} after {step:,} steps")
        figure.savefig(folder / f"{draw.__name__.removeprefix('draw_')}.png", dpi=_DPI)
    model.train(was_training)


def draw_progress(folder: RunFolder) -> None:
    """Combine a run's pictures so far into an animation, if there are pictures of at least two steps.

    Raises:
        RunError: the file cannot be written.
    """
    drawn = [*folder.picture_folders().values(), folder.path]
    names = ("reconstruction.png", "cross_attention.png")
    frames = []
    for place in drawn:
        if all((place / name).is_file() for name in names):
            pictures = [Image.open(place / name).convert("RGB").reduce(_SHRINK) for name in names]
            frames.append(Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height), "white"))
            frames[-1].paste(pictures[0], (0, 0))
            frames[-1].paste(pictures[1], (pictures[0].width, 0))
    if len(frames) > 1:
        with writing(folder.progress), atomic_write(folder.progress) as aside:
            durations = [_FRAME_MS] * (len(frames) - 1) + [3 * _FRAME_MS]
            frames[0].save(aside, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def draw_reconstruction(
    model: CroCoForPreTraining, to_model: ToModel, batch: dict[str, torch.Tensor], title: str
) -> Any:
    """Rows of source, masked target, prediction and target, as a matplotlib figure. With normalised pixels, each
    predicted patch gets the true patch's mean and spread, as in the loss."""
    inputs: dict[str, Any] = to_model(batch)
    target, source = (_to_numpy(batch[view]) for view in ("target", "source"))
    masked, patch = batch["bool_masked_pos"], model.config.patch_size
    hidden = masked.reshape(-1, *model.config.grid_size).numpy().repeat(patch, axis=1).repeat(patch, axis=2)
    columns = {
        "source": source,
        f"target, {masked.float().mean():.0%} masked": np.where(hidden[..., None], np.uint8(205), target),
        "prediction": _to_image(model.reconstruct(inputs["pixel_values"], model(**inputs)), to_model),
        "target": target,
    }
    figure, axis = _sheet(list(columns), [_INK] * len(columns), f"{title}: the target, completed from the source")
    for column, images in enumerate(columns.values()):
        for row in range(_ROWS):
            _show(axis, images[row], row, column)
    return figure


def draw_cross_attention(
    model: CroCoForPreTraining, to_model: ToModel, batch: dict[str, torch.Tensor], title: str
) -> Any:
    """A matplotlib figure of where in the source a few target patches look.

    The heat is the cross-attention after softmax, averaged over heads and decoder blocks and divided by its mean over
    all target patches. So a source patch that every target patch looks at (a sink) does not hide the rest.
    """
    from matplotlib.patches import Rectangle  # an extra that a run can do without

    inputs: dict[str, Any] = to_model(batch)
    views = inputs["pixel_values"], inputs["source_pixel_values"]
    blocks = [x.float().softmax(dim=-1).mean(dim=1).cpu() for x in model.croco.iter_cross_attention_logits(*views)]
    heat = torch.stack(blocks).mean(dim=0).numpy()
    heat = np.nan_to_num(heat / heat.mean(axis=1, keepdims=True))  # zero if a model's weights overflow
    target, source = (_to_numpy(batch[view]) for view in ("target", "source"))
    rows, columns = model.config.grid_size

    names = ["target", "source", *("where it looks" for _ in _MARKS)]
    colors = [_INK, _INK, *_MARKS]
    figure, axis = _sheet(names, colors, f"{title}: where four patches of the target look in the source")
    side = 1 - 2 * _GAP
    for row in range(_ROWS):
        _show(axis, target[row], row, 0)
        _show(axis, source[row], row, 1)
        patches = _textured_patches(target[row], model.config.patch_size)
        for column, color, marked in zip(range(2, len(names)), _MARKS, patches, strict=True):
            corner = _GAP + marked % columns / columns * side, row + _GAP + marked // columns / rows * side
            mark = Rectangle(corner, side / columns, side / rows, fill=False, edgecolor=color, linewidth=2.2)
            axis.add_patch(mark)
            _show(axis, source[row].mean(axis=-1), row, column, cmap="gray", vmin=-40, vmax=340)
            looked_at = heat[row, marked].reshape(rows, columns)
            opacity = 0.8 * (looked_at - looked_at.min()) / max(np.ptp(looked_at), 1e-12)
            _show(axis, looked_at, row, column, cmap="inferno", alpha=opacity)
            corner = column + _GAP, row + _GAP
            axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=color, linewidth=2.5))
    return figure


def _textured_patches(image: np.ndarray, patch: int) -> list[int]:
    """The patches of an image (S, S, 3) with the highest contrast, one per mark, no two adjacent."""
    side = image.shape[0] // patch
    contrast = image.mean(axis=-1).reshape(side, patch, side, patch).std(axis=(1, 3))
    found = []
    for _ in _MARKS:
        row, column = np.unravel_index(contrast.argmax(), contrast.shape)
        found.append(int(row * side + column))
        contrast[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = -1
    return sorted(found)


def _to_image(pixel_values: torch.Tensor, to_model: ToModel) -> np.ndarray:
    """Normalised pixels (B, 3, H, W) as uint8 (B, H, W, 3); pixels that are not finite become black."""
    mean, std = (pixel_values.new_tensor(values).view(1, 3, 1, 1) for values in (to_model.mean, to_model.std))
    pixel_values = pixel_values.nan_to_num(-torch.inf, posinf=-torch.inf)
    return _to_numpy(((pixel_values * std + mean) * 255).round().clamp(0, 255).to(torch.uint8))


def _to_numpy(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).cpu().numpy()


def _sheet(names: Sequence[str], colors: Sequence[str], title: str) -> tuple[Any, Any]:
    """A figure with a title and named columns for images, and its single axis; no window shows it.

    An image is one unit wide and high. One axis per image would take ten times as long to draw.
    """
    from matplotlib.figure import Figure  # an extra that a run can do without

    above = 0.4  # cells, for the title and the names
    figure = Figure(figsize=(len(names) * _CELL, (_ROWS + above) * _CELL))
    figure.suptitle(title, fontsize=12, color=_INK, y=1 - 0.1 / (_ROWS + above), va="center")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, len(names)), ylim=(_ROWS, -above))
    axis.set_axis_off()
    for column, (name, color) in enumerate(zip(names, colors, strict=True)):
        axis.text(column + 0.5, -0.02, name, fontsize=10, color=color, ha="center", va="bottom")
    return figure, axis


def _show(axis: Any, image: np.ndarray, row: int, column: int, **options: Any) -> None:
    """Draw an image into its cell."""
    extent = column + _GAP, column + 1 - _GAP, row + 1 - _GAP, row + _GAP
    axis.imshow(image, extent=extent, aspect="auto", interpolation="nearest", **options)
