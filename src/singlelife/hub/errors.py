"""What goes wrong between here and the Hub, told so that a user can act on it. No message ever holds a token."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from singlelife.errors import HubError, SingleLifeError

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_FOLDERS = {"data set": "datasets/", "model": "", "Space": "spaces/"}
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class HubUnreachable(HubError):
    """The Hub does not answer, or is not to be asked: a matter of the network, not of the repository.

    Attributes:
        retry_after: seconds to wait before the next try, where the Hub says so.
    """

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


def is_repo_id(words: str) -> bool:
    """Whether something has the form of a repository's name on the Hub, ORG/NAME."""
    try:
        validate_repo_id(words)
    except HFValidationError:
        return False
    return _REPO_ID.fullmatch(words) is not None


@contextmanager
def translate_hub_errors(
    repo_id: str,
    doing: str,
    kept: str = "Try again when the network is back.",
    kind: Literal["data set", "model", "Space"] = "data set",
) -> Iterator[None]:
    """Turn errors of `huggingface_hub`, and of the network below it, into a HubError.

    Args:
        repo_id: the repository that is worked on.
        doing: what is being done, as in "reading ORG/NAME".
        kept: what to say of the work so far where the connection fails.
        kind: of the repository.
    """
    try:
        yield
    except SingleLifeError:
        raise
    except Exception as error:
        told = _told(error, repo_id, doing, kept, kind)
        if told is None:
            raise
        raise told from error


def _told(error: BaseException | None, repo_id: str, doing: str, kept: str, kind: str) -> HubError | None:
    """The error, or the first in the chain of its causes that is known, as a HubError; None if none is."""
    where = f"{constants.ENDPOINT}/{_FOLDERS[kind]}{repo_id}"
    while error is not None:
        match error:
            case OfflineModeIsEnabled():
                return HubUnreachable(f"{doing} needs the Hub, and HF_HUB_OFFLINE says not to ask it. Unset it.")
            case GatedRepoError():
                return HubError(
                    f"The {kind} {repo_id} is gated: its owner gives access on request. Ask for it at {where}, then "
                    f"{_LOG_IN}."
                )
            case RevisionNotFoundError():
                return HubError(f"The {kind} {repo_id} has no such revision. {where}/commits/main lists its commits.")
            case RepositoryNotFoundError():
                return HubError(
                    f"There is no {kind} {repo_id} on the Hub, or none that you may see. Check its name; if it is "
                    f"private, {_LOG_IN}."
                )
            case HfHubHTTPError() if error.response.status_code == 401:
                return HubError(f"{doing} failed: the Hub does not accept your token. To renew it, {_LOG_IN}.")
            case HfHubHTTPError() if error.response.status_code == 403:
                said = error.response.headers.get("X-Error-Message") or "forbidden"
                return HubError(
                    f"{doing} failed: your token may not do that ({said}). Take one with write access to "
                    f"{repo_id.split('/')[0]}: {_LOG_IN}."
                )
            case HfHubHTTPError() if (status := error.response.status_code) in (408, 429) or status >= 500:
                why = "is asked too much" if status == 429 else "has trouble"
                return HubUnreachable(
                    f"{doing} failed: the Hub {why} (status {status}). {kept}".rstrip(),
                    _seconds_asked_for(error.response.headers),
                )
            case HfHubHTTPError():
                return HubError(f"{doing} failed: the Hub says {error.response.status_code}, {_first_line(error)}")
            case LocalEntryNotFoundError():
                pass  # its cause tells more
            case FileNotFoundError():
                pass
            case HTTPError() | OSError() if isinstance(error, HTTPError) or error.errno is None:  # else: of the disk
                return HubUnreachable(
                    f"{doing} failed: the connection to the Hub broke ({_first_line(error)}). {kept}".rstrip()
                )
        error = error.__cause__ or error.__context__
    return None


def _seconds_asked_for(headers: Mapping[str, str]) -> float | None:
    """What a `Retry-After` in seconds says."""
    said = headers.get("Retry-After") or ""
    return float(said) if said.isdigit() else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
