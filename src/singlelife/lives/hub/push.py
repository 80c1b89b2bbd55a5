"""Pushing a prepared life to the Hub, as a repository that `datasets.load_dataset` opens.

The repository has the frames as Parquet files in `data/`, poses and visible points, where they are kept beside the
life, in `geometry/`, `metadata.json` as the prepared life has it, and a dataset card. All of it appears in one commit:
until the last file is there, nobody sees half a life, and what an interrupted push has sent is not sent again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from datasets import Dataset, load_from_disk
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from tqdm.auto import tqdm

from singlelife.errors import HubError
from singlelife.files import check_room
from singlelife.hub.errors import is_repo_id, translate_hub_errors
from singlelife.hub.licenses import stated
from singlelife.hub.repositories import check_token, hub_api, open_repository
from singlelife.lives.hub.card import dataset_card
from singlelife.lives.prepared import GEOMETRY, GEOMETRY_METADATA, METADATA, PreparedLife

_CARD = "README.md"
_FRAMES, _GEOMETRY = "data/train", f"{GEOMETRY}/train"
_ROWS_PER_GROUP = 200  # some megabytes: what a look at one frame has to fetch; `datasets` would take 100 MB


def push_life(
    life: PreparedLife,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    max_shard_size: int | str = "500MB",
    license: str | None = None,
    progress: bool = True,
) -> str:
    """Push a prepared life to the Hub. The frames' bytes stay as they are.

    A push that was interrupted goes on when it is called again, and one of a life that is there already changes
    nothing. A life that was prepared anew replaces the old one as a new commit.

    Args:
        life: the prepared life.
        repo_id: ORG/NAME of a data set; it is made if it is not there.
        private: only its owner sees it. A life shows people who were not asked.
        token: with write access; the one of `hf auth login` or of HF_TOKEN by default.
        revision: the branch to commit to, made if it is not there; `main` by default.
        max_shard_size: of a Parquet file; the memory and the temporary disk space needed do not exceed it by much.
        license: of the frames; as it is in the life's metadata by default.
        progress: show a progress bar on stderr.

    Returns:
        The repository's URL.

    Raises:
        HubError: the name is wrong or taken by something else, there is no token or it may not write there, the
            repository is public and should be private (or the other way round), or the connection breaks.
        LifeError: the disk lacks the room for a file.
    """
    check_push(repo_id, token)
    try:
        limit = convert_file_size_to_int(max_shard_size)
    except ValueError as error:
        raise HubError(f"The size of a shard should look like 500MB or 2GB, not {max_shard_size!r}.") from error
    needed, scratch = min(limit, life.dataset.data.nbytes), Path(gettempdir())
    check_room(
        needed,
        scratch,
        f"The data set {repo_id}",
        "choose another place with TMPDIR, or smaller files with --max-shard-size",
    )
    license = stated(life.metadata["license"] if license is None else license)
    api = hub_api(token)
    with translate_hub_errors(
        repo_id, f"Pushing to {repo_id}", "What was sent is kept; the same command goes on from there."
    ):
        _make_room_for(api, life, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
        title = f"Pushing {life.name}" if progress else None
        frames = _push_rows(api, life.dataset, _FRAMES, repo_id, revision, limit, title)
        size = sum(file.upload_info.size for file in frames)
        described = {METADATA: json.dumps(_public_metadata(life, license), indent=2)}
        geometry: dict[str, Any] = {}
        if (life.path / GEOMETRY / GEOMETRY_METADATA).is_file():
            text = (life.path / GEOMETRY / GEOMETRY_METADATA).read_text(encoding="utf-8")
            geometry, described[f"{GEOMETRY}/{GEOMETRY_METADATA}"] = json.loads(text), text
            rows = load_from_disk(str(life.path / GEOMETRY))
            frames += _push_rows(api, rows, _GEOMETRY, repo_id, revision, limit, title and f"{title}'s geometry")
        described[_CARD] = dataset_card(life, repo_id, license, size, geometry)
        texts = [CommitOperationAdd(name, text.encode()) for name, text in described.items()]
        there = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
        new = {file.path_in_repo for file in [*frames, *texts]}
        ours = tuple(f"{Path(files).parent}/" for files in (_FRAMES, _GEOMETRY))
        stale = [CommitOperationDelete(name) for name in there if name.startswith(ours) and name not in new]
        api.create_commit(
            repo_id,
            [*frames, *texts, *stale],
            commit_message=f"The life {life.name}, {len(life):,} frames",
            repo_type="dataset",
            revision=revision,
        )
    return f"{api.endpoint}/datasets/{repo_id}"


def check_push(repo_id: str, token: str | None = None) -> None:
    """Make sure of what can be without asking the Hub, before a life is prepared for hours.

    Raises:
        HubError: the name cannot be one, or there is no token.
    """
    if not is_repo_id(repo_id):
        raise HubError(f"{repo_id!r} is not the name of a data set on the Hub; it should look like ORG/NAME.")
    check_token(token)


def _make_room_for(api: HfApi, life: PreparedLife, repo_id: str, private: bool) -> None:
    """Create the repository, or make sure that the one of that name is this life's and as private as it should be."""
    there = open_repository(api, repo_id, "dataset", private)
    if there is None:
        return
    names = {sibling.rfilename for sibling in there.siblings or []}
    if METADATA in names:
        theirs = _metadata_in(api, repo_id)
        if theirs.get("name") != life.name and theirs.get("fingerprint") != life.metadata["fingerprint"]:
            held = f"the life {theirs['name']}" if "name" in theirs else "something else"
            raise HubError(f"{repo_id} holds {held}, not the life {life.name}. Choose another name.")
    elif names - {".gitattributes", _CARD}:
        raise HubError(f"The name {repo_id} is taken: it holds files that are no prepared life. Choose another name.")


