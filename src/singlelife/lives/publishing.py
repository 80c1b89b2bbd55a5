"""Prepared lives on the Hub: pushed as data sets that `datasets.load_dataset` opens (`download.py` gets them back).

A repository has the frames as Parquet files in `data/`; in `geometry/` poses and visible points, where they are kept
beside the life; `metadata.json` as the prepared life has it; and a dataset card. All of it appears in one commit:
nobody sees half a life.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from datasets import Dataset, load_from_disk

from singlelife._version import __version__
from singlelife.files import check_room
from singlelife.hub.cards import dataset_header, fill_card, stated
from singlelife.hub.push import Content, Publication
from singlelife.lives.prepared import GEOMETRY, GEOMETRY_METADATA, METADATA, PreparedLife

SHARD_BYTES = 500_000_000  # of a Parquet file: the memory and scratch space that a push needs

_ROWS_PER_GROUP = 200  # some megabytes: what reading a few frames over the network has to fetch


def life_publication(life: PreparedLife, repo_id: str, *, license: str | None = None) -> Publication:
    """A prepared life to `publish`; a life shows people who were not asked, so think before it is public.

    The frames' bytes stay as they are. A life that is there already changes nothing; one that was prepared anew
    replaces the old one.

    Args:
        life: the prepared life.
        repo_id: ORG/NAME of a data set, or a NAME in the user's own namespace.
        license: of the frames; as it is in the life's metadata by default.
    """
    license = stated(life.metadata["license"] if license is None else license)
    kept = life.path / GEOMETRY / GEOMETRY_METADATA
    geometry = kept.read_text(encoding="utf-8") if kept.is_file() else None
    rows = {"data": life.dataset} | ({GEOMETRY: load_from_disk(str(kept.parent))} if geometry is not None else {})
    # Not where it came from here, nor the Arrow files of this copy.
    public = {name: value for name, value in life.metadata.items() if name != "hub"} | {"license": license}
    public["videos"] = [{key: video[key] for key in video if key != "file"} for video in public["videos"]]
    metadata = json.dumps(public, indent=2).encode()

    def files() -> Iterator[tuple[str, Content]]:
        for folder, dataset in rows.items():
            yield from _parquet_files(dataset, f"{folder}/train")
        if geometry is not None:
            yield f"{GEOMETRY}/{GEOMETRY_METADATA}", geometry.encode()
        yield METADATA, metadata

    def other(text: str) -> str | None:
        with contextlib.suppress(ValueError, AttributeError):
            theirs = json.loads(text)
            same = (theirs.get(key) == life.metadata[key] for key in ("name", "fingerprint"))
            return None if any(same) else f"the life {theirs.get('name')}"
        return "something else"

    return Publication(
        repo_id=repo_id,
        kind="dataset",
        what=f"the life {life.name}",
        message=f"The life {life.name}, {len(life):,} frames",
        files=files,
        card=lambda repo_id: _card(life, repo_id, license, json.loads(geometry) if geometry else {}),
        sizes={f"{folder}/train-*.parquet": dataset.data.nbytes for folder, dataset in rows.items()}
        | {METADATA: len(metadata)},
        marker=METADATA,
        other=other,
        replaces=("data/*", f"{GEOMETRY}/*"),
    )


def _parquet_files(rows: Dataset, name: str) -> Iterator[tuple[str, Path]]:
    """The rows as Parquet files of at most SHARD_BYTES; each is deleted when the next is asked for.

    Raises:
        LifeError: the disk lacks the room for one.
    """
    count = max(1, min(len(rows), -(-rows.data.nbytes // SHARD_BYTES)))
    otherwise = "choose another place with TMPDIR"
    check_room(min(SHARD_BYTES, rows.data.nbytes), Path(gettempdir()), "A file of the life", otherwise)
    with TemporaryDirectory(prefix="singlelife-") as scratch:
        for index in range(count):
            file = Path(scratch) / f"{index:05d}.parquet"
            rows.shard(count, index, contiguous=True).to_parquet(file, batch_size=_ROWS_PER_GROUP)
            yield f"{name}-{index:05d}-of-{count:05d}.parquet", file
            file.unlink()


def _card(life: PreparedLife, repo_id: str, license: str, geometry: dict[str, Any]) -> str:
    """The text of README.md; `geometry` is what `geometry.json` says, or empty."""
    about, simulated, columns = life.metadata, life.metadata["simulation"] is not None, life.dataset.column_names
    poses = "pose" in columns or bool(geometry)
    header = dataset_header(
        life.name,
        len(life),
        license,
        tasks=["image-feature-extraction", *(["depth-estimation"] if "depth" in columns else [])],
        tags=["egocentric", *(["simulated"] if simulated else []), *(["poses"] if poses else [])],
        files={"default": ("train", "data/train-*")}
        | ({GEOMETRY: ("train", f"{GEOMETRY}/train-*")} if geometry else {}),
    )
    fields = {
        "life": about,
        "num_frames": len(life),
        "simulated": simulated,
        "version": __version__,
        "columns": columns,
        "poses": poses,
        "geometry": geometry,
        "repo_id": repo_id,
        "license": license,
    }
    return fill_card("life", header, fields)
