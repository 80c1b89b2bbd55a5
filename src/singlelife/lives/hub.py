"""Prepared lives on the Hub: pushed as data sets that `datasets.load_dataset` opens, and downloaded once per commit.

A repository has the frames as Parquet files in `data/`; poses and visible points in `geometry/`, if they are stored
with the life; the prepared life's `metadata.json`; and a dataset card. All of it appears in one commit.

In the cache, `lives/hub/ORG--NAME/` holds a folder for each downloaded commit, and in `refs/` the commit that each
branch or tag stood for when it was last looked up. An unfinished download is in a folder that ends in `.partial`.
"""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any
from urllib.parse import quote

import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, load_from_disk
from datasets.exceptions import DatasetGenerationError

from singlelife._version import __version__
from singlelife.errors import HubError, LifeError
from singlelife.files import atomic_write, check_room, locked
from singlelife.hub.cards import dataset_header, fill_card, stated
from singlelife.hub.errors import HubUnreachable
from singlelife.hub.pull import Remote, fetch, is_commit, look_up, say_kept
from singlelife.hub.push import Content, Publication
from singlelife.lives.prepare import ELSEWHERE, write_dataset_description
from singlelife.lives.prepared import (
    COLUMNS,
    FORMAT_VERSION,
    GEOMETRY,
    GEOMETRY_COLUMNS,
    GEOMETRY_METADATA,
    METADATA,
    OPTIONAL_COLUMNS,
    PreparedLife,
)
from singlelife.lives.registry import default_cache_dir
from singlelife.text import in_bytes

SHARD_BYTES = 500_000_000  # size of a Parquet file: a push needs this much memory and scratch space

_ROWS_PER_GROUP = 200  # some megabytes, the least that a reader of a few frames has to fetch over the network
_PARQUET = re.compile(r"(data|geometry)/train-\d{5}-of-\d{5}\.parquet")
_LARGEST_METADATA = 64 << 20  # bytes; a week of thousands of clips has about one MiB
_ROWS_IN_MEMORY = 32
_COLUMNS = {"data": (COLUMNS, OPTIONAL_COLUMNS), GEOMETRY: (GEOMETRY_COLUMNS, Features())}  # required, optional
_TYPES: dict[str, Any] = {
    "fingerprint": str, "license": str, "dataset": str, "frame_rate": (int, float), "frame_size": int,
    "num_frames": int, "videos": list, "left_out": list, "simulation": (dict, type(None)),
    "depth_scale": (int, float, type(None)),
}  # fmt: skip


