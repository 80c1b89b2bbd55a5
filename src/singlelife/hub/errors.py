"""Turn errors of the Hub and the network into messages that a user can act on. No message ever holds a token."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

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

RepoType: TypeAlias = Literal["dataset", "model", "space"]
WORDS = {"dataset": "data set", "model": "model", "space": "Space"}  # for people

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


class HubUnreachable(HubError):
    """The network or the Hub failed, or HF_HUB_OFFLINE is set. The repository may be fine: try again later.

    Attributes:
        retry_after: seconds to wait before the next try, if the Hub gives them.
    """

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


def is_repo_id(words: str) -> bool:
    """Whether words have the form of a repository's name on the Hub, ORG/NAME."""
    try:
        validate_repo_id(words)
    except HFValidationError:
        return False
    return _REPO_ID.fullmatch(words) is not None


@contextmanager
def translate_hub_errors(
    repo_id: str, doing: str, kept: str = "Try again when the network is back.", kind: RepoType = "dataset"
) -> Iterator[None]:
    """Turn errors of `huggingface_hub`, and of the network below it, into a HubError. The message begins with `doing`,
    such as "Reading ORG/NAME"; if the connection failed, it ends with `kept`: what is kept, and what to do."""
    try:
        yield
    except SingleLifeError:
        raise
    except Exception as error:
        if translated := _translated(error, repo_id, doing, kept, kind):
            raise translated from error
        raise


def _translated(error: BaseException | None, repo_id: str, doing: str, kept: str, kind: RepoType) -> HubError | None:
    """The error, or the first known one in the chain of its causes, as a HubError; None if none is known."""
    what = f"{WORDS[kind]} {repo_id}"
    where = f"{constants.ENDPOINT}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
    while error is not None:
        match error:
            case OfflineModeIsEnabled():
                return HubUnreachable(f"{doing} needs the Hub, and HF_HUB_OFFLINE forbids it. Unset HF_HUB_OFFLINE.")
            case GatedRepoError():
                return HubError(
                    f"The {what} is gated: its owner gives access on request. Ask for it at {where}, then {_LOG_IN}."
                )
            case RevisionNotFoundError():
                return HubError(f"The {what} has no such revision. {where}/commits/main lists its commits.")
            case RepositoryNotFoundError():
                return HubError(
                    f"There is no {what} on the Hub, or you cannot see it. Check its name; if it is private, "
                    f"{_LOG_IN}."
                )
            case HfHubHTTPError():
                return _refused(error, repo_id, doing, kept)
            case LocalEntryNotFoundError() | FileNotFoundError():
                pass  # the first has a cause that says more; the second comes from this machine's disk
            case HTTPError() | OSError() if isinstance(error, HTTPError) or error.errno is None:  # errno: the disk
                return HubUnreachable(
                    f"{doing} failed: the connection to the Hub broke ({_first_line(error)}). {kept}".rstrip()
                )
        error = error.__cause__ or error.__context__
    return None


def _refused(error: HfHubHTTPError, repo_id: str, doing: str, kept: str) -> HubError:
    """The error for an HTTP status from the Hub."""
    status, headers = error.response.status_code, error.response.headers
    if status == 401:
        return HubError(f"{doing} failed: the Hub does not accept your token. To renew it, {_LOG_IN}.")
    if status == 403:
        return HubError(
            f"{doing} failed: your token does not allow it ({headers.get('X-Error-Message') or 'forbidden'}). Use one "
            f"with write access to {repo_id.split('/')[0]}: {_LOG_IN}."
        )
    if status in (408, 429) or status >= 500:
        reason = "limits how often you may ask" if status == 429 else "has trouble"
        wait = headers.get("Retry-After") or ""
        return HubUnreachable(
            f"{doing} failed: the Hub {reason} (status {status}). {kept}".rstrip(),
            float(wait) if wait.isdigit() else None,
        )
    return HubError(f"{doing} failed with status {status}: {_first_line(error)}.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
