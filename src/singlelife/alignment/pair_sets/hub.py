"""Pair sets on the Hub: the folder of a stored set as it is, as a data set repository."""

from pathlib import Path

from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.alignment.pair_sets.storage import DESCRIPTION, ROWS, pair_set_card, read_description
from singlelife.hub.errors import HubUnreachable
from singlelife.hub.pull import fetch, kept_without_network, look_up
from singlelife.hub.push import Publication

_FILES = (DESCRIPTION, ROWS, "dataset_dict.json", "test/state.json", "test/dataset_info.json")


def pair_set_publication(path: Path, repo_id: str, *, license: str | None = None) -> Publication:
    """A stored pair set to `publish`; views of a life show people who were not asked.

    Args:
        path: its folder, which is verified.
        repo_id: ORG/NAME of a data set, or a NAME in the user's own namespace.
        license: of the views; those of the lives by default.

    Raises:
        PairSetError: the pair set cannot be used.
    """
    pairs, described = PairSet.load(path), read_description(path)
    return Publication(
        repo_id=repo_id,
        kind="dataset",
        what=f"the pair set {pairs.name}",
        message=f"The pair set {pairs.name}, {len(pairs):,} pairs, {pairs.hash[:12]}",
        files=lambda: [(name, path / name) for name in _FILES],
        card=lambda repo_id: pair_set_card(pairs, described, repo_id=repo_id, license=license),
        sizes={name: (path / name).stat().st_size for name in _FILES},
        marker=DESCRIPTION,
    )


def hub_pair_set(repo_id: str, revision: str | None = None) -> PairSet | None:
    """The pair set of a repository, downloaded into the cache of the Hub unless it is there; None if it holds none.

    Raises:
        HubError: the data set is not there or not for you, or the connection breaks.
        LifeError: the disk lacks the room.
        PairSetError: what is there is damaged.
    """
    try:
        remote = look_up(repo_id, "dataset", revision)
    except HubUnreachable as error:
        try:
            folder = kept_without_network(repo_id, "dataset", DESCRIPTION, revision, error)
        except HubUnreachable:
            return None  # it may be a life, which is kept elsewhere
        return PairSet.load(folder, progress=True)
    if DESCRIPTION not in remote.sizes:
        return None
    read_description(fetch(remote, [DESCRIPTION]))  # which may be too new, before its pairs are downloaded
    return PairSet.load(fetch(remote, [name for name in (DESCRIPTION, ROWS) if name in remote.sizes]), progress=True)
