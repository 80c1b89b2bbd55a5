"""Sending files to a repository: one after another, and then all of them visible in one commit."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, TypeAlias

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from huggingface_hub.utils import logging as hub_logging

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
from singlelife.hub.errors import KEPT, Kind, translate_hub_errors

# Of these kinds of files the Hub keeps the content apart from the commits, so each can be sent on its own.
_LARGE = (".arrow", ".parquet", ".png", ".safetensors")
_KINDS: dict[str, Kind] = {"dataset": "data set", "model": "model"}

Content: TypeAlias = Path | bytes
Check: TypeAlias = Callable[[HfApi, RepoInfo], None]


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What is to be in a repository.

    Attributes:
        repo_id: ORG/NAME, or a NAME in the user's own namespace.
        kind: of the repository.
        what: it is, for messages, such as `"the life sim_1"`.
        message: of the commit.
        files: makes the files by their path in the repository, one after another. A file on disk may go away when the
            next one is asked for.
        card: makes the text of README.md, which comes last, from ORG/NAME; None where there is no card.
        sizes: of the files in bytes, as far as they are known before they are made.
        marker: a file that is in every repository of this sort; another repository is not touched.
        replaces: patterns of files that are deleted there if they are no longer among these.
        check: called with a repository that was there; raises HubError if it holds something else of this sort.
        keeps_card: whether a card that its owner has rewritten stays.
        squash: whether the branch keeps no history, because earlier states are of no use and as large.
    """

    repo_id: str
    kind: Literal["dataset", "model"]
    what: str
    message: str
    files: Callable[[], Iterable[tuple[str, Content]]]
    card: Callable[[str], str] | None
    sizes: dict[str, int]
    marker: str
    replaces: tuple[str, ...] = ()
    check: Check | None = None
    keeps_card: bool = False
    squash: bool = False


def publish(
    publication: Publication,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    tries: int = 5,
    progress: bool = True,
) -> str:
    """Push a publication. What is on the Hub is not sent again: an interrupted push goes on when it is called again.

    Args:
        publication: what to push.
        private: only its owner sees the repository.
        token: with write access; by default that of `hf auth login` or of HF_TOKEN.
        revision: the branch to commit to, made if it is not there; `main` by default.
        tries: how many, while the Hub cannot be reached.
        progress: show the client's progress bars, and say why it waits.

    Returns:
        The repository's URL.

    Raises:
        HubError: the name is wrong or taken by something else, there is no token or it may not write there, the
            repository is public and should be private (or the other way round), or the connection breaks.
    """
    kind = _KINDS[publication.kind]
    if "/" in publication.repo_id:
        check_push(publication.repo_id, token, kind)
    api = hub_api(token)

    def push() -> str:
        repo_id = full_name(api, publication.repo_id)
        with translate_hub_errors(repo_id, f"Pushing to {repo_id}", KEPT, kind), _quiet_client(progress):
            there = claim(
                api,
                repo_id,
                publication.kind,
                private,
                what=publication.what,
                marker=publication.marker,
                check=publication.check,
            )
            if revision is not None:
                api.create_branch(repo_id, branch=revision, repo_type=publication.kind, exist_ok=True)
            files = _with_card(api, publication, repo_id, there)
            changed = _commit(api, repo_id, publication, files, revision)
            if changed and publication.squash:
                api.super_squash_history(repo_id, branch=revision or "main", repo_type=publication.kind)
        return f"{api.endpoint}/{'datasets/' if publication.kind == 'dataset' else ''}{repo_id}"

    return retry(push, tries, print if progress else lambda _: None)


def claim(
    api: HfApi,
    repo_id: str,
    kind: Literal["dataset", "model"],
    private: bool,
    *,
    what: str,
    marker: str,
    check: Check | None = None,
) -> RepoInfo | None:
    """Create the repository, or make sure that the one of that name holds the same sort of thing.

    Args:
        what, marker, check: see `Publication`.

    Returns:
        What the Hub says of one that was there.

    Raises:
        HubError: it cannot be pushed to.
    """
    there = open_repository(api, repo_id, kind, private)
    names = set(file_sizes(there))
    if there is not None and names - {".gitattributes", CARD} and marker not in names:
        raise HubError(
            f"The name {repo_id} is taken: it holds files that are not those of {what}. Choose another name."
        )
    if there is not None and check is not None:
        check(api, there)
    return there


def _commit(
    api: HfApi,
    repo_id: str,
    publication: Publication,
    files: Iterable[tuple[str, Content]],
    revision: str | None,
) -> bool:
    """Send files one after another, then make them visible in one commit. Returns whether anything has changed.

    One at a time needs the memory of one, and no thread of the client's own, which Python would wait for at its end.
    """
    kind, additions = publication.kind, []
    for name, content in files:
        addition = CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        if name.endswith(_LARGE):
            api.preupload_lfs_files(repo_id, [addition], repo_type=kind, revision=revision)
        additions.append(addition)
    before = described(api, repo_id, kind, revision)
    new = {addition.path_in_repo for addition in additions}
    stale = [
        CommitOperationDelete(name)
        for name in file_sizes(before)
        if name not in new and _matches(name, publication.replaces)
    ]
    commit = api.create_commit(
        repo_id,
        [*additions, *stale],
        commit_message=publication.message,
        repo_type=kind,
        revision=revision,
        num_threads=1,
    )
    return commit.oid != before.sha


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def _with_card(
    api: HfApi, publication: Publication, repo_id: str, there: RepoInfo | None
) -> Iterator[tuple[str, Content]]:
    yield from publication.files()
    if publication.card is None:
        return
    if publication.keeps_card and there is not None:
        theirs = read_remote(api, there, publication.kind, CARD)
        if theirs is not None and WRITTEN not in theirs:
            print(f"The card of {repo_id} was rewritten by its owner, and stays as it is.")
            return
    yield CARD, publication.card(repo_id).encode()


@contextmanager
def _quiet_client(progress: bool) -> Iterator[None]:
    """Hide the client's remarks about files that have not changed, and without `progress` its bars."""
    were_disabled, level = are_progress_bars_disabled(), hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    if not progress:
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if not were_disabled:
            enable_progress_bars()
