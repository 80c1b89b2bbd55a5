"""A prepared life that comes from the Hub: downloaded once per revision, then used as if it had been prepared here.

In the cache, `lives/hub/ORG--NAME/` holds a folder for each revision, named after its commit, and in `refs/` what each
branch or tag was when it was last asked for, so that without a network the same life is found again. A download goes
on in a folder beside it that ends in `.partial`, one Arrow file per Parquet file, each renamed when it is complete.
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
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.hf_api import DatasetInfo, RepoSibling
from tqdm.auto import tqdm

from singlelife.errors import HubError, LifeError
from singlelife.files import check_room, locked
from singlelife.hub.errors import HubUnreachable, is_repo_id, translate_hub_errors
from singlelife.hub.repositories import hub_api
from singlelife.lives.prepare import default_cache_dir, prepare_life, write_dataset_description
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
from singlelife.lives.registry import Life, get_life
from singlelife.text import in_bytes

_COMMIT = re.compile(r"[0-9a-f]{40}")
FRAMES_FILE = re.compile(r"data/train-\d{5}-of-\d{5}\.parquet")
_GEOMETRY_FILE = re.compile(r"geometry/train-\d{5}-of-\d{5}\.parquet")
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
        revision: a branch, tag or commit; `main` by default. A commit that is here needs no network, and neither does
            any other that was asked for before, where there is none; that is said.
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
    if revision and _COMMIT.fullmatch(revision) and (repository / revision).is_dir():
        return _opened(repository / revision, repo_id)
    ref = repository / "refs" / quote(revision or "main", safe="")
    api = hub_api()
    try:
        with translate_hub_errors(repo_id, f"Looking up {repo_id}"):
            info = api.dataset_info(repo_id, revision=revision, files_metadata=True)
    except HubUnreachable as error:
        kept = repository / ref.read_text() if ref.exists() else None
        if kept is None or not kept.is_dir():
            raise
        print(f"{error} Going on with {repo_id} as it was kept, commit {kept.name[:12]}.", file=sys.stderr)
        return _opened(kept, repo_id)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise HubError(f"The Hub gives no commit for {repo_id}, but {info.sha!r}.")
    assert info.sha is not None
    sizes = sizes_of(info)
    folder = repository / info.sha
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            with (
                locked(Path(f"{folder}.lock"), repo_id),
                translate_hub_errors(
                    repo_id,
                    f"Downloading {repo_id}",
                    "The files that are complete are kept; the same command goes on with the others.",
                ),
            ):
                if folder.exists():
                    pass  # the process that held the lock has made it
                elif METADATA in sizes:
                    _Download(api, repo_id, info.sha, name, sizes, folder, progress).run()
                else:
                    videos = _videos(repo_id, name, info.sha, sum(sizes.values()), progress)
                    prepared = prepare_life(
                        videos, cache_dir=cache_dir, num_workers=num_workers, strict=strict, progress=progress
                    )
                    folder.unlink(missing_ok=True)  # a link to what is no more
                    folder.symlink_to(prepared.path.resolve(), target_is_directory=True)
        aside = ref.with_name(f"{ref.name}.tmp")
        aside.write_text(info.sha)
        aside.replace(ref)
    except OSError as error:
        raise LifeError(
            f"The life {repo_id} cannot be written into {repository}: {error.strerror or error}. Make room there, or "
            "choose another place with --cache-dir or the variable SINGLELIFE_CACHE. What was done is kept."
        ) from error
    return _opened(folder, repo_id)


def _opened(folder: Path, repo_id: str) -> PreparedLife:
    life = PreparedLife.load(folder)
    # One that was made of videos does not say so itself.
    life.metadata["hub"] = {"repo_id": repo_id, "revision": folder.name}
    return life


class _Download:
    """One download, into a folder that appears when it is whole."""

    def __init__(
        self, api: HfApi, repo_id: str, sha: str, name: str, sizes: dict[str, int], folder: Path, progress: bool
    ):
        self.api, self.repo_id, self.sha, self.name, self.sizes = api, repo_id, sha, name, sizes
        self.folder, self.progress = folder, progress
        self.partial = folder.with_name(f"{folder.name}.partial")
        self.frames = sorted(file for file in sizes if FRAMES_FILE.fullmatch(file))
        self.geometry = sorted(file for file in sizes if _GEOMETRY_FILE.fullmatch(file))

    def run(self) -> None:
        try:
            self._run()
        except HubUnreachable:
            raise
        except HubError:  # nothing of it is of use
            shutil.rmtree(self.partial)
            raise

    def _run(self) -> None:
        self.partial.mkdir(exist_ok=True)
        shutil.rmtree(self.partial / "download", ignore_errors=True)  # parts of files, of a process that was killed
        for leftover in self.partial.rglob("*.tmp"):
            leftover.unlink()
        metadata = self._metadata()
        features = self._features()
        self._check_room()
        total = sum(self.sizes[file] for file in self.frames + self.geometry)
        if self.progress:
            print(
                f"{self.repo_id}: {metadata['num_frames']:,} frames, {in_bytes(total)}, into {self.folder}",
                file=sys.stderr,
            )
        with tqdm(
            desc=f"Downloading {self.name}", total=total, unit="B", unit_scale=True, disable=not self.progress
        ) as bar:
            self._fetch_rows(self.frames, self.partial, features, metadata["num_frames"], bar)
            if self.geometry:
                folder = self.partial / GEOMETRY
                folder.mkdir(exist_ok=True)
                self._fetch_rows(self.geometry, folder, GEOMETRY_COLUMNS, metadata["num_frames"], bar)
                self._fetch(f"{GEOMETRY}/{GEOMETRY_METADATA}", None).replace(folder / GEOMETRY_METADATA)
        (self.partial / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
        shutil.rmtree(self.partial / "download")
        self.partial.rename(self.folder)

    def _fetch_rows(self, files: list[str], folder: Path, features: Features, num_frames: int, bar: tqdm) -> None:
        """Make a data set in `folder` of the Parquet files that are not there yet."""
        arrows = [folder / f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
        for file, arrow in zip(files, arrows, strict=True):
            if arrow.exists():
                bar.update(self.sizes[file])
            else:
                self._convert(self._fetch(file, bar), arrow, features)
        there = sum(map(_num_rows, arrows))
        if there != num_frames:
            raise HubError(
                f"The data set {self.repo_id} is not whole: {Path(files[0]).parent}/ holds {there} frames, and its "
                f"{METADATA} says {num_frames}. Tell its owner, who should push it again."
            )
        write_dataset_description(folder, [arrow.name for arrow in arrows], features, self.sha)

    def _metadata(self) -> dict[str, Any]:
        """The metadata of the life, checked, with where it came from."""
        if self.sizes[METADATA] > _LARGEST_METADATA:
            raise HubError(
                f"The {METADATA} of {self.repo_id} is of {self.sizes[METADATA]:,} bytes: not that of a life."
            )
        path = self._fetch(METADATA, None)
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise HubError(f"The {METADATA} of {self.repo_id} cannot be read: {error}.") from error
        check_format(metadata, self.repo_id)
        return metadata | {"name": self.name, "hub": {"repo_id": self.repo_id, "revision": self.sha}}

    def _features(self) -> Features:
        """The columns that the life will have, after a look at the end of the first file, before all is downloaded."""
        if not self.frames:
            raise HubError(f"The data set {self.repo_id} has a {METADATA} and no frames: no data/train-….parquet.")
        hub = HfFileSystem()
        with hub.open(f"datasets/{self.repo_id}@{self.sha}/{self.frames[0]}", block_size=1 << 16) as file:
            return known_columns(_schema(file, self.repo_id), self.repo_id)

    def _check_room(self) -> None:
        files = self.frames + self.geometry
        there = sum(file.stat().st_size for file in self.partial.rglob("*.arrow"))
        # A file is here twice while it is converted.
        needed = sum(self.sizes[file] for file in files) - there + max(self.sizes[file] for file in files)
        check_room(
            needed,
            self.partial,
            f"The data set {self.repo_id}",
            "choose another place with --cache-dir or SINGLELIFE_CACHE",
        )

    def _fetch(self, file: str, bar: tqdm | None) -> Path:
        class Counted(tqdm):  # the library's own bar, per file, gives way to that of the whole
            def __init__(self, *args: Any, **kwargs: Any):
                super().__init__(*args, **kwargs | {"disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                return None if bar is None else bar.update(n)

        return Path(
            self.api.hf_hub_download(
                self.repo_id, file, repo_type="dataset", revision=self.sha, local_dir=self.partial / "download",
                tqdm_class=Counted,
            )
        )  # fmt: skip

    def _convert(self, parquet: Path, arrow: Path, features: Features) -> None:
        """Turn a Parquet file into an Arrow file, with constant memory, and delete it."""
        aside = arrow.with_suffix(".tmp")
        schema = features.arrow_schema
        try:
            with pq.ParquetFile(parquet) as source:
                theirs = _features_of(source.schema_arrow, self.repo_id)
                if wrong := [name for name in features if theirs.get(name) != features[name]]:
                    raise HubError(f"{parquet.name} of {self.repo_id} has other columns than it should: {wrong}.")
                with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
                    row = 0
                    for group in range(source.num_row_groups):  # at once, all of them would stay in memory
                        for batch in source.iter_batches(_ROWS_IN_MEMORY, [group], list(features)):
                            _check_rows(batch, row, f"{parquet.name} of {self.repo_id}")
                            columns = [_as_stored(batch.column(field.name), field) for field in schema]
                            stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
                            row += len(batch)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk; Parquet's have none
                raise
            raise HubError(f"The file {parquet.name} of {self.repo_id} cannot be read: {error}.") from error
        aside.replace(arrow)
        parquet.unlink()


def check_format(metadata: Any, repo_id: str) -> None:
    """Make sure that a metadata.json is one that this version can use.

    Raises:
        HubError: it is not.
    """
    theirs = metadata.get("format_version") if isinstance(metadata, dict) else None
    if isinstance(theirs, int) and theirs > FORMAT_VERSION:
        raise HubError(
            f"The life {repo_id} is of format {theirs}, newer than the {FORMAT_VERSION} that this version of "
            "singlelife reads. Upgrade it: pip install -U singlelife."
        )
    if isinstance(theirs, int) and theirs < FORMAT_VERSION:
        raise HubError(
            f"The life {repo_id} is of format {theirs}; this version of singlelife reads format {FORMAT_VERSION}. Ask "
            "its owner to prepare and push it again."
        )
    kinds: dict[str, Any] = {
        "fingerprint": str, "license": str, "dataset": str, "frame_rate": (int, float), "frame_size": int,
        "num_frames": int, "videos": list, "left_out": list, "simulation": (dict, type(None)),
        "depth_scale": (int, float, type(None)),
    }  # fmt: skip
    wrong = [key for key, kind in kinds.items() if theirs is None or not isinstance(metadata.get(key, ...), kind)]
    wrong += [
        key
        for key in ("videos", "left_out")
        if key not in wrong and not all(isinstance(video, dict) and "video" in video for video in metadata[key])
    ]
    if wrong or not metadata["frame_rate"] > 0:
        raise HubError(
            f"The {METADATA} of {repo_id} is not that of a prepared life: {', '.join(wrong) or 'frame_rate'} missing "
            "or of the wrong type. `singlelife push-life` makes such a repository."
        )


def known_columns(schema: pa.Schema, repo_id: str) -> Features:
    """Those of a file's columns that a life has, in their order.

    Raises:
        HubError: columns are missing or of other types.
    """
    theirs = _features_of(schema, repo_id)
    wrong = [
        f"{name} ({'missing' if name not in theirs else f'{theirs[name]} instead of {feature}'})"
        for name, feature in (COLUMNS | OPTIONAL_COLUMNS).items()
        if (name in COLUMNS or name in theirs) and theirs.get(name) != feature
    ]
    if wrong:
        raise HubError(
            f"The data set {repo_id} is no life. Its columns are {', '.join(theirs)}, and not right are: "
            f"{'; '.join(wrong)}."
        )
    return Features({name: feature for name, feature in theirs.items() if name in COLUMNS | OPTIONAL_COLUMNS})


def _features_of(schema: pa.Schema, repo_id: str) -> Features:
    try:
        return Features.from_arrow_schema(schema)
    except Exception as error:  # of many kinds, by what is wrong with what a file says of its own columns
        raise HubError(f"The columns of {repo_id} cannot be read: {error}.") from error


def _schema(file: Any, repo_id: str) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except pa.ArrowException as error:
        raise HubError(f"The frames of {repo_id} cannot be read: {error}.") from error


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


def _num_rows(arrow: Path) -> int:
    with pa.memory_map(str(arrow)) as file, pa.ipc.open_stream(file) as stream:
        return sum(len(batch) for batch in stream)


def _videos(repo_id: str, name: str, sha: str, num_bytes: int, progress: bool) -> Life:
    """The life of a data set that has videos instead of frames, if this is one; the videos are downloaded."""
    features = columns_of(repo_id, sha)
    if not any(isinstance(feature, Video) for feature in features.values()):
        raise HubError(
            f"The data set {repo_id} is no life: it has no {METADATA}, as `singlelife push-life` writes, and no Video "
            f"column to prepare. Its columns are {', '.join(features) or 'not known'}."
        )
    from singlelife.lives.video.sources import videos_of

    cache = Path(HF_HUB_CACHE)
    check_room(num_bytes, cache, f"The data set {repo_id}", "choose another place with HF_HOME")
    if progress:
        print(f"{repo_id}: {in_bytes(num_bytes)} of videos, into {cache}", file=sys.stderr)
    return get_life(name, videos_of(load_dataset(repo_id, revision=sha, split="train")))


def columns_of(repo_id: str, sha: str) -> Features:
    """The columns of a data set of any form, which `datasets` finds out without downloading the data.

    Raises:
        HubError: it has none that can be read: it is empty, or has scripts, which are never run.
    """
    with TemporaryDirectory() as empty:  # where `datasets` finds no older version to take instead
        try:
            dataset = load_dataset(repo_id, revision=sha, split="train", streaming=True, cache_dir=empty)
        except (RuntimeError, ValueError, DataFilesNotFoundError, EmptyDatasetError) as error:
            raise HubError(f"The data set {repo_id} cannot be read: {str(error).splitlines()[0]}") from error
    return dataset.features or Features()


def sizes_of(info: DatasetInfo) -> dict[str, int]:
    """The size in bytes of each file of a repository, by its path."""
    siblings: list[RepoSibling] = info.siblings or []
    return {sibling.rfilename: sibling.size or 0 for sibling in siblings}
