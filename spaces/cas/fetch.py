"""Asks the Hub, in a process of its own that `downloads.py` ends where time is over or a visitor gives up.

It reads questions as lines of JSON, and writes the answer to each as a line.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from huggingface_hub import HfApi, constants

from singlelife._version import __version__
from singlelife.errors import HubError
from singlelife.hub.client import file_sizes
from singlelife.hub.errors import translate_hub_errors

_MOST_MEMORY = 2 << 30  # bytes of this process, whatever it is sent

constants.HF_HUB_DISABLE_XET = True  # a helper of xet's own is not ended with this process


def look_up(repo_id: str, revision: str | None) -> dict[str, Any]:
    """The commit of a model that everybody may see, and the sizes and hashes of the files beside its config."""
    with translate_hub_errors(repo_id, f"Looking up {repo_id}", "", "model"):
        info = _api().model_info(repo_id, revision=revision, files_metadata=True, timeout=15)
    sizes = {name: size for name, size in file_sizes(info).items() if "/" not in name}
    hashes = {file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs and file.rfilename in sizes}
    return {"commit": info.sha, "sizes": sizes, "hashes": hashes}


def download(repo_id: str, commit: str, file: str, folder: str) -> list[Any]:
    """Fetch a file into a folder. Returns its size and SHA-256."""
    with translate_hub_errors(repo_id, f"Downloading {repo_id}", "", "model"):
        path = _api().hf_hub_download(repo_id, file, revision=commit, local_dir=folder)
    with Path(path).open("rb") as content:
        return [os.fstat(content.fileno()).st_size, hashlib.file_digest(content, "sha256").hexdigest()]


def _api() -> HfApi:
    """A client without a token, unless the Space's owner says so: a visitor sees what everybody sees."""
    token = None if os.environ.get("SINGLELIFE_SPACE_USE_TOKEN") == "1" else False
    return HfApi(token=token, library_name="singlelife", library_version=__version__)


def _main() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    questions: SimpleQueue[str] = SimpleQueue()
    known: dict[str, Callable[..., Any]] = {"look_up": look_up, "download": download}

    def listen() -> None:
        for line in sys.stdin:
            questions.put(line)
        os._exit(0)  # who asked is gone

    threading.Thread(target=listen, daemon=True).start()
    while True:
        name, arguments = json.loads(questions.get())
        try:
            answer = {"answer": known[name](**arguments)}
        except HubError as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