def _metadata_in(api: HfApi, repo_id: str) -> dict[str, Any]:
    """What the metadata.json of a repository says; nothing if it is not that of a life."""
    with TemporaryDirectory() as scratch:
        file = api.hf_hub_download(repo_id, METADATA, repo_type="dataset", local_dir=scratch)
        try:
            metadata = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError:
            return {}
    return metadata if isinstance(metadata, dict) else {}


def _push_rows(
    api: HfApi, rows: Dataset, files: str, repo_id: str, revision: str | None, limit: int, title: str | None
) -> list[CommitOperationAdd]:
    """Send rows, a Parquet file of at most `limit` bytes at a time. Returns what is still to be committed."""
    num_files = max(1, min(len(rows), -(-rows.data.nbytes // limit)))
    additions = []
    bar = tqdm(desc=title, total=len(rows), unit=" frames", disable=title is None)
    with bar, _without_bars_of_datasets(), TemporaryDirectory(prefix="singlelife-") as scratch:
        for index in range(num_files):
            shard = rows.shard(num_files, index, contiguous=True)
            name = f"{files}-{index:05d}-of-{num_files:05d}.parquet"
            file = Path(scratch) / Path(name).name
            shard.to_parquet(file, batch_size=_ROWS_PER_GROUP)
            addition = CommitOperationAdd(name, str(file))
            api.preupload_lfs_files(repo_id, [addition], repo_type="dataset", revision=revision)
            additions.append(addition)
            file.unlink()
            bar.update(len(shard))
    return additions


@contextmanager
def _without_bars_of_datasets() -> Iterator[None]:
    """Hide the progress bars of `datasets` for each file: what calls it has one of its own."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _public_metadata(life: PreparedLife, license: str) -> dict[str, Any]:
    """What others need of a life's metadata: not where it came from here, nor the Arrow files of this copy."""
    metadata = {name: value for name, value in life.metadata.items() if name != "hub"} | {"license": license}
    metadata["videos"] = [
        {name: value for name, value in report.items() if name != "file"} for report in metadata["videos"]
    ]
    return metadata
