"""A prepared life that comes from the Hub: downloaded once per commit, then used as if it had been prepared here.

In the cache, `lives/hub/ORG--NAME/` holds a folder for each downloaded commit, and in `refs/` the commit that each
branch or tag stood for when it was last looked up, so that the same life is found again without a network. A download
goes on in a folder beside it that ends in `.partial`, one Arrow file per Parquet file, each renamed when it is whole.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, Video, load_dataset
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError
from huggingface_hub.constants import HF_HUB_CACHE

from singlelife.errors import HubError, LifeError
from singlelife.files import atomic_write, check_room
from singlelife.hub.errors import HubUnreachable, is_repo_id, translate_hub_errors
from singlelife.hub.pull import Remote, fetch, is_commit, look_up, say_kept
from singlelife.lives.prepare import default_cache_dir, locked, prepare_life, write_dataset_description
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
from singlelife.lives.registry import get_life
from singlelife.text import in_bytes

_PARQUET = re.compile(r"(data|geometry)/train-\d{5}-of-\d{5}\.parquet")
_LARGEST_METADATA = 64 << 20  # bytes; a week of thousands of clips has about one MiB
_ROWS_IN_MEMORY = 32


def download_life(
    repo_id: str,
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> PreparedLife:
    """The prepared life of a data set on the Hub, downloaded now if this revision has not been before.

    Its metadata says under `hub` where it came from: `repo_id` and the commit, `revision`. A data set that has a
    `Video` column instead of frames is prepared here.

    Args:
        repo_id: ORG/NAME.
        name: of the life here.
        revision: a branch, tag or commit; `main` by default. A commit that is here needs no network. Without one, a
            branch stands for the commit that it stood for before; a line on stderr says so.
        cache_dir: see `prepare_life`.
        num_workers, strict: for a data set of videos, see `prepare_life`.
        progress: say what is downloaded, and show a progress bar on stderr.

    Raises:
        HubError: the data set is not there or not for you, is no life, or the connection breaks.
        LifeError: the disk lacks the room, or what is here is damaged.
    """
    if not is_repo_id(repo_id):
        raise HubError(f"{repo_id!r} is not the name of a data set on the Hub; it should look like ORG/NAME.")
    repository = Path(cache_dir or default_cache_dir()) / "lives" / "hub" / repo_id.replace("/", "--")
    if revision is not None and is_commit(revision) and (repository / revision).is_dir():
        return _opened(repository / revision, repo_id)
    ref = repository / "refs" / quote(revision or "main", safe="")
    try:
        remote = look_up(repo_id, "dataset", revision)
    except HubUnreachable as error:
        kept = repository / ref.read_text() if ref.exists() else None
        if kept is None or not kept.is_dir():
            raise
        say_kept(repo_id, kept.name, error)
        return _opened(kept, repo_id)
    folder = repository / remote.commit
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            with locked(Path(f"{folder}.lock"), repo_id):
                if folder.exists():
                    pass  # the process that held the lock has made it
                elif METADATA in remote.sizes:
                    _download(remote, name, folder, progress)
                else:
                    videos = _videos(remote, progress)
                    prepared = prepare_life(
                        get_life(name, videos),
                        cache_dir=cache_dir,
                        num_workers=num_workers,
                        strict=strict,
                        progress=progress,
                    )
                    folder.unlink(missing_ok=True)  # a link to what is no more
                    folder.symlink_to(prepared.path.resolve(), target_is_directory=True)
        with atomic_write(ref) as aside:
            aside.write_text(remote.commit)
    except OSError as error:
        raise LifeError(
            f"The life {repo_id} cannot be written into {repository}: {error.strerror or error}. Make room there, or "
            "choose another place with --cache-dir or the variable SINGLELIFE_CACHE. What was done is kept."
        ) from error
    return _opened(folder, repo_id)


def describe_remote_life(repo_id: str, revision: str | None = None) -> dict[str, str]:
    """What a life on the Hub is, by title, for people; a few kilobytes are fetched.

    Raises:
        HubError: the data set is not there or not for you, or is no life that `singlelife push` made.
    """
    remote = look_up(repo_id, "dataset", revision)
    if METADATA not in remote.sizes:
        raise HubError(f"The data set {repo_id} is no life that `singlelife push` made: it has no {METADATA}.")
    metadata = _metadata(remote)
    seconds = sum(video.get("seconds", 0) for video in metadata["videos"])
    return {
        "life": str(metadata.get("name", "unnamed")),
        "length": f"{seconds / 3600:.2f} h in {len(metadata['videos'])} video(s)",
        "frames": f"{metadata['num_frames']:,} at {metadata['frame_rate']:g} Hz",
        "size": in_bytes(sum(remote.sizes.values())),
        "poses": "yes" if any(file.startswith(f"{GEOMETRY}/") for file in remote.sizes) else "none beside the frames",
        "licence": metadata["license"] or "not stated",
        "access": ("private" if remote.info.private else "public") + (", gated" if remote.info.gated else ""),
        "commit": remote.commit,
    }


def _opened(folder: Path, repo_id: str) -> PreparedLife:
    life = PreparedLife.load(folder)
    life.metadata["hub"] = {"repo_id": repo_id, "revision": folder.name}  # one that was made of videos has none
    return life


def _download(remote: Remote, name: str, folder: Path, progress: bool) -> None:
    """Download a life into a folder, which appears when it is whole."""
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    scratch = partial / "download"
    matches = [match for match in map(_PARQUET.fullmatch, sorted(remote.sizes)) if match]
    frames, geometry = ([match[0] for match in matches if match[1] == part] for part in ("data", GEOMETRY))
    try:
        metadata = _metadata(remote, scratch)
        if not frames:
            raise HubError(f"The data set {remote.repo_id} has a {METADATA} and no frames: no data/train-….parquet.")
        total = sum(remote.sizes[file] for file in frames + geometry)
        largest = max(remote.sizes[file] for file in frames + geometry)  # it is here twice while it is converted
        there = sum(file.stat().st_size for file in partial.rglob("*.arrow"))
        otherwise = "choose another place with --cache-dir or SINGLELIFE_CACHE"
        check_room(total - there + largest, partial, f"The data set {remote.repo_id}", otherwise)
        if progress:
            print(
                f"{remote.repo_id}: {metadata['num_frames']:,} frames, {in_bytes(total)}, into {folder}",
                file=sys.stderr,
            )
        _fetch_rows(remote, frames, partial, COLUMNS, OPTIONAL_COLUMNS, metadata["num_frames"])
        if geometry:
            (partial / GEOMETRY).mkdir(exist_ok=True)
            _fetch_rows(remote, geometry, partial / GEOMETRY, GEOMETRY_COLUMNS, Features(), metadata["num_frames"])
            described = f"{GEOMETRY}/{GEOMETRY_METADATA}"
            (fetch(remote, [described], scratch) / described).replace(partial / described)
    except HubUnreachable:
        raise
    except HubError:  # nothing of it is of use
        shutil.rmtree(partial)
        raise
    metadata |= {"name": name, "hub": {"repo_id": remote.repo_id, "revision": remote.commit}}
    (partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    shutil.rmtree(scratch, ignore_errors=True)
    partial.rename(folder)


def _fetch_rows(
    remote: Remote, files: list[str], folder: Path, columns: Features, optional: Features, num_frames: int
) -> None:
    """Make a data set in `folder` of the Parquet files that are not there yet."""
    arrows = [folder / f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
    scratch, found, count = folder / "download", [], 0
    for file, arrow in zip(files, arrows, strict=True):
        if not arrow.exists():
            parquet = fetch(remote, [file], scratch, elsewhere="--cache-dir or SINGLELIFE_CACHE") / file
            _convert(parquet, arrow, columns, optional, f"{file} of {remote.repo_id}")
            parquet.unlink()
        with pa.memory_map(str(arrow)) as mapped, pa.ipc.open_stream(mapped) as stream:
            found.append(Features.from_arrow_schema(stream.schema))
            count += sum(len(batch) for batch in stream)
        if found[-1] != found[0]:
            raise HubError(f"{file} of {remote.repo_id} has other columns than {files[0]}.")
    if count != num_frames:
        raise HubError(
            f"The data set {remote.repo_id} is not whole: {Path(files[0]).parent}/ holds {count} frames, and its "
            f"{METADATA} says {num_frames}. Tell its owner, who should push it again."
        )
    write_dataset_description(folder, [arrow.name for arrow in arrows], found[0], remote.commit)
    shutil.rmtree(scratch, ignore_errors=True)


def _convert(parquet: Path, arrow: Path, columns: Features, optional: Features, where: str) -> None:
    """Turn a Parquet file into an Arrow file, with constant memory.

    Raises:
        HubError: it cannot be read, or has not the columns and values of a life.
    """
    aside = arrow.with_suffix(".tmp")
    try:
        with pq.ParquetFile(parquet) as source:
            schema = _columns_of_life(source.schema_arrow, columns, optional, where).arrow_schema
            with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                row = 0
                for group in range(source.num_row_groups):  # at once, all of them would stay in memory
                    for batch in source.iter_batches(_ROWS_IN_MEMORY, [group], schema.names):
                        _check_rows(batch, row, where)
                        stored = [_as_stored(batch.column(field.name), field) for field in schema]
                        stream.write_batch(pa.RecordBatch.from_arrays(stored, schema=schema))
                        row += len(batch)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; Parquet's have none
            raise
        raise HubError(f"{where} cannot be read: {error}.") from error
    aside.replace(arrow)


def _columns_of_life(schema: pa.Schema, columns: Features, optional: Features, where: str) -> Features:
    """Those of a file's columns that a life has, in their order."""
    try:
        theirs = Features.from_arrow_schema(schema)
    except Exception as error:  # of many kinds, by what is wrong with what a file says of its own columns
        raise HubError(f"The columns of {where} cannot be read: {error}.") from error
    wrong = [
        f"{name} ({f'{theirs[name]} instead of {feature}' if name in theirs else 'missing'})"
        for name, feature in (columns | optional).items()
        if (name in columns or name in theirs) and theirs.get(name) != feature
    ]
    if wrong:
        raise HubError(f"{where} is not of a life. Its columns are {', '.join(theirs)}; wrong are {'; '.join(wrong)}.")
    return Features({name: feature for name, feature in theirs.items() if name in columns | optional})


