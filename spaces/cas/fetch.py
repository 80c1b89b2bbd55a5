"""Ask the Hub one question, in a process that `downloads.py` ends when time is over or the visitor gives up.

    python fetch.py look_up|download ARGUMENTS

takes the arguments as JSON, and prints {"answer": ...} or {"refused": message}.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

from singlelife._version import __version__
from singlelife.errors import HubError
from singlelife.hub.client import file_sizes
from singlelife.hub.errors import translate_hub_errors

_MOST_MEMORY = 2 << 30  # bytes of this process, whatever it is sent
_DIE_WITH_PARENT = 1  # of prctl

constants.HF_HUB_DISABLE_XET = True  # its own process would outlive this one


def look_up(repo_id: str, revision: str | None) -> dict[str, Any]:
    """The commit of a model that everybody may see, and the sizes and hashes of the files beside its config."""
    with translate_hub_errors(repo_id, f"Looking up {repo_id}", "", "model"):
        info = _api().model_info(repo_id, revision=revision, files_metadata=True, timeout=15)
    sizes = {name: size for name, size in file_sizes(info).items() if "/" not in name}
    hashes = {file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs and file.rfilename in sizes}
    return {"commit": info.sha, "sizes": sizes, "hashes": hashes}


def download(repo_id: str, commit: str, files: list[str], folder: str) -> dict[str, list[Any]]:
    """Fetch files into a folder. Returns the size and SHA-256 of each."""
    came = {}
    for file in files:
        with translate_hub_errors(repo_id, f"Downloading {repo_id}", "", "model"):
            path = _api().hf_hub_download(repo_id, file, revision=commit, local_dir=folder)
        with Path(path).open("rb") as content:
            came[file] = [os.fstat(content.fileno()).st_size, hashlib.file_digest(content, "sha256").hexdigest()]
    return came


def _api() -> HfApi:
    """A client without a token, unless the Space's owner says so: a visitor sees what everybody sees."""
    token = None if os.environ.get("SINGLELIFE_SPACE_USE_TOKEN") == "1" else False
    return HfApi(token=token, library_name="singlelife", library_version=__version__)


def _main() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    questions: dict[str, Callable[..., Any]] = {"look_up": look_up, "download": download}
    question = questions[sys.argv[1]]
    try:
        answer: dict[str, Any] = {"answer": question(**json.loads(sys.argv[2]))}
    except HubError as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