def life_publication(life: PreparedLife, repo_id: str, *, license: str | None = None) -> Publication:
    """A prepared life to `publish`, with the frames' bytes unchanged; it replaces an earlier form of the same life.

    Args:
        repo_id: ORG/NAME of a data set, or a NAME in the user's own namespace.
        license: the frames' licence; by default the one in the life's metadata.
    """
    license = stated(life.metadata["license"] if license is None else license)
    kept = life.path / GEOMETRY / GEOMETRY_METADATA
    geometry = kept.read_text(encoding="utf-8") if kept.is_file() else None
    rows = {"data": life.dataset} | ({GEOMETRY: load_from_disk(str(kept.parent))} if geometry is not None else {})
    # Leave out where this copy came from, and the names of its Arrow files.
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
        LifeError: the disk has too little room for one file.
    """
    size = rows.data.nbytes
    count = max(1, min(len(rows), -(-size // SHARD_BYTES)))
    check_room(min(SHARD_BYTES, size), Path(gettempdir()), "A file of the life", "choose another place with TMPDIR")
    with TemporaryDirectory(prefix="singlelife-") as scratch:
        for index in range(count):
            file = Path(scratch) / f"{index:05d}.parquet"
            rows.shard(count, index, contiguous=True).to_parquet(file, batch_size=_ROWS_PER_GROUP)
            yield f"{name}-{index:05d}-of-{count:05d}.parquet", file
            file.unlink()


def _card(life: PreparedLife, repo_id: str, license: str, geometry: dict[str, Any]) -> str:
    """The text of README.md; `geometry` is the content of `geometry.json`, or empty."""
    simulated, columns = life.metadata["simulation"] is not None, life.dataset.column_names
    poses = "pose" in columns or bool(geometry)
    header = dataset_header(
        life.name,
        len(life),
        license,
        tasks=["image-feature-extraction"] + ["depth-estimation"] * ("depth" in columns),
        tags=["egocentric"] + ["simulated"] * simulated + ["poses"] * poses,
        files={"default": ("train", "data/train-*")}
        | ({GEOMETRY: ("train", f"{GEOMETRY}/train-*")} if geometry else {}),
    )
    fields = {
        "life": life.metadata, "num_frames": len(life), "simulated": simulated, "version": __version__,
        "columns": columns, "poses": poses, "geometry": geometry, "repo_id": repo_id, "license": license,
    }  # fmt: skip
    return fill_card("life", header, fields)


def download_life(
    repo_id: str, name: str, *, revision: str | None = None, cache_dir: str | Path | None = None, progress: bool = True
) -> PreparedLife:
    """The prepared life in a data set on the Hub, downloaded unless this revision is here already.

    Its metadata has its origin under `hub`: `repo_id` and the commit, `revision`.

    Args:
        repo_id: ORG/NAME.
        name: the life's name on this machine.
        revision: a branch, tag or commit; `main` by default. A commit that is here needs no network. If the Hub
            cannot be reached, a branch means the commit that it meant at the last download; a line on stderr says so.
        cache_dir: see `prepare_life`.
        progress: print what is downloaded.

    Raises:
        HubError: the data set does not exist, you have no access to it, it is not a life, or the connection breaks.
        LifeError: the disk has too little room, or the copy here is damaged.
    """
    repository = Path(cache_dir or default_cache_dir()) / "lives" / "hub" / repo_id.replace("/", "--")
    if revision is not None and is_commit(revision) and (repository / revision).is_dir():
        return _opened(repository / revision, repo_id)
    ref = repository / "refs" / quote(revision or "main", safe="")
    try:
        remote = look_up(repo_id, "dataset", revision)
    except HubUnreachable as error:
        kept = repository / ref.read_text() if ref.is_file() else None
        if kept is None or not kept.is_dir():
            raise
        say_kept(repo_id, kept.name, error)
        return _opened(kept, repo_id)
    folder = repository / remote.commit
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder, repo_id):
            if not folder.exists():
                _download(remote, name, folder, progress)
        with atomic_write(ref) as aside:
            aside.write_text(remote.commit)
    except OSError as error:
        raise LifeError(
            f"The life {repo_id} cannot be written into {repository}: {error.strerror or error}. Make room there, or "
            f"{ELSEWHERE}. Finished work is kept."
        ) from error
    return _opened(folder, repo_id)


def _opened(folder: Path, repo_id: str) -> PreparedLife:
    life = PreparedLife.load(folder)
    life.metadata["hub"] = {"repo_id": repo_id, "revision": folder.name}
    return life


def _download(remote: Remote, name: str, folder: Path, progress: bool) -> None:
    """Download a life into a folder, which appears once it is complete."""
    metadata = _metadata(remote)
    parquet = [file for file in sorted(remote.sizes) if _PARQUET.fullmatch(file)]
    frames, geometry = ([file for file in parquet if file.startswith(part)] for part in _COLUMNS)
    if not frames:
        raise HubError(f"The data set {remote.repo_id} has a {METADATA} but no frames (data/train-….parquet).")
    partial = folder.with_name(f"{folder.name}.partial")
    scratch, described = partial / "download", f"{GEOMETRY}/{GEOMETRY_METADATA}"
    partial.mkdir(exist_ok=True)
    size = sum(remote.sizes[file] for file in parquet)
    there = sum(file.stat().st_size for file in scratch.rglob("*.parquet"))
    # While they are converted, the frames are on the disk twice.
    check_room(2 * size - there, partial, f"The data set {remote.repo_id}", ELSEWHERE)
    if progress:
        print(f"{remote.repo_id}: {metadata['num_frames']:,} frames, {in_bytes(size)}, into {folder}", file=sys.stderr)
    fetch(remote, parquet + [described] * bool(geometry), scratch)
    try:
        _convert(remote, scratch, frames, partial, metadata["num_frames"])
        if geometry:
            (partial / GEOMETRY).mkdir(exist_ok=True)
            shutil.copyfile(scratch / described, partial / described)
            _convert(remote, scratch, geometry, partial / GEOMETRY, metadata["num_frames"])
    except HubError:  # none of it is usable
        shutil.rmtree(partial)
        raise
    metadata |= {"name": name, "hub": {"repo_id": remote.repo_id, "revision": remote.commit}}
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    shutil.rmtree(scratch)
    partial.rename(folder)


def _convert(remote: Remote, scratch: Path, files: list[str], folder: Path, num_frames: int) -> None:
    """Turn Parquet files into a memory-mapped data set, with constant memory.

    Raises:
        HubError: they cannot be read, or do not have the columns and values of a life.
    """
    where = f"{Path(files[0]).parent}/ of {remote.repo_id}"
    try:
        columns, optional = _COLUMNS[str(Path(files[0]).parent)]
        theirs = Features.from_arrow_schema(pq.read_schema(scratch / files[0]))
        wanted = {name: kind for name, kind in (columns | optional).items() if name in columns or name in theirs}
        if wrong := [f"{name} is {theirs.get(name)}" for name in wanted if theirs.get(name) != wanted[name]]:
            raise HubError(f"{where} does not have a life's columns, {wanted}: {'; '.join(wrong)}.")
        names = [name for name in theirs if name in wanted]
        rows = Dataset.from_parquet(
            [str(scratch / file) for file in files],
            features=Features({name: theirs[name] for name in names}),
            columns=names,
            batch_size=_ROWS_IN_MEMORY,
            cache_dir=str(scratch),
        )
    except HubError:
        raise
    except Exception as error:  # the kind depends on what is wrong with a file
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        if isinstance(cause, OSError) and cause.errno is not None:  # from the disk; Parquet's errors have no errno
            raise cause from None
        raise HubError(f"{where} cannot be read: {cause}.") from error
    assert isinstance(rows, Dataset)
    for name in names:  # images must be bytes: a path would refer to somebody else's machine
        values = rows.data.column(name)
        missing = pc.struct_field(values, "bytes") if name in ("image", "depth") else values
        if missing.null_count:
            raise HubError(f"A row of {where} has no {name}.")
    if len(rows) != num_frames:
        raise HubError(f"{where} is incomplete: it holds {len(rows)} frames, but {METADATA} says {num_frames}.")
    made = [Path(file["filename"]) for file in rows.cache_files]
    arrows = [f"data-{number:05d}-of-{len(made):05d}.arrow" for number in range(len(made))]
    for file, arrow in zip(made, arrows, strict=True):
        file.replace(folder / arrow)
    write_dataset_description(folder, arrows, rows.features, remote.commit)


def _metadata(remote: Remote) -> dict[str, Any]:
    """The metadata.json of a repository.

    Raises:
        HubError: this version cannot use it.
    """
    what = f"The {METADATA} of {remote.repo_id}"
    if METADATA not in remote.sizes:
        raise HubError(
            f"The data set {remote.repo_id} is not a life from `singlelife push`: it has no {METADATA}. If it has "
            "videos, get them with `hf download` and name them with --video."
        )
    try:
        if remote.sizes[METADATA] > _LARGEST_METADATA:
            raise ValueError(f"it has {remote.sizes[METADATA]:,} bytes")
        metadata = json.loads((fetch(remote, [METADATA]) / METADATA).read_text(encoding="utf-8"))
        theirs = metadata["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise HubError(f"{what} cannot be read as a life's metadata: {error}.") from error
    if theirs != FORMAT_VERSION:
        raise HubError(
            f"The life {remote.repo_id} has format {theirs}; this version of singlelife reads {FORMAT_VERSION}. "
            "Upgrade it with pip install -U singlelife, or ask the life's owner to push it again."
        )
    wrong = [name for name, kind in _TYPES.items() if not isinstance(metadata.get(name, ...), kind)]
    if not wrong and not all(isinstance(each, dict) and "video" in each for each in metadata["videos"]):
        wrong = ["videos"]
    if wrong or not metadata["frame_rate"] > 0:
        raise HubError(f"{what} is not a life's metadata: {', '.join(wrong or ['frame_rate'])} missing or wrong.")
    return metadata