def _check_rows(batch: pa.RecordBatch, row: int, where: str) -> None:
    """Every value must be there, an image as bytes: a path would be one of somebody else's machine, or of this one."""
    for name in batch.schema.names:
        values = batch.column(name)
        missing = pc.is_null(pc.struct_field(values, "bytes") if name in ("image", "depth") else values)
        if pc.any(missing).as_py():
            first = row + pc.index(missing, True).as_py()
            raise HubError(f"The {name} in row {first} of {where} is missing.")


def _as_stored(column: pa.Array, field: pa.Field) -> pa.Array:
    """A column of a Parquet file as the type of the Arrow files; the numbers and bytes stay as they are."""
    if isinstance(field.type, pa.ExtensionType):
        storage = column.storage if isinstance(column, pa.ExtensionArray) else column
        return pa.ExtensionArray.from_storage(field.type, storage.cast(field.type.storage_type))
    return column.cast(field.type)


def _metadata(remote: Remote, folder: Path | None = None) -> dict[str, Any]:
    """The metadata.json of a repository, fetched (into a folder, or the client's cache), if this version can use it.

    Raises:
        HubError: it cannot.
    """
    try:
        if remote.sizes[METADATA] > _LARGEST_METADATA:
            raise ValueError(f"it has {remote.sizes[METADATA]:,} bytes")
        metadata = json.loads((fetch(remote, [METADATA], folder) / METADATA).read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"The {METADATA} of {remote.repo_id} cannot be read: {error}.") from error
    theirs = metadata.get("format_version") if isinstance(metadata, dict) else None
    if isinstance(theirs, int) and theirs != FORMAT_VERSION:
        advice = (
            "Upgrade it: pip install -U singlelife." if theirs > FORMAT_VERSION else "Ask its owner to push it again."
        )
        raise HubError(
            f"The life {remote.repo_id} has format {theirs}; this version of singlelife reads {FORMAT_VERSION}. "
            f"{advice}"
        )
    kinds: dict[str, Any] = {
        "fingerprint": str, "license": str, "dataset": str, "frame_rate": (int, float), "frame_size": int,
        "num_frames": int, "videos": list, "left_out": list, "simulation": (dict, type(None)),
        "depth_scale": (int, float, type(None)),
    }  # fmt: skip
    wrong = [name for name, kind in kinds.items() if theirs is None or not isinstance(metadata.get(name, ...), kind)]
    wrong += [
        name
        for name in ("videos", "left_out")
        if name not in wrong and not all(isinstance(video, dict) and "video" in video for video in metadata[name])
    ]
    if wrong or not metadata["frame_rate"] > 0:
        raise HubError(
            f"The {METADATA} of {remote.repo_id} is not that of a prepared life: {', '.join(wrong) or 'frame_rate'} "
            "missing or wrong. `singlelife push LIFE` makes such a repository."
        )
    return metadata


