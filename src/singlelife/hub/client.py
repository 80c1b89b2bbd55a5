"""The Hub client: tokens, repositories' names and visibility, and retries."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, TypeVar

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, SpaceInfo

from singlelife._version import __version__
from singlelife.errors import HubError
from singlelife.hub.errors import HubUnreachable, RepoType, is_repo_id, translate_hub_errors
from singlelife.text import duration

RepoInfo: TypeAlias = DatasetInfo | ModelInfo | SpaceInfo
Result = TypeVar("Result")

_LONGEST_WAIT = 300.0  # seconds between two tries, unless the Hub asks for more


def hub_api() -> HfApi:
    """The client, with the token from `hf auth login` or HF_TOKEN."""
    return HfApi(library_name="singlelife", library_version=__version__)


def check_name(repo_id: str) -> None:
    """Raise a HubError if `repo_id` is not a valid repository name, ORG/NAME."""
    if not is_repo_id(repo_id):
        raise HubError(f"{repo_id!r} cannot be a name on the Hub; it should look like ORG/NAME.")


def check_push(repo_id: str | None) -> None:
    """Check what can be checked without asking the Hub, before hours of work. NAME without ORG is allowed.

    Raises:
        HubError: the name is not valid, there is no token, or HF_HUB_OFFLINE is set.
    """
    if repo_id is not None and "/" in repo_id:
        check_name(repo_id)
    if constants.HF_HUB_OFFLINE:
        raise HubError("Pushing needs the Hub, and HF_HUB_OFFLINE forbids it. Unset it, or push later.")
    if not get_token():
        raise HubError(
            "Pushing to the Hub needs a token with write access: log in with `hf auth login` or set HF_TOKEN."
        )


def full_name(api: HfApi, repo_id: str) -> str:
    """ORG/NAME of a repository; NAME without ORG means the token user's own namespace.

    Raises:
        HubError: the name is not valid, or the Hub does not know the token.
    """
    if "/" not in repo_id:
        with translate_hub_errors("your name", "Asking the Hub for your name", "", "model"):
            repo_id = f"{api.whoami()['name']}/{repo_id}"
    check_name(repo_id)
    return repo_id


def open_repository(api: HfApi, repo_id: str, kind: RepoType, private: bool) -> RepoInfo | None:
    """Create a repository, or check that the existing one is private or public as asked. Returns the Hub's description
    of an existing repository, with its files; None for a new one.

    Raises:
        HubError: you have no access to the repository, its namespace does not exist, or it is public and should be
            private (or the other way round). The client's other errors pass through.
    """
    try:
        there = described(api, repo_id, kind)
    except RepositoryNotFoundError:
        try:
            sdk = "gradio" if kind == "space" else None
            api.create_repo(repo_id, repo_type=kind, private=private, space_sdk=sdk)
        except HfHubHTTPError as error:
            if error.response.status_code == 404:
                where = f"user or organisation {repo_id.split('/')[0]} on the Hub to push {repo_id} to."
                raise HubError(f"There is no {where}") from error
            if error.response.status_code == 409:
                raise HubError(f"The name {repo_id} is taken by a repository that you cannot see.") from error
            raise
        return None
    if bool(there.private) != private:
        state, wish = ("private", "public") if there.private else ("public", "private")
        where = f"{api.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
        raise HubError(
            f"{repo_id} exists already and is {state}, not {wish} as asked. Change that in {where}/settings, or "
            "push to another name."
        )
    return there


def described(api: HfApi, repo_id: str, kind: RepoType, revision: str | None = None) -> RepoInfo:
    """The Hub's description of a repository, with the sizes of its files; the client's errors pass through."""
    info = api.repo_info(repo_id, repo_type=kind, revision=revision, files_metadata=True)
    assert isinstance(info, DatasetInfo | ModelInfo | SpaceInfo)
    return info


def file_sizes(info: RepoInfo | None) -> dict[str, int]:
    """The size in bytes of each file of a repository, by its path."""
    return {sibling.rfilename: sibling.size or 0 for sibling in (info.siblings if info else None) or []}


def read_remote(api: HfApi, info: RepoInfo | None, kind: RepoType, name: str) -> str:
    """The text of a file in a repository; empty if there is no such file."""
    if info is None or name not in file_sizes(info):
        return ""
    with TemporaryDirectory() as scratch:
        file = api.hf_hub_download(info.id, name, repo_type=kind, revision=info.sha, local_dir=scratch)
        return Path(file).read_text(encoding="utf-8", errors="replace")


def retry(act: Callable[[], Result], tries: int, say: Callable[[str], None]) -> Result:
    """Call `act` up to `tries` times, as long as it raises HubUnreachable. `say` gets the reason for each wait."""
    for tried in range(1, tries):
        try:
            return act()
        except HubUnreachable as error:
            wait = wait_before_retry(error, tried)
            say(f"{error} (Trying again in {duration(wait)}.)")
        time.sleep(wait)
    return act()


def wait_before_retry(error: HubUnreachable, tried: int) -> float:
    """Seconds to wait after `tried` tries: 2, 4, up to five minutes, or as long as the Hub asks for."""
    return error.retry_after or min(2.0 ** min(tried, 10), _LONGEST_WAIT)
