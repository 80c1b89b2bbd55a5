"""A run on the Hub: pushed when it is done or as it goes on, and gone on with elsewhere.

The branch `main` of its repository has the model, its image processor and code, the run's settings, metrics and
pictures, and a model card; whatever is new of them appears in one commit. The branch `training-state` is a run folder
with one checkpoint, from which the run can go on. Nobody who only uses the model downloads it.
"""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from tqdm.auto import tqdm

from singlelife.errors import HubError, RunError, SingleLifeError
from singlelife.hub.client import check_push, full_name, hub_api, retry, wait_before_retry
from singlelife.hub.errors import HubUnreachable, translate_hub_errors
from singlelife.hub.pull import Remote, fetch, look_up
from singlelife.hub.push import Content, Publication, claim, publish
from singlelife.lives.registry import Life
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.arguments import HubConfig, RunConfig
from singlelife.pretraining.card import model_card, model_files, read_run, scores_of
from singlelife.pretraining.device import this_process
from singlelife.pretraining.run_folder import MODEL_FILES, RESULTS, RunFolder

STATE_BRANCH = "training-state"

_SECONDS_BETWEEN = 30 * 60  # pushes, unless --push-steps says otherwise
_SECONDS_AT_THE_END = 10 * 60  # to wait for the last push
_SECONDS_WHEN_STOPPED = 15  # the same for a run that was told to stop
_PINNED = ".push.tmp"  # a copy of the run folder while it is pushed
_FROM_HUB = ".from-hub"  # where a checkpoint from the Hub is downloaded to
# No code, and nothing pickled: what reads a checkpoint needs no more.
_STATE_FILE = re.compile(r"checkpoint-(\d+)/[\w-]+(\.[\w-]+)*\.(safetensors|json)", re.ASCII)


def run_publications(
    path: Path,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    results: Sequence[str | Path] = (),
    training_state: bool = False,
    home: Path | None = None,
) -> list[Publication]:
    """What to `publish` of a run, finished or not: then its latest checkpoint. The model is the last.

    Args:
        path: the run folder.
        repo_id: ORG/NAME of a model, or a name in the user's own namespace; by default the name that goes with the
            life, such as `singlelife-wt3`.
        license: of the weights; that of the frames by default.
        results: `results.jsonl` files with scores for the card, besides that in the run folder.
        training_state: publish also what it takes to go on with the run (`--resume-from hub`).
        home: the run folder that `path` is a copy of.

    Raises:
        RunError: the folder is no run, or has no model yet; results are about other models.
    """
    run, home = read_run(path), home or path
    repo_id = repo_id or run.life.repository_name
    given, own = list(map(Path, results)), home / RESULTS
    for file in given:
        if not scores_of([file], home, repo_id):
            raise RunError(f"{file} has no result about {home} or {repo_id}.")
    scores = scores_of([*([own] if own.is_file() else []), *given], home, repo_id)
    about: dict[str, Content] = {"config.yaml": yaml.safe_dump(run.settings, sort_keys=False).encode()}
    if run.metrics:
        about["metrics.jsonl"] = "".join(json.dumps(line) + "\n" for line in run.metrics).encode()
    files = about | {file.name: file for file in [*model_files(run.model), *sorted(path.glob("*.png"))]}
    if run.facts:
        files["life.json"] = (json.dumps(run.facts, indent=2) + "\n").encode()
    model = replace(
        _publication(run.life.name, repo_id, files),
        message=f"{run.life.name} after {run.step:,} of {run.settings['max_steps']:,} steps",
        card=lambda name: model_card(run, name, license, scores),
        replaces=(*MODEL_FILES, "*.png"),
    )
    if not training_state:
        return [model]
    if run.checkpoint is None:
        raise RunError(f"{path} has no checkpoint that a run could go on from.")
    files = about | {f"{run.checkpoint.name}/{file.name}": file for file in sorted(run.checkpoint.iterdir())}
    state = replace(
        _publication(run.life.name, repo_id, files),
        message=model.message,
        replaces=("checkpoint-*/*",),
        branch=STATE_BRANCH,
    )
    return [state, model]  # a run that goes on with the state makes the model again


def _publication(life: str, repo_id: str, files: dict[str, Content]) -> Publication:
    def other(config: str) -> str | None:
        with contextlib.suppress(yaml.YAMLError, SingleLifeError, TypeError, KeyError):
            name = life_reference(str(yaml.safe_load(config)["life"])).name
            return None if name == life else f"a model of the life {name}"
        return "something else"

    return Publication(
        repo_id=repo_id,
        kind="model",
        what=f"a model of the life {life}",
        files=files.items,
        sizes={name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in files.items()},
        marker="config.yaml",
        other=other,
    )


