"""Prepared lives on the Hub: pushed as data sets that `datasets.load_dataset` opens, and downloaded once per commit.

A repository has the frames as Parquet files in `data/`, poses and visible points, where they are kept beside the life, in
`geometry/`, `metadata.json` as the prepared life has it, and a dataset card. All of it appears in one commit: nobody sees
half a life.

In the cache, `lives/hub/ORG--NAME/` holds a folder for each downloaded commit, and in `refs/` the commit that each branch
or tag stood for when it was last looked up, so that the same life is found again without a network. A download goes on in
a folder beside it that ends in `.partial`, one Arrow file per Parquet file, each renamed when it is complete.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Video, load_dataset, load_from_disk
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData, HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from tqdm.auto import tqdm

from singlelife._version import __version__
from singlelife.errors import HubError, LifeError
from singlelife.files import atomic_write, check_room
from singlelife.hub.cards import TAG, fill_card, license_fields, size_category, stated, table
from singlelife.hub.client import RepoInfo, check_push, read_remote
from singlelife.hub.errors import HubUnreachable, is_repo_id, translate_hub_errors
from singlelife.hub.pull import Remote, fetch, is_commit, look_up, say_kept
from singlelife.hub.push import Content, Publication, publish
from singlelife.lives.columns import COLUMNS, GEOMETRY_COLUMNS, OPTIONAL_COLUMNS
from singlelife.lives.prepare import default_cache_dir, locked, prepare_life, write_dataset_description
from singlelife.lives.prepared import FORMAT_VERSION, GEOMETRY, GEOMETRY_METADATA, METADATA, PreparedLife
from singlelife.lives.registry import get_life
from singlelife.text import in_bytes

SHARD_BYTES = 500_000_000  # of a Parquet file: the memory and scratch space that a push needs

_LARGEST_METADATA = 64 << 20  # bytes; a week of thousands of clips has about one MiB
_ROWS_IN_MEMORY = 32
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


def push_life(
    life: PreparedLife,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    license: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> str:
    """Push a prepared life to the Hub. The frames' bytes stay as they are.

    A push that was interrupted goes on when it is called again, and one of a life that is there already changes
    nothing. A life that was prepared anew replaces the old one as a new commit.

    Args:
        life: the prepared life.
        repo_id: ORG/NAME of a data set; it is made if it is not there.
        private: only its owner sees it. A life shows people who were not asked.
        token, revision: see `publish`.
        license: of the frames; as it is in the life's metadata by default.
        shard_bytes: size of a Parquet file at most.
        progress: show progress bars on stderr.

    Returns:
        The repository's URL.

    Raises:
        HubError: see `publish`; or the repository holds another life.
        LifeError: the disk lacks the room for a file.
    """
    check_push(repo_id, token)
    publication = life_publication(life, repo_id, license=license, shard_bytes=shard_bytes, progress=progress)
    return publish(publication, private=private, token=token, revision=revision, progress=progress)


def life_publication(
    life: PreparedLife,
    repo_id: str,
    *,
    license: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: bool = True,
) -> Publication:
    """What `push_life` pushes."""
    license = stated(life.metadata["license"] if license is None else license)
    kept = life.path / GEOMETRY / GEOMETRY_METADATA
    geometry = kept.read_text(encoding="utf-8") if kept.is_file() else None
    metadata = json.dumps(_public_metadata(life, license), indent=2).encode()

    def files() -> Iterator[tuple[str, Content]]:
        yield from _parquet_files(life.dataset, "data/train", shard_bytes, f"Pushing {life.name}" if progress else None)
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
            file = Path(scratch) / "shard.parquet"
            shown = not are_progress_bars_disabled()
            disable_progress_bars()  # of `datasets`, one for each file
            try:
                shard.to_parquet(file, batch_size=_ROWS_PER_GROUP)
            finally:
                if shown:
                    enable_progress_bars()
            yield f"{name}-{index:05d}-of-{count:05d}.parquet", file
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
    configs: dict[str, Any] = {"default": {"data_files": [{"split": "train", "path": "data/train-*"}], "default": True}}
    if geometry:
        configs[GEOMETRY] = {"data_files": [{"split": "train", "path": f"{GEOMETRY}/train-*"}]}
    MetadataConfigs(configs).to_dataset_card_data(header)
    what = "video from the eyes of one person"
    if simulated:
        what = "a walk through the map of a game, rendered"
    elif about["dataset"] == "controls":
        what = "here a control, video that is no life"
    minutes = sum(report["seconds"] for report in about["videos"]) / 60
    made = {
        "source": about["dataset"],
        "recordings": f"{len(about['videos'])} "
        f"({f'{minutes / 60:.1f} h' if minutes >= 60 else f'{minutes:.1f} min'})",
        "frames": f"{about['frame_rate']:g} per second, shorter side {about['frame_size']} px, JPEG",
        "made by": f"singlelife {__version__}, format {about['format_version']}",
        "fingerprint": f"`{about['fingerprint']}`",
        "damaged": "; ".join(
            f"{report['video']}: {damage}"
            for report in about["videos"] + about["left_out"]
            if (damage := report.get("error") or report.get("damage"))
        ),
    }
    known = "No camera poses come with it: pairs are drawn by time."
    if geometry:
        known = (
            f"Camera poses and the 3D points that each frame sees (from {geometry.get('source', 'unnamed files')}, "
            f"{geometry.get('num_registered', len(life)):,} of {len(life):,} frames) are in "
            f'`load_dataset("{repo_id}", "geometry")`.'
        )
    elif poses:
        known = "The camera's pose is known for every frame."
    fields = {
        "name": life.name,
        "what": what,
        "frames": f"{len(life):,}",
        "people": not simulated,
        "made": table(made),
        "columns": [(name, _MEANINGS[name]) for name in columns],
        "geometry": known,
        "repo_id": repo_id,
        "license": license,
    }
    return fill_card("life", header, fields)


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
        revision: a branch, tag or commit; `main` by default. A commit that is here needs no network. Without a network,
            a branch stands for the commit that it stood for before; a line on stderr says so.
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
        "frames": f"{metadata['num_frames']:,} at {metadata['frame_rate']:g} Hz, of {len(metadata['videos'])} video(s), "
        f"{seconds / 3600:.2f} h",
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
    frames, geometry = ([file for file in sorted(remote.sizes) if file.startswith(f"{part}/train-")
                         and file.endswith(".parquet") and file.count("/") == 1] for part in ("data", GEOMETRY))  # fmt: skip
    try:
        metadata = _metadata(remote, scratch)
        if not frames:
            raise HubError(f"The data set {remote.repo_id} has a {METADATA} and no frames: no data/train-….parquet.")
        total = _check_room(remote, frames + geometry, partial)
        if progress:
            print(f"{remote.repo_id}: {metadata['num_frames']:,} frames, {in_bytes(total)}, into {folder}", file=sys.stderr)
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


def _check_room(remote: Remote, files: list[str], partial: Path) -> int:
    """Make sure that there is room for what is not here yet. Returns the size of all files in bytes."""
    total = sum(remote.sizes[file] for file in files)
    there = sum(file.stat().st_size for file in partial.rglob("*.arrow"))
    needed = total - there + max(remote.sizes[file] for file in files)  # one is here twice while it is converted
    otherwise = "choose another place with --cache-dir or SINGLELIFE_CACHE"
    check_room(needed, partial, f"The data set {remote.repo_id}", otherwise)
    return total


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
        advice = "Upgrade it: pip install -U singlelife." if theirs > FORMAT_VERSION else "Ask its owner to push it again."
        raise HubError(
            f"The life {remote.repo_id} has format {theirs}; this version of singlelife reads {FORMAT_VERSION}. {advice}"
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
                streamed = load_dataset(repo_id, revision=remote.commit, split="train", streaming=True, cache_dir=empty)
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
