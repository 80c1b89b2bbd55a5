"""A run on the Hub: pushed when it is done or as it goes on, and gone on with elsewhere.

The branch `main` of its repository has the model, its image processor and code, the run's settings, metrics and
pictures, and a model card; whatever is new of them appears in one commit. The branch `training-state` is a run folder
with one checkpoint, from which the run can go on. Nobody who only uses the model downloads it.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from tqdm.auto import tqdm

from singlelife.errors import HubError, RunError
from singlelife.files import atomic_write
from singlelife.hub.cards import CARD
from singlelife.hub.client import (
    RepoInfo,
    check_push,
    check_token,
    full_name,
    hub_api,
    read_remote,
    retry,
    wait_before_retry,
)
from singlelife.hub.errors import HubUnreachable, translate_hub_errors
from singlelife.hub.pull import Remote, fetch, look_up
from singlelife.hub.push import Content, Publication, claim, publish
from singlelife.lives.registry import Life
from singlelife.pretraining.arguments import HubConfig, RunConfig
from singlelife.pretraining.card import Run, measures_of, model_card, model_files, read_run, rows_about
from singlelife.pretraining.device import this_process
from singlelife.pretraining.run_folder import MODEL_FILES, RESULTS, RunFolder

STATE_BRANCH = "training-state"

_MARKER = "modeling_croco.py"  # every repository of a run has it
_SECONDS_BETWEEN = 30 * 60  # pushes, unless --push-steps says otherwise
_SECONDS_AT_THE_END = 10 * 60  # to wait for the last push
_SECONDS_WHEN_STOPPED = 15  # the same for a run that was told to stop
_PINNED = ".push-{}.tmp"  # a copy of the run folder while it waits to be pushed
_FROM_HUB = ".from-hub"  # where a checkpoint from the Hub is downloaded to
# No code, and nothing pickled: what reads a checkpoint needs no more.
_STATE_FILE = re.compile(r"checkpoint-(\d+)/[\w-]+(\.[\w-]+)*\.(safetensors|json)", re.ASCII)


def push_run(
    path: str | Path,
    repo_id: str | None = None,
    *,
    private: bool = True,
    token: str | None = None,
    license: str | None = None,
    results: Sequence[str | Path] = (),
    training_state: bool = False,
    tries: int = 5,
    progress: bool = True,
    pinned: Path | None = None,
) -> str:
    """Push a run, finished or not: then its latest checkpoint.

    What is there already is not sent again, so a push that was interrupted goes on when it is called again.

    Args:
        path: the run folder.
        repo_id: ORG/NAME of a model, or a name in the user's own namespace; made if it is not there. By default the
            name that goes with the life, such as `singlelife-wt3`.
        private: only its owner sees it.
        token: with write access; the one of `hf auth login` or of HF_TOKEN by default.
        license: of the weights; that of the frames by default.
        results: `results.jsonl` files with scores for the card, besides that in the run folder.
        training_state: push also what it takes to go on with the run (`--resume-from hub`).
        tries: how many, while the Hub cannot be reached.
        progress: show progress bars, and say why it waits.
        pinned: a copy of the run folder at a moment, to be pushed in place of what it holds now.

    Returns:
        The repository's URL.

    Raises:
        RunError: the folder is no run, or has no model yet; results are about other models.
        HubError: see `publish`; or the repository holds the model of another life.
    """
    run, home = read_run(pinned or Path(path)), Path(path)
    check_token(token)
    publication = run_publication(run, repo_id, license=license, results=results, home=home)
    send = partial(publish, private=private, token=token, tries=tries, progress=progress)
    if training_state:  # first: a run that goes on with it makes the model again
        send(state_publication(run, publication.repo_id), revision=STATE_BRANCH)
    return send(publication)


def run_publication(
    run: Run,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    results: Sequence[str | Path] = (),
    home: Path | None = None,
) -> Publication:
    """What `push_run` pushes to `main`; `home` is the run folder, where `run` is a copy of it.

    Raises:
        RunError: results are about other models.
    """
    repo_id, home = repo_id or run.life.repository_name, home or run.folder.path
    rows = _rows(home, results, repo_id)
    return _publication(
        run,
        repo_id,
        _files(run),
        card=lambda name: model_card(run, name, license, measures_of(rows)),
        replaces=(*MODEL_FILES, "*.png"),
        keeps_card=True,
    )


def state_publication(run: Run, repo_id: str) -> Publication:
    """What `push_run` pushes to the branch `training-state`.

    Raises:
        RunError: there is no checkpoint.
    """
    if run.checkpoint is None:
        raise RunError(f"{run.folder.path} has no checkpoint that a run could go on from.")
    files: dict[str, Content] = {
        f"{run.checkpoint.name}/{path.name}": path for path in sorted(run.checkpoint.iterdir())
    }
    files |= {name: content for name, content in _files(run).items() if name in ("config.yaml", "metrics.jsonl")}
    return _publication(run, repo_id, files, card=None, replaces=("checkpoint-*/*",), squash=True)


def _publication(run: Run, repo_id: str, files: dict[str, Content], **more: Any) -> Publication:
    return Publication(
        repo_id=repo_id,
        kind="model",
        what=f"a model of the life {run.life.name}",
        message=f"{run.life.name} after {run.step:,} of {run.settings['max_steps']:,} steps",
        files=files.items,
        sizes={name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in files.items()},
        marker=_MARKER,
        check=_checks_life(run.life.name),
        **more,
    )


def _files(run: Run) -> dict[str, Content]:
    """What goes to the repository beside the card, by its name there."""
    files: dict[str, Content] = {path.name: path for path in model_files(run.model)}
    files["config.yaml"] = yaml.safe_dump(run.settings, sort_keys=False).encode()
    if run.facts:
        files["life.json"] = (json.dumps(run.facts, indent=2) + "\n").encode()
    if run.metrics:
        files["metrics.jsonl"] = "".join(json.dumps(line) + "\n" for line in run.metrics).encode()
    return files | {path.name: path for path in sorted(run.folder.path.glob("*.png"))}


def _checks_life(life: str) -> Any:
    """What makes sure that a repository that was there is of the same life."""

    def check(api: HfApi, there: RepoInfo) -> None:
        try:
            card = read_remote(api, there, "model", CARD) or ""
            says = ModelCard(card, ignore_metadata_errors=True).data.get("singlelife")
        except (ValueError, yaml.YAMLError):
            says = None
        if isinstance(says, dict) and says.get("life") not in (None, life):
            raise HubError(f"{there.id} holds a model of the life {says['life']}, not of {life}. Choose another name.")

    return check


def _rows(home: Path, results: Sequence[str | Path], repo_id: str) -> list[dict[str, Any]]:
    """The rows about a run, in its own `results.jsonl` and in others.

    Raises:
        RunError: one of the others has none.
    """
    given, own = list(map(Path, results)), home / RESULTS
    for file in given:
        if not rows_about([file], home, repo_id):
            raise RunError(f"{file} has no result about {home} or {repo_id}.")
    return rows_about([*([own] if own.is_file() else []), *given], home, repo_id)


def start_publisher(hub: HubConfig, life_name: str, folder: RunFolder) -> "Publisher | None":
    """The publisher of a run, if `--push-to-hub` asks for one.

    It makes sure, before hours of training, that the repository can be pushed to. A network that is dead only warns:
    it may be back when the first checkpoint is there.

    Raises:
        HubError: the repository cannot be pushed to.
    """
    if not hub.push_to_hub:
        return None
    if constants.HF_HUB_OFFLINE:
        raise HubError(
            "--push-to-hub needs the Hub, and HF_HUB_OFFLINE forbids it. Unset HF_HUB_OFFLINE, or leave the flag out "
            "and push later with `singlelife push`."
        )
    repo_id = hub.hub_model_id or Life(life_name, "video").repository_name
    if "/" in repo_id:
        check_push(repo_id, kind="model")
    check_token()
    for leftover in folder.path.glob(_PINNED.format("*")):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        repo_id = full_name(hub_api(), repo_id)
        _make_ready(repo_id, life_name, not hub.public)
    except HubUnreachable as error:
        print(f"Warning: {error} The run starts all the same, and pushes when the Hub can be reached.")
    return Publisher(hub, repo_id, folder)


def _make_ready(repo_id: str, life: str, private: bool) -> None:
    """Create the repository, and make sure that a model of a life can be pushed to it."""
    api = hub_api()
    with translate_hub_errors(repo_id, f"Preparing to push to {repo_id}", "", "model"):
        what = f"a model of the life {life}"
        claim(api, repo_id, "model", private, what=what, marker=_MARKER, check=_checks_life(life))
        role = (api.whoami().get("auth") or {}).get("accessToken", {}).get("role")
    if role == "read":
        raise HubError(
            f"Pushing to {repo_id} needs a token with write access, and yours only reads. Make another one in the "
            "settings of the Hub, then log in with `hf auth login` or set HF_TOKEN."
        )


@dataclass(frozen=True)
class _Pinned:
    """A copy of the run folder as it was after a step."""

    step: int
    path: Path


class Publisher:
    """Pushes a run's checkpoints, one at a time; the newest that waits replaces older ones. Of the main process.

    A thread of this process does it, as a daemon: a network that hangs never keeps the run from ending. What it pushes
    is a copy of the run folder made of hard links, so that a checkpoint outlives its deletion by the run. No failure
    reaches the run; `finish` says what was not pushed.

    Args:
        hub: where and when to push.
        repo_id: where to; a name alone is in the namespace that the Hub gives later.
        folder: of the run.
    """

    def __init__(self, hub: HubConfig, repo_id: str, folder: RunFolder):
        self.hub, self.repo_id, self.folder = hub, repo_id, folder
        self._changed, self._given_up = threading.Condition(), threading.Event()
        self._waiting: _Pinned | None = None
        self._pushing: _Pinned | None = None
        self._count, self._last_step, self._last_time = 0, -1, -float("inf")
        self._pushed_step, self._url, self._problem, self._said = -1, "", "", set[str]()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the run has failed; what it saved is pushed all the same
            print(self.finish(hurry=kind is KeyboardInterrupt), file=sys.stderr)

    def offer(self, checkpoint: Path) -> None:
        """Have a complete checkpoint pushed, unless the last push was a short while ago. It never fails."""
        step, now = int(checkpoint.name.rpartition("-")[2]), time.monotonic()
        every = self.hub.push_steps
        if step - max(self._last_step, 0) >= every if every else now - self._last_time >= _SECONDS_BETWEEN:
            self._put(step, checkpoint)

    def finish(self, hurry: bool) -> str:
        """Wait for the last push, for a bounded time, and say what became of it.

        Args:
            hurry: the run was told to stop: there is little time.
        """
        step, checkpoint = next(reversed(self.folder.checkpoints().items()), (-1, None))
        if checkpoint is None and self._last_step < 0:
            return "Nothing was pushed to the Hub: the run has saved no checkpoint."
        finished = (self.folder.path / "config.json").exists()
        if step > self._last_step or finished:
            self._put(step, checkpoint)
        seconds = _SECONDS_WHEN_STOPPED if hurry else _SECONDS_AT_THE_END
        if not self._is_idle():
            print(f"Waiting for the last push, for {seconds} s at most.", flush=True)
        with self._changed, contextlib.suppress(KeyboardInterrupt):
            self._changed.wait_for(self._is_idle, seconds)
        done = self._is_idle() and not self._problem
        why = self._problem or "the last push was not done in time."
        self._given_up.set()
        for pinned in self.folder.path.glob(_PINNED.format("*")):
            shutil.rmtree(pinned, ignore_errors=True)
        if done:
            visible = "public" if self.hub.public else "private"
            return f"Pushed to {self._url} ({visible}), after step {self._pushed_step:,}."
        there = f" On the Hub is the model after step {self._pushed_step:,}." if self._pushed_step >= 0 else ""
        return (
            f"NOT PUSHED to the Hub: {why}{there} The run is whole in {self.folder.path}. To push it later:\n"
            f"  {self.command()}"
        )

    def command(self) -> str:
        """The command line that pushes the run."""
        words = ["singlelife", "push", str(self.folder.path), self.repo_id]
        words += ["--public"] if self.hub.public else []
        words += ["--training-state"] if self.hub.push_training_state else []
        return shlex.join(words)

    def _is_idle(self) -> bool:
        return self._waiting is None and self._pushing is None

    def _put(self, step: int, checkpoint: Path | None) -> None:
        """Pin a checkpoint for the thread in place of the one that waits, and start the thread."""
        try:
            pinned = _Pinned(step, self._pin(checkpoint))
        except OSError as error:
            self._problem = f"step {step} could not be laid out to be pushed: {error}."
            self._say(f"Not pushed: {self._problem} The run goes on.")
            return
        with self._changed:
            if self._waiting is not None:
                shutil.rmtree(self._waiting.path, ignore_errors=True)
            self._waiting = pinned
            self._last_step, self._last_time = step, time.monotonic()
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="push to the Hub", daemon=True)
            self._thread.start()

    def _pin(self, checkpoint: Path | None) -> Path:
        """A copy of what a push needs of the run folder, of hard links where files do not change in place."""
        self._count += 1
        aside = self.folder.path / _PINNED.format(self._count)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        names = (self.folder.config.name, self.folder.metrics.name, self.folder.life.name, "*.png")
        for path in {path for name in names for path in self.folder.path.glob(name)}:
            shutil.copyfile(path, aside / path.name)
        for path in model_files(self.folder.path):  # of a finished run
            _link(path, aside / path.name)
        if checkpoint is not None:
            shutil.copytree(checkpoint, aside / checkpoint.name, copy_function=_link)
        return aside

    def _work(self) -> None:
        """Push what waits, for as long as the process lives."""
        tried = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                pinned, self._pushing, self._waiting = self._waiting, self._waiting, None
            assert pinned is not None
            problem, again, url = "", None, ""
            try:
                url = push_run(
                    self.folder.path,
                    self.repo_id,
                    private=not self.hub.public,
                    training_state=self.hub.push_training_state,
                    tries=1,
                    progress=False,
                    pinned=pinned.path,
                )
            except HubUnreachable as error:
                tried, problem, again = tried + 1, str(error), error
            except Exception as error:  # whatever it is, the run goes on
                tried, problem = 0, str(error) if isinstance(error, HubError | RunError) else repr(error)
            if self._given_up.is_set():
                return
            with self._changed:
                self._problem, self._pushing = problem, None
                if not problem:
                    tried, self._pushed_step, self._url = 0, pinned.step, url
                if again is not None and self._waiting is None:
                    self._waiting = pinned
                else:
                    shutil.rmtree(pinned.path, ignore_errors=True)
                self._changed.notify_all()
            self._say(
                f"Not pushed so far: {problem} The run goes on."
                if problem
                else f"Pushed step {pinned.step:,} to {url}"
            )
            if again is not None and self._given_up.wait(wait_before_retry(again, tried)):
                return

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            tqdm.write(text)


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
    choice = [_newer_on_hub(config, latest) if process.is_main_process else None]
    (found,) = broadcast_object_list(choice)
    if found is None:
        return here
    remote, step = found
    aside, prefix = folder.path / _FROM_HUB, f"checkpoint-{step}/"
    files = [name for name in remote.sizes if name.startswith(prefix) and _STATE_FILE.fullmatch(name)]
    files += [name for name in remote.sizes if name == folder.metrics.name]
    aside.mkdir(parents=True, exist_ok=True)
    with FileLock(aside / "lock"):
        say = print if process.is_local_main_process else lambda _: None
        retry(lambda: fetch(remote, files, aside, elsewhere="--output-dir"), 5, say)
    return aside / prefix


def _newer_on_hub(config: RunConfig, latest: int) -> tuple[Remote, int] | None:
    """What the Hub has and its step, if that is newer than `latest`."""

    def find() -> Remote | None:
        hub = config.hub
        repo_id = full_name(hub_api(), hub.hub_model_id or Life(config.life_name, "video").repository_name)
        try:
            return look_up(repo_id, "model", STATE_BRANCH)
        except HubError as error:
            cause = error.__cause__
            # A job's first start has the same words as those that go on.
            is_new = isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError)
            if (hub.push_to_hub and is_new) or isinstance(cause, RevisionNotFoundError):
                return None
            raise

    try:
        remote = retry(find, 3, print)
    except HubUnreachable as error:
        if latest < 0:
            raise
        print(f"{error} Going on from the checkpoint of step {latest} that is here.")
        return None
    names = map(_STATE_FILE.fullmatch, remote.sizes if remote else ())
    step = max((int(match[1]) for match in names if match), default=-1)
    if remote is None or step <= latest:
        return None
    print(f"Going on from step {step} of {remote.repo_id} on the Hub.")
    return remote, step


def adopt(folder: RunFolder, checkpoint: Path | None) -> None:
    """Make a checkpoint that came from the Hub one of the run, with its metrics. The main process does so."""
    aside = folder.path / _FROM_HUB
    if checkpoint is None or checkpoint.parent != aside:
        return
    ours = folder.path / checkpoint.name
    copy = ours.with_name(f"{ours.name}.tmp")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(checkpoint, copy, copy_function=_link)  # other processes may still read it
    shutil.rmtree(ours, ignore_errors=True)
    copy.rename(ours)
    metrics = aside / folder.metrics.name
    if metrics.exists():
        with atomic_write(folder.metrics) as copied:
            shutil.copyfile(metrics, copied)


def forget(folder: RunFolder) -> None:
    """Remove what was downloaded, once every process has read it."""
    shutil.rmtree(folder.path / _FROM_HUB, ignore_errors=True)
