"""Download files from a repository: look them up first, with their sizes, then fetch them once per commit."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE

from singlelife.errors import HubError
from singlelife.files import check_room
from singlelife.hub.client import RepoInfo, check_name, described, file_sizes, hub_api
from singlelife.hub.errors import WORDS, HubUnreachable, RepoType, translate_hub_errors

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Remote:
    """A repository at one commit.

    Attributes:
        repo_id: ORG/NAME.
        kind: the kind of repository.
        commit: its SHA-1.
        sizes: the files' sizes in bytes, by path.
        revision: the branch, tag or commit that was asked for; None for `main`.
        info: the Hub's whole description.
    """

    repo_id: str
    kind: RepoType
    commit: str
    sizes: dict[str, int]
    revision: str | None
    info: RepoInfo = field(repr=False)


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which never changes, rather than a branch or tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def look_up(repo_id: str, kind: RepoType, revision: str | None = None) -> Remote:
    """The repository as it is now, with the sizes of its files.

    Raises:
        HubError: it does not exist, or you have no access to it; HubUnreachable: the Hub cannot be asked.
    """
    check_name(repo_id)
    with translate_hub_errors(repo_id, f"Looking up {repo_id}", kind=kind):
        info = described(hub_api(), repo_id, kind, revision)
    if info.sha is None or not is_commit(info.sha):  # the commit becomes a folder's name
        raise HubError(f"The Hub gives {info.sha!r} for {repo_id}, which is not a commit.")
    return Remote(repo_id, kind, info.sha, file_sizes(info), revision, info)


def kept_without_network(repo_id: str, kind: RepoType, file: str, revision: str | None, why: HubUnreachable) -> Path:
    """The folder in the client's cache that has a repository's file, for use without the Hub; stderr says so.

    Raises:
        HubUnreachable: `why`; the cache does not have the file.
    """
    kept = try_to_load_from_cache(repo_id, file, revision=revision, repo_type=kind)
    if not isinstance(kept, str):
        raise why
    say_kept(repo_id, Path(kept).parent.name, why)
    return Path(kept).parent


def say_kept(repo_id: str, commit: str, why: HubUnreachable) -> None:
    """Say which earlier download is used."""
    print(f"{why} Using the earlier download of {repo_id}, commit {commit[:12]}.", file=sys.stderr)


def fetch(remote: Remote, files: Sequence[str], folder: Path | None = None) -> Path:
    """Download the files of a repository that are missing here, after checking that there is room for them.

    Args:
        remote: what `look_up` found.
        files: their paths in the repository, at least one.
        folder: where to put them; the client's cache by default.

    Returns:
        The folder that has them.

    Raises:
        LifeError: the disk has too little room.
        HubError: the download fails. Complete files are kept.
    """
    where: dict[str, Any] = {"repo_id": remote.repo_id, "repo_type": remote.kind}

    def is_here(name: str) -> bool:
        if folder is not None:
            return (folder / name).is_file()
        return isinstance(try_to_load_from_cache(filename=name, revision=remote.commit, **where), str)

    needed = sum(remote.sizes.get(name, 0) for name in files if not is_here(name))
    otherwise = "choose another place" if folder else "choose another place with HF_HOME"
    check_room(needed, folder or Path(HF_HUB_CACHE), f"The {WORDS[remote.kind]} {remote.repo_id}", otherwise)
    # Fetch the first file by the branch's name, so that the cache knows the branch's commit when there is no network.
    api, place, revision = hub_api(), folder, remote.commit if folder else remote.revision or "main"
    kept = "Complete files are kept; run the same command again to continue."
    with translate_hub_errors(remote.repo_id, f"Downloading {remote.repo_id}", kept, remote.kind):
        for name in files:
            path = Path(api.hf_hub_download(filename=name, revision=revision, local_dir=folder, **where))
            place = folder or path.parents[name.count("/")]
            revision = remote.commit if folder else place.name
    assert place is not None, "there is a file to fetch"
    return place
