"""Repositories on the Hub: who may write to them, who may see them; and trying again when the network fails."""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Literal, TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, SpaceInfo

from singlelife.errors import HubError
from singlelife.hub.errors import HubUnreachable
from singlelife.text import duration

_LONGEST_WAIT = 300.0  # seconds between two tries, if the Hub does not ask for more

Result = TypeVar("Result")


def hub_api(token: str | None = None) -> HfApi:
    """The client; by default with the token of `hf auth login` or of HF_TOKEN."""
    return HfApi(token=token, library_name="singlelife", library_version=version("singlelife"))


def check_token(token: str | None = None) -> None:
    """Make sure, without asking the Hub, that there is a token.

    Raises:
        HubError: there is none.
    """
    if not (token or get_token()):
        raise HubError(
            "Pushing to the Hub takes a token with write access: log in with `hf auth login` or set HF_TOKEN."
        )


def open_repository(
    api: HfApi, repo_id: str, kind: Literal["dataset", "model", "space"], private: bool
) -> DatasetInfo | ModelInfo | SpaceInfo | None:
    """Create a repository, or make sure that the one of that name is as private as it should be.

    Returns:
        What the Hub says of one that was there; None of one that was made.

    Raises:
        HubError: the name is taken by a repository that is not seen, its namespace is not there, or the repository is
            public and should be private (or the other way round).
        HfHubHTTPError: for `translate_hub_errors`.
    """
    try:
        there = api.repo_info(repo_id, repo_type=kind, files_metadata=True)
    except RepositoryNotFoundError:
        try:
            sdk = "gradio" if kind == "space" else None
            api.create_repo(repo_id, repo_type=kind, private=private, space_sdk=sdk)
        except HfHubHTTPError as error:
            if error.response.status_code == 409:
                raise HubError(f"The name {repo_id} is taken by a repository that you may not see.") from error
            if error.response.status_code == 404:
                raise HubError(
                    f"There is no user or organisation {repo_id.split('/')[0]} on the Hub to push {repo_id} to."
                ) from error
            raise
        return None
    assert not isinstance(there, str) and hasattr(there, "private")
    if bool(there.private) != private:
        state, wish = ("private", "public") if there.private else ("public", "private")
        where = f"{api.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
        raise HubError(
            f"{repo_id} is there already and is {state}, not {wish} as asked. Change that in its settings, "
            f"{where}/settings, or push to another name."
        )
    return there  # type: ignore[return-value]


def retry(act: Callable[[], Result], tries: int | None, say: Callable[[str], None]) -> Result:
    """What `act` returns, called again for as long as the Hub cannot be reached, is busy or has trouble.

    Waits two seconds, then four, up to five minutes, or for as long as the Hub asks for.

    Args:
        tries: at most so many; None for no end.
        say: is told why it waits and for how long.

    Raises:
        HubUnreachable: the last try failed.
    """
    tried = 0
    while True:
        try:
            return act()
        except HubUnreachable as error:
            tried += 1
            if tried == tries:
                raise
            wait = error.retry_after or min(2.0 ** min(tried, 10), _LONGEST_WAIT)
            say(f"{error} (Trying again in {duration(wait)}.)")
        time.sleep(wait)
