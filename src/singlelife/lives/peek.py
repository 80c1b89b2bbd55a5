"""A first look at a life on the Hub: a few of its frames are streamed, and nothing is kept but a picture of them.

Training cannot stream: pair i of a run is a pure function of the seed and i, and may be any two frames of the life.
"""

import json
from pathlib import Path
from typing import Any

from datasets import IterableDataset, load_dataset
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import DatasetInfo
from PIL import Image, ImageDraw

from singlelife.errors import HubError
from singlelife.lives.hub_errors import told_plainly
from singlelife.lives.hub_life import check_format, sizes_of
from singlelife.lives.prepared import METADATA

_SIDE, _CAPTION, _COLUMNS = 160, 14, 6  # of a picture in the sheet, in pixels
_FROM_EACH_FILE = 4
_STEP = 10  # frames between those of one file: a second, mostly


def peek(repo_id: str, output: Path, *, revision: str | None = None, num_frames: int = 24) -> str:
    """Draw some frames of a life on the Hub into `output`, a PNG, and say in words what it is.

    The frames are the first ones of its files, of as many files as it takes, spread over the life.

    Raises:
        HubError: the data set is not there or not for you, is no life, or the connection breaks.
    """
    with told_plainly(repo_id, f"Looking at {repo_id}"):
        info = HfApi().dataset_info(repo_id, revision=revision, files_metadata=True)
        about = _metadata(repo_id, info)
        try:
            dataset = load_dataset(repo_id, revision=info.sha, split="train", streaming=True)
        except (RuntimeError, ValueError) as error:  # scripts, no data, data of no known form
            raise HubError(f"The data set {repo_id} cannot be streamed: {error}") from error
        features = dataset.features or {}
        rows = _rows(dataset, num_frames) if "image" in features else []
    if rows:
        aside = output.with_name(f"{output.name}.tmp")
        _contact_sheet(rows).save(aside, "PNG")
        aside.replace(output)
    card: Any = info.card_data or {}
    sizes = sizes_of(info)
    lines = {
        "life": about.get("name", "not one that `singlelife push-life` wrote"),
        "frames": f"{about['num_frames']:,} at {about['frame_rate']:g} Hz, {len(about['videos'])} video(s)"
        if about
        else "",
        "size": f"{sum(sizes.values()) / 1e9:.2f} GB in {len(sizes)} files",
        "licence": about.get("license") or card.get("license_name") or card.get("license") or "not stated",
        "access": ("private" if info.private else "public") + (", gated" if info.gated else ""),
        "commit": info.sha,
        "picture": f"{output}, {len(rows)} frames" if rows else "none: it has no column `image`",
    }
    table = [f"  {name + ':':<9} {text}" for name, text in lines.items() if text]
    columns = [f"    {name:<12} {feature}" for name, feature in features.items()]
    return "\n".join([repo_id, *table, "  columns:", *columns, "", f"  accelerate launch train.py --life {repo_id}"])


def _metadata(repo_id: str, info: DatasetInfo) -> dict[str, Any]:
    if METADATA not in sizes_of(info):
        return {}
    path = hf_hub_download(repo_id, METADATA, repo_type="dataset", revision=info.sha)
    try:
        metadata = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"The {METADATA} of {repo_id} cannot be read: {error}.") from error
    check_format(metadata, repo_id)
    return metadata


def _rows(dataset: IterableDataset, num_frames: int) -> list[dict[str, Any]]:
    """About `num_frames` rows: a few from the start of each of several files that are spread over the life."""
    shown = dataset.select_columns([name for name in ("image", "timestamp", "video") if name in dataset.column_names])
    num_files = min(shown.num_shards, -(-num_frames // _FROM_EACH_FILE))
    each = -(-num_frames // num_files)
    rows: list[dict[str, Any]] = []
    for index in range(num_files):
        file = shown.shard(shown.num_shards, index * shown.num_shards // num_files)
        kept = [row for number, row in enumerate(file.take(each * _STEP)) if number % _STEP == 0]
        rows += kept[: num_frames - len(rows)]
    return rows


def _contact_sheet(rows: list[dict[str, Any]]) -> Image.Image:
    """The frames in lines of six, each with its video and time."""
    lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", (_SIDE * min(len(rows), _COLUMNS), (_SIDE + _CAPTION) * lines), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = number % _COLUMNS * _SIDE, number // _COLUMNS * (_SIDE + _CAPTION)
        picture = row["image"].convert("RGB")
        picture.thumbnail((_SIDE - 2, _SIDE - 2))
        sheet.paste(picture, (left, top + _CAPTION))
        if "timestamp" in row:
            draw.text((left + 2, top + 1), f"{row.get('video', '')[-16:]} {row['timestamp']:.1f} s", fill="black")
    return sheet
