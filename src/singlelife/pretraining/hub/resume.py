"""Going on with a run from what was pushed of it (`--resume hub`)."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import broadcast_object_list
from filelock import FileLock
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from singlelife.errors import HubError
from singlelife.files import atomic_write, check_room
from singlelife.hub.errors import HubUnreachable, translate_hub_errors
from singlelife.hub.repositories import hub_api, retry
from singlelife.lives.registry import Life
from singlelife.pretraining.arguments import RunConfig
from singlelife.pretraining.device import this_process
from singlelife.pretraining.hub.push import STATE_BRANCH, repository_of
from singlelife.pretraining.run_folder import RunFolder

_WORD, _ASIDE = "hub", ".from-hub"
_FILE = re.compile(r"checkpoint-(\d+)/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class _Found:
    """The newest checkpoint of a run on the Hub: its repository, commit and step, and the sizes of its files."""

    repo_id: str
    commit: str
    step: int
    sizes: dict[str, int]


def resumes_from_hub(resume: str | None) -> bool:
    """Whether the user means the Hub."""
    return resume is not None and resume.partition(":")[0] == _WORD


def checkpoint_from_hub(arguments: RunConfig, folder: RunFolder) -> Path | None:
    """The checkpoint to go on from: the Hub's if it is newer than the run folder's latest, which is taken otherwise.

    The Hub's is downloaded beside those of the run (see `adopt`), and no code of it is run. All processes take what
    the main one found.

    Returns:
        The checkpoint's folder, or None where there is none yet, here or there.

    Raises:
        HubError: the Hub does not answer, and there is no checkpoint here; or the repository is not for this user.
        LifeError: the disk lacks the room.
    """
    process = this_process()
    latest, here = next(reversed(folder.checkpoints().items()), (-1, None))
    choice = [_newer_on_hub(arguments, latest) if process.is_main_process else None]
    (found,) = broadcast_object_list(choice)
    return here if found is None else _downloaded(found, folder, process.is_local_main_process)


def adopt(folder: RunFolder, checkpoint: Path | None) -> None:
    """Make a checkpoint that came from the Hub one of the run, with the metrics that go with it."""
    aside = folder.path / _ASIDE
    if checkpoint is None or checkpoint.parent != aside:
        return
    ours = folder.path / checkpoint.name
    copy = ours.with_name(f"{ours.name}.tmp")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(checkpoint, copy, copy_function=os.link)  # other processes may still read it
    shutil.rmtree(ours, ignore_errors=True)
    copy.rename(ours)
    metrics = aside / folder.metrics.name
    if metrics.exists():
        with atomic_write(folder.metrics) as copied:
            shutil.copyfile(metrics, copied)


def forget(folder: RunFolder) -> None:
    """Remove what was downloaded, once every process has read it."""
    shutil.rmtree(folder.path / _ASIDE, ignore_errors=True)


def _newer_on_hub(arguments: RunConfig, latest: int) -> _Found | None:
    """What the Hub has, if it is newer than step `latest`."""
    assert arguments.train.resume is not None
    named = arguments.train.resume.partition(":")[2]
    may_be_absent = not named and arguments.hub.push_to_hub is not None  # of a job whose every start is the same
    api = hub_api()

    def look() -> _Found | None:
        default, hub = Life(arguments.life_name, "video").repository_name, arguments.hub
        repo_id = repository_of(api, default, named or hub.push_to_hub or None, hub.hub_org)
        with translate_hub_errors(repo_id, f"Looking for checkpoints in {repo_id}", kind="model"):
            try:
                info = api.model_info(repo_id, revision=STATE_BRANCH, files_metadata=True)
            except RevisionNotFoundError:
                return None
            except RepositoryNotFoundError:
                if may_be_absent:
                    return None
                raise
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
        steps = [int(match[1]) for match in map(_FILE.fullmatch, sizes) if match]
        step = max(steps, default=-1)
        wanted = {name: size for name, size in sizes.items() if name.startswith(f"checkpoint-{step}/")}
        wanted |= {name: sizes[name] for name in ("metrics.jsonl",) if name in sizes}
        assert info.sha is not None
        return _Found(repo_id, info.sha, step, wanted) if step > latest else None

    try:
        found = retry(look, 3, print)
    except HubUnreachable as error:
        if latest < 0:
            raise
        print(f"{error} Going on from the checkpoint of step {latest} that is here.")
        return None
    if found is not None:
        print(f"Going on from step {found.step} of {found.repo_id} on the Hub.")
    return found


def _downloaded(found: _Found, folder: RunFolder, progress: bool) -> Path:
    """The folder of the checkpoint, once all its files are there."""
    aside = folder.path / _ASIDE
    for name in found.sizes:
        if not (_FILE.fullmatch(name) or name == folder.metrics.name):
            raise HubError(f"The branch {STATE_BRANCH} of {found.repo_id} holds {name!r}, which no push puts there.")
    check_room(sum(found.sizes.values()), aside, f"The checkpoint of {found.repo_id}", "choose another --output-dir")
    aside.mkdir(parents=True, exist_ok=True)
    kept = "What was downloaded is kept; the same command goes on from there."
    api = hub_api()

    def download() -> None:
        with translate_hub_errors(found.repo_id, f"Downloading the checkpoint of {found.repo_id}", kept, "model"):
            for name in found.sizes:
                api.hf_hub_download(found.repo_id, name, revision=found.commit, local_dir=aside)

    with FileLock(aside / "lock"):
        retry(download, 5, print if progress else lambda _: None)
    return aside / f"checkpoint-{found.step}"
