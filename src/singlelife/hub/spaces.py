"""The Space of `spaces/cas`: where it is, and how it gets to the Hub together with this package.

A Space installs its `requirements.txt` before its files are there, so that a wheel among them would not be found.
So the package goes along as a folder beside `app.py`, which Python finds first, and its dependencies take its place in
the requirements. What runs there is exactly what runs here, published or not.
"""

import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from singlelife.errors import HubError, SingleLifeError
from singlelife.files import hub_configs
from singlelife.hub.client import check_push, hub_api, open_repository
from singlelife.hub.errors import is_repo_id, translate_hub_errors

_PACKAGE = Path(__file__).resolve().parents[1]
_REQUIREMENTS = "requirements.txt"
_OURS = re.compile(r"singlelife(-[^/]+\.dist-info)?/")  # what the package brings, by its path there
_WITHOUT_CUDA = "--extra-index-url https://download.pytorch.org/whl/cpu"


def space_folder() -> Path:
    """Folder of the Space: inside the installed package, or at the top of a checkout."""
    for folder in (_PACKAGE / "spaces" / "cas", _PACKAGE.parents[1] / "spaces" / "cas"):
        if (folder / _REQUIREMENTS).is_file():
            return folder
    raise SingleLifeError(f"spaces/cas is missing beside {_PACKAGE}: the installation is incomplete; reinstall it.")


def space_files() -> dict[str, Path | bytes]:
    """The files of the Space's repository, by their path there: a file of this machine, or the content itself."""
    folder = space_folder()
    files: dict[str, Path | bytes] = dict(_files(folder))
    files[_REQUIREMENTS] = _requirements((folder / _REQUIREMENTS).read_text(encoding="utf-8")).encode()
    files |= {f"singlelife/{name}": path for name, path in _files(_PACKAGE)}
    files |= {f"singlelife/hub_configs/{name}": path for name, path in _files(hub_configs())}
    release = version("singlelife")
    described = f"Metadata-Version: 2.1\nName: singlelife\nVersion: {release}\n"
    files[f"singlelife-{release}.dist-info/METADATA"] = described.encode()
    return dict(sorted(files.items()))


def deploy_space(repo_id: str, *, private: bool = True) -> str:
    """Upload the Space in one commit, which the Hub then builds and starts.

    Files of an earlier version of the package that this one lacks are deleted there; what others added stays. Where
    nothing has changed, nothing is sent. Needs the token of `hf auth login` or of HF_TOKEN.

    Args:
        repo_id: ORG/NAME; it is made if it is not there.
        private: only its owner sees it.

    Returns:
        Its URL.

    Raises:
        HubError: there is no such place, the token may not write there, or the Hub cannot be reached.
    """
    if not is_repo_id(repo_id):
        raise HubError(f"{repo_id!r} is no name of a Space; write ORG/NAME.")
    check_push(repo_id)
    api, files = hub_api(), space_files()
    with translate_hub_errors(repo_id, f"Deploying {repo_id}", "The same command goes on.", kind="space"):
        open_repository(api, repo_id, "space", private)
        there = api.list_repo_files(repo_id, repo_type="space")
        gone = [name for name in there if _OURS.match(name) and name not in files]
        changes = [CommitOperationDelete(name) for name in gone] + [
            CommitOperationAdd(name, file if isinstance(file, bytes) else str(file)) for name, file in files.items()
        ]
        api.create_commit(repo_id, changes, commit_message=f"singlelife {version('singlelife')}", repo_type="space")
    return f"{api.endpoint}/spaces/{repo_id}"


def _requirements(of_the_space: str) -> str:
    """The Space's own requirements, with the package's dependencies in place of the package."""
    lines = [line.split("#")[0].strip() for line in of_the_space.splitlines()]
    own = {canonicalize_name(Requirement(line).name): line for line in lines if line}
    ours = [Requirement(line) for line in requires("singlelife") or []]
    needed = {canonicalize_name(each.name): str(each) for each in ours if "extra ==" not in str(each.marker)}
    wanted = {name: line for name, line in (needed | own).items() if name != "singlelife"}
    return "\n".join([_WITHOUT_CUDA, *(line for _, line in sorted(wanted.items()))]) + "\n"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder, by their path in it, without what Python or an editor leaves there."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and not (folder == _PACKAGE and parts[0] in ("spaces", "hub_configs")):
            yield "/".join(parts), path
