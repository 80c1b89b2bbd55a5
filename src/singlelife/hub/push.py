"""Push files to a repository: send them one after another, then make all of them visible in one commit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, TypeAlias

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import disable_progress_bars

from singlelife.errors import HubError
from singlelife.hub.cards import CARD, WRITTEN
from singlelife.hub.client import (
    RepoInfo,
    check_push,
    described,
    file_sizes,
    full_name,
    hub_api,
    open_repository,
    read_remote,
    retry,
)
from singlelife.hub.errors import translate_hub_errors

# The Hub stores the content of these files apart from the commits, so each can be sent on its own.
_LARGE = (".arrow", ".parquet", ".png", ".safetensors")
_KEPT = "The Hub keeps the files sent so far; run the same command again to send the rest."

Content: TypeAlias = Path | bytes
File: TypeAlias = tuple[str, Content]  # path in the repository, content


@dataclass(frozen=True, kw_only=True)
class Publication:
    """The wanted content of a repository.

    Attributes:
        repo_id: ORG/NAME, or a NAME in the user's own namespace.
        what: a name for messages, such as `"the life sim_1"`.
        files: makes the files and their paths in the repository, one after another. A file on disk may be deleted
            when the next one is asked for.
        card: makes the text of README.md, which is sent last, from ORG/NAME.
        sizes: the files' sizes in bytes, where known before they are made.
        marker: a file that every repository of this sort has; a repository without it is left alone.
        other: from the marker's text, what the repository holds if it is not `what`; None if it is.
        replaces: patterns of files to delete there if they are no longer among `files`.
        branch: the branch to commit to, created if necessary; it keeps no history. By default `main`, with history.
    """

    repo_id: str
    kind: Literal["dataset", "model"]
    what: str
    files: Callable[[], Iterable[File]]
    sizes: dict[str, int]
    marker: str
    message: str = "singlelife push"
    card: Callable[[str], str] | None = None
    other: Callable[[str], str | None] | None = None
    replaces: tuple[str, ...] = ()
    branch: str | None = None


def publish(publication: Publication, *, private: bool = True, tries: int = 5, progress: bool = True) -> str:
    """Push a publication. Files already on the Hub are not sent again, so calling it again continues an interrupted
    push.

    Args:
        publication: what to push.
        private: only its owner sees the repository.
        tries: the maximum number of tries while the Hub cannot be reached.
        progress: show the client's progress bars, and print the reason for waiting. Otherwise the bars of this process
            stay off.

    Returns:
        The repository's URL.

    Raises:
        HubError: the name is wrong or taken by something else, the token is missing or may not write there, the
            repository is public and should be private (or the other way round), or the connection breaks.
    """
    api, kind, branch = hub_api(), publication.kind, publication.branch
    check_push(publication.repo_id)
    if not progress:
        disable_progress_bars()

    def push() -> str:
        repo_id = full_name(api, publication.repo_id)
        with translate_hub_errors(repo_id, f"Pushing to {repo_id}", _KEPT, kind):
            there = claim(api, repo_id, publication, private)
            if branch is not None:
                api.create_branch(repo_id, branch=branch, repo_type=kind, exist_ok=True)
            changed = _commit(api, repo_id, publication, _contents(api, publication, repo_id, there))
            if changed and branch is not None:
                api.super_squash_history(repo_id, branch=branch, repo_type=kind)
        return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"

    return retry(push, tries, print if progress else lambda _: None)


def claim(api: HfApi, repo_id: str, publication: Publication, private: bool) -> RepoInfo | None:
    """Create the repository, or check that the existing one can take this publication; see `open_repository`."""
    there = open_repository(api, repo_id, publication.kind, private)
    names = set(file_sizes(there))
    if there is None or not names - {".gitattributes", CARD}:
        return there
    if publication.marker not in names:
        raise HubError(
            f"The name {repo_id} is taken: it holds files that do not belong to {publication.what}. Choose another "
            "name."
        )
    if publication.other is not None:
        other = publication.other(read_remote(api, there, publication.kind, publication.marker))
        if other is not None:
            raise HubError(f"{repo_id} holds {other}, not {publication.what}. Choose another name.")
    return there


def _contents(api: HfApi, publication: Publication, repo_id: str, there: RepoInfo | None) -> Iterator[File]:
    """The files and the card, unless the owner of a model has rewritten it."""
    yield from publication.files()
    if publication.card is None:
        return
    theirs = read_remote(api, there, "model", CARD) if publication.kind == "model" else ""
    if theirs and WRITTEN not in theirs:
        print(f"The owner of {repo_id} has rewritten its card; it stays as it is.")
        return
    yield CARD, publication.card(repo_id).encode()


def _commit(api: HfApi, repo_id: str, publication: Publication, files: Iterable[File]) -> bool:
    """Send files one after another, then make them visible in one commit. Returns whether anything has changed. In
    this way the client starts no threads, which Python would wait for at exit."""
    where: dict[str, Any] = {"repo_id": repo_id, "repo_type": publication.kind, "revision": publication.branch}
    additions = []
    for name, content in files:
        addition = CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        if name.endswith(_LARGE):
            api.preupload_lfs_files(additions=[addition], **where)
        additions.append(addition)
    before = described(api, repo_id, publication.kind, publication.branch)
    stale = [
        CommitOperationDelete(name)
        for name in file_sizes(before).keys() - {addition.path_in_repo for addition in additions}
        if any(fnmatch(name, glob) and name.count("/") == glob.count("/") for glob in publication.replaces)
    ]
    message = publication.message
    commit = api.create_commit(operations=[*additions, *stale], commit_message=message, num_threads=1, **where)
    return commit.oid != before.sha
