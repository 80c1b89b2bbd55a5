"""Prepared lives on the Hub: pushed as data sets that `datasets.load_dataset` opens (`download.py` gets them back).

A repository has the frames as Parquet files in `data/`; in `geometry/` poses and visible points, where they are kept
beside the life; `metadata.json` as the prepared life has it; and a dataset card. All of it appears in one commit:
nobody sees half a life.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from datasets import Dataset, load_from_disk
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData, HfApi
from tqdm.auto import tqdm

from singlelife._version import __version__
from singlelife.errors import HubError
from singlelife.files import check_room
from singlelife.hub.cards import TAG, fill_card, license_fields, size_category, stated
from singlelife.hub.client import RepoInfo, read_remote
from singlelife.hub.push import Content, Publication
from singlelife.lives.prepared import GEOMETRY, GEOMETRY_METADATA, METADATA, PreparedLife

SHARD_BYTES = 500_000_000  # of a Parquet file: the memory and scratch space that a push needs

_ROWS_PER_GROUP = 200  # some megabytes: what reading a few frames over the network has to fetch
_MEANINGS = {
    "image": "JPEG",
    "timestamp": "seconds since the start of its video",
    "video": "which recording it is of",
    "frame_index": "its number in that recording",
    "pose": "camera to world, 4 × 4; x right, y down, z forward",
    "intrinsics": "fx, fy, cx, cy in pixels of the image",
    "depth": "16-bit PNG along z, `depth_scale` of metadata.json to a level, 0 where unknown",
}


def life_publication(
    life: PreparedLife,
    repo_id: str,
    *,
    license: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> Publication:
    """A prepared life to `publish`; a life shows people who were not asked, so think before it is public.

    The frames' bytes stay as they are. A life that is there already changes nothing; one that was prepared anew
    replaces the old one.

    Args:
        life: the prepared life.
        repo_id: ORG/NAME of a data set, or a NAME in the user's own namespace.
        license: of the frames; as it is in the life's metadata by default.
        shard_bytes: size of a Parquet file at most.
        progress: show progress bars on stderr.
    """
    license = stated(life.metadata["license"] if license is None else license)
    kept = life.path / GEOMETRY / GEOMETRY_METADATA
    geometry = kept.read_text(encoding="utf-8") if kept.is_file() else None
    metadata = json.dumps(_public_metadata(life, license), indent=2).encode()

    def files() -> Iterator[tuple[str, Content]]:
        yield from _parquet_files(
            life.dataset, "data/train", shard_bytes, f"Pushing {life.name}" if progress else None
        )
        if geometry is not None:
            title = f"Pushing {life.name}'s geometry" if progress else None
            rows = load_from_disk(str(life.path / GEOMETRY))
            yield from _parquet_files(rows, f"{GEOMETRY}/train", shard_bytes, title)
            yield f"{GEOMETRY}/{GEOMETRY_METADATA}", geometry.encode()
        yield METADATA, metadata

    def check(api: HfApi, there: RepoInfo) -> None:
        text = read_remote(api, there, "dataset", METADATA)
        if text is not None and not _is_of(life, text):
            raise HubError(f"{there.id} holds another life than {life.name}. Choose another name.")

    return Publication(
        repo_id=repo_id,
        kind="dataset",
        what=f"the life {life.name}",
        message=f"The life {life.name}, {len(life):,} frames",
        files=files,
        card=lambda repo_id: _card(life, repo_id, license, json.loads(geometry) if geometry else {}),
        sizes={"data/train-*.parquet": life.dataset.data.nbytes, METADATA: len(metadata)}
        | ({f"{GEOMETRY}/train-*.parquet": _disk_bytes(kept.parent)} if geometry else {}),
        marker=METADATA,
        replaces=("data/*", f"{GEOMETRY}/*"),
        check=check,
    )


def _is_of(life: PreparedLife, text: str) -> bool:
    """Whether a metadata.json is of a life of this name, or of these frames."""
    try:
        theirs = json.loads(text)
    except ValueError:
        return False
    ours = {"name": life.name, "fingerprint": life.metadata["fingerprint"]}
    return isinstance(theirs, dict) and any(theirs.get(key) == value for key, value in ours.items())


def _parquet_files(rows: Dataset, name: str, shard_bytes: int, title: str | None) -> Iterator[tuple[str, Path]]:
    """The rows as Parquet files of at most so many bytes; each is deleted when the next is asked for.

    Raises:
        LifeError: the disk lacks the room for one.
    """
    count = max(1, min(len(rows), -(-rows.data.nbytes // shard_bytes)))
    otherwise = "choose another place with TMPDIR"
    check_room(min(shard_bytes, rows.data.nbytes), Path(gettempdir()), "A file of the life", otherwise)
    bar = tqdm(desc=title, total=len(rows), unit=" frames", disable=title is None)
    with bar, TemporaryDirectory(prefix="singlelife-") as scratch:
        for index in range(count):
            shard = rows.shard(count, index, contiguous=True)
            file = Path(scratch) / f"{index:05d}.parquet"
            shown = not are_progress_bars_disabled()
            disable_progress_bars()  # of `datasets`, one for each file
            try:
                shard.to_parquet(file, batch_size=_ROWS_PER_GROUP)
            finally:
                if shown:
                    enable_progress_bars()
            yield f"{name}-{index:05d}-of-{count:05d}.parquet", file
            file.unlink()
            bar.update(len(shard))


def _disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _public_metadata(life: PreparedLife, license: str) -> dict[str, Any]:
    """What others need of a life's metadata: not where it came from here, nor the Arrow files of this copy."""
    metadata = {name: value for name, value in life.metadata.items() if name != "hub"} | {"license": license}
    metadata["videos"] = [
        {name: value for name, value in report.items() if name != "file"} for report in metadata["videos"]
    ]
    return metadata


def _card(life: PreparedLife, repo_id: str, license: str, geometry: dict[str, Any]) -> str:
    """The text of README.md; `geometry` is what `geometry.json` says, or empty."""
    about, simulated, columns = life.metadata, life.metadata["simulation"] is not None, life.dataset.column_names
    poses = "pose" in columns or bool(geometry)
    header = DatasetCardData(
        pretty_name=life.name,
        task_categories=["image-feature-extraction", *(["depth-estimation"] if "depth" in columns else [])],
        tags=[TAG, "egocentric", *(["simulated"] if simulated else []), *(["poses"] if poses else [])],
        size_categories=[size_category(len(life))],
        **license_fields(license),
    )
    configs: dict[str, Any] = {"default": {"data_files": [{"split": "train", "path": "data/train-*"}]}}
    configs["default"]["default"] = True
    if geometry:
        configs[GEOMETRY] = {"data_files": [{"split": "train", "path": f"{GEOMETRY}/train-*"}]}
    MetadataConfigs(configs).to_dataset_card_data(header)
    damaged = [
        f"{report['video']}: {damage}"
        for report in about["videos"] + about["left_out"]
        if (damage := report.get("error") or report.get("damage"))
    ]
    fields = {
        "life": about,
        "num_frames": len(life),
        "simulated": simulated,
        "seconds": sum(report["seconds"] for report in about["videos"]),
        "damaged": "; ".join(damaged),
        "version": __version__,
        "columns": [(name, _MEANINGS[name]) for name in columns],
        "poses": poses,
        "geometry": geometry,
        "repo_id": repo_id,
        "license": license,
    }
    return fill_card("life", header, fields)
