"""Find the Space `spaces/cas`, and deploy it to the Hub together with this package.

A Space installs its `requirements.txt` before its files are there. So the package is uploaded as a folder beside
`app.py`, which Python finds first, and its dependencies replace it in the requirements.
"""

from importlib.metadata import requires, version
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from singlelife.errors import SingleLifeError
from singlelife.files import hub_configs
from singlelife.hub.client import check_name, check_push, hub_api, open_repository
from singlelife.hub.errors import translate_hub_errors

_PACKAGE = Path(__file__).resolve().parents[1]
_REQUIREMENTS = "requirements.txt"
_WITHOUT_CUDA = "--extra-index-url https://download.pytorch.org/whl/cpu"
_OURS = ["singlelife/*", "singlelife-*.dist-info/*"]  # the package's files


def space_folder() -> Path:
    """Folder of the Space: inside the installed package, or at the top of a checkout."""
    for folder in (_PACKAGE / "spaces" / "cas", _PACKAGE.parents[1] / "spaces" / "cas"):
        if (folder / _REQUIREMENTS).is_file():
            return folder
    raise SingleLifeError(f"spaces/cas is missing beside {_PACKAGE}: the installation is incomplete; reinstall it.")


def copy_space(to: Path) -> None:
    """Copy all files of the Space's repository into a new folder."""
    left = ["__pycache__", ".*"]  # left by Python and editors
    copytree(space_folder(), to, ignore=ignore_patterns(*left))
    copytree(_PACKAGE, to / "singlelife", ignore=ignore_patterns(*left, "spaces", "hub_configs"))
    copytree(hub_configs(), to / "singlelife" / "hub_configs", ignore=ignore_patterns(*left))
    (to / _REQUIREMENTS).write_text(_requirements((to / _REQUIREMENTS).read_text(encoding="utf-8")), encoding="utf-8")
    described = to / f"singlelife-{version('singlelife')}.dist-info" / "METADATA"
    described.parent.mkdir()
    described.write_text(f"Metadata-Version: 2.1\nName: singlelife\nVersion: {version('singlelife')}\n")


def deploy_space(repo_id: str, *, private: bool = True) -> str:
    """Upload the Space in one commit to ORG/NAME, created if necessary, and return its URL. Files from an earlier
    version of the package that this one lacks are deleted there; files that others added stay.

    Raises:
        HubError: the namespace does not exist, the token may not write there, or the Hub cannot be reached.
    """
    check_name(repo_id)
    check_push(repo_id)
    api, message = hub_api(), f"singlelife {version('singlelife')}"
    with (
        translate_hub_errors(repo_id, f"Deploying {repo_id}", "Run the same command again to continue.", kind="space"),
        TemporaryDirectory() as scratch,
    ):
        open_repository(api, repo_id, "space", private)
        folder = Path(scratch) / "space"
        copy_space(folder)
        api.upload_folder(
            repo_id=repo_id, repo_type="space", folder_path=folder, delete_patterns=_OURS, commit_message=message
        )
    return f"{api.endpoint}/spaces/{repo_id}"


def _requirements(of_the_space: str) -> str:
    """The Space's own requirements, with the package's dependencies in place of the package."""
    lines = [line.split("#")[0].strip() for line in of_the_space.splitlines()]
    own = {canonicalize_name(Requirement(line).name): line for line in lines if line}
    ours = [Requirement(line) for line in requires("singlelife") or []]
    needed = {canonicalize_name(each.name): str(each) for each in ours if "extra ==" not in str(each.marker)}
    wanted = {name: line for name, line in (needed | own).items() if name != "singlelife"}
    return "\n".join([_WITHOUT_CUDA, *(line for _, line in sorted(wanted.items()))]) + "\n"