def start_publisher(hub: HubConfig, life: str, folder: RunFolder) -> "Publisher | None":
    """The publisher of a run, if `--push-to-hub` asks for one.

    It makes sure, before hours of training, that the repository can be pushed to. A network that is dead only warns:
    it may be back when the first checkpoint is there.

    Raises:
        HubError: the repository cannot be pushed to.
    """
    if not hub.push_to_hub:
        return None
    repo_id = hub.hub_model_id or Life(life).repository_name
    check_push(repo_id)
    try:
        repo_id = full_name(api := hub_api(), repo_id)
        with translate_hub_errors(repo_id, f"Preparing to push to {repo_id}", "", "model"):
            claim(api, repo_id, _publication(life, repo_id, {}), not hub.public)
            role = (api.whoami().get("auth") or {}).get("accessToken", {}).get("role")
        if role == "read":
            raise HubError(
                f"Pushing to {repo_id} needs a token with write access, and yours only reads. Make another one in the "
                "settings of the Hub, then log in with `hf auth login` or set HF_TOKEN."
            )
    except HubUnreachable as error:
        print(f"Warning: {error} The run starts all the same, and pushes when the Hub can be reached.")
    return Publisher(hub, repo_id, folder)


class Publisher:
    """Pushes a run as it goes on, one push at a time, each of the latest checkpoint. Of the main process.

    A thread of this process does it, as a daemon: a network that hangs never keeps the run from ending. What it pushes
    is a copy of the run folder made of hard links, so that a checkpoint outlives its deletion by the run. No failure
    reaches the run; the next checkpoint is pushed instead, and `finish` says what was not pushed.

    Args:
        hub: where and when to push.
        repo_id: where to; a name alone is in the namespace that the Hub gives later.
        folder: of the run.
    """

    def __init__(self, hub: HubConfig, repo_id: str, folder: RunFolder):
        self.hub, self.repo_id, self.folder = hub, repo_id, folder
        self._thread: threading.Thread | None = None  # of the last push
        self._last_step, self._last_time = 0, -float("inf")
        self._pushed_step, self._url = -1, ""
        self._error: Exception | None = None

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the run has failed; what it saved is pushed all the same
            print(self.finish(hurry=kind is KeyboardInterrupt), file=sys.stderr)

    def offer(self, checkpoint: Path) -> None:
        """Have a complete checkpoint pushed, unless a push goes on or the last one was a short while ago."""
        step, now, every = int(checkpoint.name.rpartition("-")[2]), time.monotonic(), self.hub.push_steps
        due = step - self._last_step >= every if every else now - self._last_time >= _SECONDS_BETWEEN
        if (due or self._error) and not self._is_pushing(0):
            self._last_step, self._last_time = step, now
            self._start()

    def finish(self, hurry: bool) -> str:
        """Push what is there at the end, for a bounded time, and say what became of it.

        Args:
            hurry: the run was told to stop: there is little time.
        """
        if not self.folder.checkpoints() and self._thread is None:
            return "Nothing was pushed to the Hub: the run has saved no checkpoint."
        seconds = _SECONDS_WHEN_STOPPED if hurry else _SECONDS_AT_THE_END
        print(f"Waiting for the last push, for {seconds} s at most.", flush=True)
        end, why = time.monotonic() + seconds, "the last push was not done in time."
        with contextlib.suppress(KeyboardInterrupt):
            for tries in itertools.count(1):
                if self._is_pushing(end - time.monotonic()):  # what the run has offered
                    break
                self._start()
                if self._is_pushing(end - time.monotonic()):
                    break
                if self._error is None:
                    visible = "public" if self.hub.public else "private"
                    return f"Pushed to {self._url} ({visible}), after step {self._pushed_step:,}."
                why = _in_words(self._error)
                wait = wait_before_retry(self._error, tries) if isinstance(self._error, HubUnreachable) else seconds
                if time.monotonic() + wait >= end:
                    break
                time.sleep(wait)
        shutil.rmtree(self.folder.path / _PINNED, ignore_errors=True)
        there = f" On the Hub is the model after step {self._pushed_step:,}." if self._pushed_step >= 0 else ""
        words = ["singlelife", "push", str(self.folder.path), self.repo_id]
        words += ["--public"] * self.hub.public + ["--training-state"] * self.hub.push_training_state
        return (
            f"NOT PUSHED to the Hub: {why}{there} The run is whole in {self.folder.path}. To push it later:\n"
            f"  {shlex.join(words)}"
        )

    def _is_pushing(self, seconds: float) -> bool:
        """Whether a push still goes on after so many seconds at most."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        """Push a copy of what is in the run folder now, of hard links where files do not change in place."""
        pinned, folder, self._error = self.folder.path / _PINNED, self.folder, None
        step, checkpoint = next(reversed(folder.checkpoints().items()), (-1, None))
        try:
            shutil.rmtree(pinned, ignore_errors=True)
            pinned.mkdir()
            for pattern in (folder.config.name, folder.metrics.name, folder.life.name, "*.png"):
                for path in folder.path.glob(pattern):
                    shutil.copyfile(path, pinned / path.name)
            for path in model_files(folder.path):  # of a finished run
                _link(path, pinned / path.name)
            if checkpoint is not None:
                shutil.copytree(checkpoint, pinned / checkpoint.name, copy_function=_link)
        except OSError as error:
            self._error = error
            return
        self._thread = threading.Thread(target=self._push, args=(step, pinned), name="push to the Hub", daemon=True)
        self._thread.start()

    def _push(self, step: int, pinned: Path) -> None:
        try:
            state = self.hub.push_training_state
            for part in run_publications(pinned, self.repo_id, training_state=state, home=self.folder.path):
                self._url = publish(part, private=not self.hub.public, tries=1, progress=False)
            self._pushed_step = step
            tqdm.write(f"Pushed step {step:,}.")
        except Exception as error:  # whatever it is, the run goes on
            self._error = error
            tqdm.write(f"Not pushed so far: {_in_words(error)} The run goes on.")
        shutil.rmtree(pinned, ignore_errors=True)


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, SingleLifeError) else repr(error)


def _link(path: str | Path, to: str | Path) -> None:
    try:
        os.link(path, to)
    except OSError:  # a file system without links
        shutil.copyfile(path, to)


def checkpoint_from_hub(config: RunConfig, folder: RunFolder) -> Path | None:
    """The checkpoint to go on from: the Hub's if it is newer than the run folder's latest, else that one.

    The Hub's is downloaded beside the run's own (see `adopt`), of its files those in safetensors and JSON. All
    processes take what the main one found.

    Returns:
        The checkpoint's folder, or None where there is none yet, here or there.

    Raises:
        HubError: the Hub does not answer, and there is no checkpoint here; or the repository is not for this user.
        LifeError: the disk lacks the room.
    """
    process = this_process()
    latest, here = next(reversed(folder.checkpoints().items()), (-1, None))
    (found,) = broadcast_object_list([_newer_on_hub(config, latest) if process.is_main_process else None])
    if found is None:
        return here
    remote, step = found
    aside, prefix = folder.path / _FROM_HUB, f"checkpoint-{step}/"
    files = [name for name in remote.sizes if name.startswith(prefix) and _STATE_FILE.fullmatch(name)]
    files += [name for name in remote.sizes if name == folder.metrics.name]
    aside.mkdir(parents=True, exist_ok=True)
    with FileLock(aside / "lock"):
        say = print if process.is_local_main_process else lambda _: None
        retry(lambda: fetch(remote, files, aside), 5, say)
    return aside / prefix


def _newer_on_hub(config: RunConfig, latest: int) -> tuple[Remote, int] | None:
    """What the Hub has and its step, if that is newer than `latest`."""
    repo_id = config.hub.hub_model_id or Life(config.life_name).repository_name
    try:
        remote = retry(lambda: look_up(full_name(hub_api(), repo_id), "model", STATE_BRANCH), 3, print)
    except HubUnreachable as error:
        if latest < 0:
            raise
        print(f"{error} Going on from the checkpoint of step {latest} that is here.")
        return None
    except HubError as error:
        cause = error.__cause__
        # A job's first start has the same words as those that go on.
        is_new = isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError)
        if (config.hub.push_to_hub and is_new) or isinstance(cause, RevisionNotFoundError):
            return None
        raise
    step = max((int(match[1]) for match in map(_STATE_FILE.fullmatch, remote.sizes) if match), default=-1)
    if step <= latest:
        return None
    print(f"Going on from step {step} of {remote.repo_id} on the Hub.")
    return remote, step


def adopt(folder: RunFolder, checkpoint: Path | None) -> None:
    """Make a checkpoint that came from the Hub one of the run, with its metrics, once every process has read it."""
    aside = folder.path / _FROM_HUB
    if checkpoint is not None and checkpoint.parent == aside:
        for path in (checkpoint, aside / folder.metrics.name):
            if path.exists():
                path.replace(folder.path / path.name)
    shutil.rmtree(aside, ignore_errors=True)
