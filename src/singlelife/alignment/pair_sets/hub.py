"""Pair sets on the Hub: a stored set's folder as it is, as a data set repository."""

import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE

from singlelife.alignment.pair_sets.card import pair_set_card
from singlelife.alignment.pair_sets.pair_set import PairSet
from singlelife.alignment.pair_sets.storage import CARD, DESCRIPTION, ROWS, read_description
from singlelife.errors import HubError, LifeError, PairSetError
from singlelife.files import check_room
from singlelife.hub.errors import HubUnreachable, translate_hub_errors
from singlelife.hub.repositories import hub_api, open_repository
from singlelife.lives.hub.download import sizes_of
from singlelife.lives.hub.push import check_push


def push_pair_set(
    path: Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    license: str | None = None,
) -> str:
    """Push a stored pair set to the Hub, in one commit. What an interrupted push has sent is not sent again.

    Args:
        path: the folder of a stored pair set, which is verified first.
        repo_id: ORG/NAME of a data set; it is made if it is not there.
        private: only its owner sees it. Views of a life show people who were not asked.
        token: with write access; the one of `hf auth login` or of HF_TOKEN by default.
        revision: the branch to commit to, made if it is not there; `main` by default.
        license: of the views; those of the lives by default.

    Returns:
        The repository's URL.

    Raises:
        PairSetError: the pair set cannot be used.
        HubError: the name is wrong or taken by something else, there is no token or it may not write there, the
            repository is public and should be private (or the other way round), or the connection breaks.
    """
    check_push(repo_id, token)
    pairs, described = PairSet.load(path), read_description(path)
    api = hub_api(token)
    with translate_hub_errors(
        repo_id, f"Pushing to {repo_id}", "What was sent is kept; the same command goes on from there."
    ):
        _make_room_for(api, pairs, repo_id, private)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
        card = pair_set_card(pairs, described, repo_id=repo_id, license=license)
        rows = Path(ROWS)
        files = [
            DESCRIPTION,
            ROWS,
            "dataset_dict.json",
            f"{rows.parent}/state.json",
            f"{rows.parent}/dataset_info.json",
        ]
        api.create_commit(
            repo_id,
            [CommitOperationAdd(CARD, card.encode()), *(CommitOperationAdd(name, str(path / name)) for name in files)],
            commit_message=f"The pair set {pairs.name}, {len(pairs):,} pairs, {pairs.hash[:12]}",
            repo_type="dataset",
            revision=revision,
        )
    return f"{api.endpoint}/datasets/{repo_id}"


def _make_room_for(api: HfApi, pairs: PairSet, repo_id: str, private: bool) -> None:
    """Create the repository, or make sure that the one of that name holds pairs and is as private as it should be."""
    there = open_repository(api, repo_id, "dataset", private)
    if there is None:
        return
    names = {sibling.rfilename for sibling in there.siblings or []}
    if names - {".gitattributes", CARD} and DESCRIPTION not in names:
        raise HubError(f"The name {repo_id} is taken: it holds files that are no pair set. Choose another name.")


def hub_pair_set(repo_id: str, revision: str | None = None) -> PairSet | None:
    """The pair set of a repository, downloaded into the cache of the Hub unless it is there; None if it holds none.

    Without a network, what was kept is taken, and that is said.

    Raises:
        HubError: the data set is not there or not for you, or the connection breaks.
        PairSetError: what is there is damaged, or too large for the disk.
    """
    api = hub_api()
    try:
        with translate_hub_errors(repo_id, f"Looking up {repo_id}"):
            info = api.dataset_info(repo_id, revision=revision, files_metadata=True)
    except HubUnreachable as error:
        kept = try_to_load_from_cache(repo_id, DESCRIPTION, revision=revision, repo_type="dataset")
        if not isinstance(kept, str):
            return None  # it may be a life, which is kept elsewhere
        folder = Path(kept).parent
        print(f"{error} Going on with {repo_id} as it was kept, commit {folder.name[:12]}.", file=sys.stderr)
        return PairSet.load(folder, progress=True)
    sizes = sizes_of(info)
    if DESCRIPTION not in sizes:
        return None
    try:
        check_room(
            sum(sizes.values()), Path(HF_HUB_CACHE), f"The pair set {repo_id}", "choose another place with HF_HOME"
        )
    except LifeError as error:
        raise PairSetError(str(error)) from error
    with translate_hub_errors(repo_id, f"Downloading {repo_id}"):
        # By its name, so that the cache knows which commit that is when there is no network.
        folder = Path(api.hf_hub_download(repo_id, DESCRIPTION, repo_type="dataset", revision=revision)).parent
        read_description(folder)
        if ROWS in sizes:
            api.hf_hub_download(repo_id, ROWS, repo_type="dataset", revision=folder.name)
    return PairSet.load(folder, progress=True)