def _videos(remote: Remote, progress: bool) -> Any:
    """The videos of a data set that has them instead of frames, downloaded.

    Raises:
        HubError: it has none, or cannot be read: it is empty, or has scripts, which are never run.
    """
    from singlelife.lives.video.sources import videos_of

    repo_id, size = remote.repo_id, sum(remote.sizes.values())
    with translate_hub_errors(repo_id, f"Downloading {repo_id}"):
        try:
            with TemporaryDirectory() as empty:  # where `datasets` finds no older version to take instead
                streamed = load_dataset(
                    repo_id, revision=remote.commit, split="train", streaming=True, cache_dir=empty
                )
        except (RuntimeError, ValueError, DataFilesNotFoundError, EmptyDatasetError) as error:
            raise HubError(f"The data set {repo_id} cannot be read: {str(error).splitlines()[0]}") from error
        features = streamed.features or Features()
        if not any(isinstance(feature, Video) for feature in features.values()):
            raise HubError(
                f"The data set {repo_id} is no life: it has no {METADATA}, as `singlelife push` writes, and no Video "
                f"column to prepare. Its columns are {', '.join(features) or 'not known'}."
            )
        check_room(size, Path(HF_HUB_CACHE), f"The data set {repo_id}", "choose another place with HF_HOME")
        if progress:
            print(f"{repo_id}: {in_bytes(size)} of videos, into {HF_HUB_CACHE}", file=sys.stderr)
        return videos_of(load_dataset(repo_id, revision=remote.commit, split="train"))
