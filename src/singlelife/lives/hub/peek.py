"""A first look at a life on the Hub: a few of its frames are fetched, and nothing is kept but a picture of them.

Training cannot stream: pair i of a run is a pure function of the seed and i, and may be any two frames of the life.
"""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import HfFileSystem, hf_hub_download
from huggingface_hub.hf_api import DatasetInfo
from PIL import Image, ImageDraw, ImageOps

from singlelife.errors import HubError
from singlelife.files import atomic_write
from singlelife.hub.errors import translate_hub_errors
from singlelife.hub.repositories import hub_api
from singlelife.lives.hub.download import FRAMES_FILE, check_format, columns_of, known_columns, sizes_of
from singlelife.lives.prepared import METADATA
from singlelife.text import in_bytes

_SIDE, _CAPTION, _COLUMNS = 160, 14, 6  # of a picture in the sheet, in pixels
_PLACES = 6  # of the life, from each of which frames are shown


def peek(repo_id: str, output: Path, *, revision: str | None = None, num_frames: int = 24) -> str:
    """Draw some frames of a life on the Hub into `output`, a PNG, and say in words what it is.

    The frames come from places spread over the life, some megabytes in all. (`load_dataset(..., streaming=True)` opens
    it too, from its first frame on.)

    Raises:
        HubError: the data set is not there or not for you, cannot be read, or the connection breaks.
    """
    with translate_hub_errors(repo_id, f"Looking at {repo_id}"):
        info = hub_api().dataset_info(repo_id, revision=revision, files_metadata=True)
        sizes = sizes_of(info)
        files = sorted(file for file in sizes if FRAMES_FILE.fullmatch(file))
        if METADATA in sizes and files:
            about = _metadata(repo_id, info)
            features, rows = _frames(f"datasets/{repo_id}@{info.sha}", files, repo_id, num_frames)
        else:
            about, features, rows = {}, columns_of(repo_id, info.sha or ""), []
    if rows:
        with atomic_write(output) as aside:
            _contact_sheet(rows).save(aside, "PNG")
    card: Any = info.card_data or {}
    lines = {
        "life": about.get("name", "none that `singlelife push-life` wrote"),
        "size": f"{in_bytes(sum(sizes.values()))} in {len(sizes)} files",
        "licence": about.get("license") or card.get("license_name") or card.get("license") or "not stated",
        "access": ("private" if info.private else "public") + (", gated" if info.gated else ""),
        "commit": info.sha,
        "picture": f"{output}, {len(rows)} frames" if rows else "none: it has no frames that are stored as a life's",
    }
    if about:
        videos = len(about["videos"])
        lines["frames"] = f"{about['num_frames']:,} at {about['frame_rate']:g} Hz, of {videos} video(s)"
    table = [f"  {name + ':':<9} {text}" for name, text in lines.items()]
    columns = [f"    {name:<12} {feature}" for name, feature in features.items()]
    return "\n".join([repo_id, *table, "  columns:", *columns, "", f"  accelerate launch train.py --life {repo_id}"])


def _metadata(repo_id: str, info: DatasetInfo) -> dict[str, Any]:
    path = hf_hub_download(repo_id, METADATA, repo_type="dataset", revision=info.sha)
    try:
        metadata = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"The {METADATA} of {repo_id} cannot be read: {error}.") from error
    check_format(metadata, repo_id)
    return metadata


def _frames(folder: str, files: list[str], repo_id: str, num_frames: int) -> tuple[Features, list[dict[str, Any]]]:
    """The columns, and frames from about six places that are spread over the files: the rows of a row group each."""
    hub = HfFileSystem()
    features, rows = Features(), []
    chosen = _spread(len(files), min(_PLACES, num_frames))
    for place, frames in zip(chosen, _shares(num_frames, len(chosen)), strict=True):
        with hub.open(f"{folder}/{files[place]}", block_size=1 << 16) as file:
            try:
                parquet = pq.ParquetFile(file, pre_buffer=True)
                features = known_columns(parquet.schema_arrow, repo_id)
                groups = _spread(parquet.num_row_groups, min(frames, -(-_PLACES // len(chosen))))
                for group, wanted in zip(groups, _shares(frames, len(groups)), strict=True):
                    table = parquet.read_row_group(group, columns=["image", "timestamp", "video"])
                    rows += table.take(_spread(len(table), wanted)).to_pylist()
            except pa.ArrowException as error:
                raise HubError(f"The frames of {repo_id} cannot be read: {error}.") from error
    return features, rows


def _spread(available: int, wanted: int) -> list[int]:
    """Up to `wanted` of the numbers below `available`, evenly spread."""
    wanted = min(available, wanted)
    return [index * available // wanted for index in range(wanted)]


def _shares(total: int, parts: int) -> list[int]:
    """`total` in that many parts that differ by one at most."""
    return [(part + 1) * total // parts - part * total // parts for part in range(parts)]


def _contact_sheet(rows: list[dict[str, Any]]) -> Image.Image:
    """The frames in lines of six, each with its video and time."""
    pictures = [_picture(row["image"]["bytes"]) for row in rows]
    step = max(picture.height for picture in pictures) + _CAPTION
    lines = -(-len(rows) // _COLUMNS)
    sheet = Image.new("RGB", ((_SIDE + 2) * min(len(rows), _COLUMNS), step * lines), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        left, top = number % _COLUMNS * (_SIDE + 2), number // _COLUMNS * step
        sheet.paste(picture, (left, top + _CAPTION))
        draw.text((left + 2, top + 1), f"{row['video'][-16:]} {row['timestamp']:.1f} s", fill="black")
    return sheet


def _picture(encoded: bytes) -> Image.Image:
    try:
        return ImageOps.contain(Image.open(io.BytesIO(encoded)).convert("RGB"), (_SIDE, _SIDE))
    except Exception:  # damaged bytes make Pillow raise nearly anything; the other frames are worth seeing
        return Image.new("RGB", (_SIDE, _SIDE), "red")
