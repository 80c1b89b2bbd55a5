"""A run on the Hub: pushed when it is finished, or while it trains.

The branch `main` of its repository has the model, its image processor and code, the run's settings, metrics and
pictures, and a model card. Each push appears as one commit. The branch `training-state` is a run folder with one
checkpoint: download it, and `--resume` continues the run. Users of the model do not download it.
"""

import contextlib
import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from tqdm.auto import tqdm

from singlelife.errors import HubError, RunError, SingleLifeError
from singlelife.hub.client import check_push, full_name, hub_api, wait_before_retry
from singlelife.hub.errors import HubUnreachable, translate_hub_errors
from singlelife.hub.push import Content, Publication, claim, publish
from singlelife.lives.registry import Life
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.arguments import HubConfig
from singlelife.pretraining.card import model_card, model_files, read_run, scores_of
from singlelife.pretraining.run_folder import MODEL_FILES, RESULTS, RunFolder

STATE_BRANCH = "training-state"

_SECONDS_BETWEEN = 30 * 60  # pushes, unless --push-steps says otherwise
_SECONDS_AT_THE_END = 10 * 60  # to wait for the last push
_SECONDS_WHEN_STOPPED = 15  # the same for a run that a signal stopped
_PINNED = ".push.tmp"  # a copy of the run folder while it is pushed


def run_publications(
    path: Path,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    results: Sequence[str | Path] = (),
    training_state: bool = False,
    home: Path | None = None,
) -> list[Publication]:
    """A run's publications: the finished model, or the latest checkpoint. The model comes last.

    Args:
        path: the run folder.
        repo_id: ORG/NAME, or a NAME in the user's own namespace; by default the life's, such as `singlelife-wt3`.
        license: the weights' licence; by default the frames'.
        results: `results.jsonl` files with scores for the card, besides the one in the run folder.
        training_state: also publish the checkpoint, so that the run can continue elsewhere.
        home: the run folder that `path` is a copy of.

    Raises:
        RunError: the folder is not a run or has no model yet, its model is no CroCo, or results are about other
            models.
    """
    run, home = read_run(path), home or path
    if run.settings.get("model_type", "croco") != "croco":
        raise RunError(
            f"{path} holds a {run.settings['model_type']}, and only a CroCo can be pushed: its card and code are "
            "CroCo's. `model.push_to_hub` of transformers takes this baseline."
        )
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
        raise RunError(f"{path} has no checkpoint to continue from.")
    files = about | {f"{run.checkpoint.name}/{file.name}": file for file in sorted(run.checkpoint.iterdir())}
    state = replace(
        _publication(run.life.name, repo_id, files),
        message=model.message,
        replaces=("checkpoint-*/*",),
        branch=STATE_BRANCH,
    )
    return [state, model]  # if the second push fails, a resumed run makes the model again


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
    """The publisher of a run, or None without `--push-to-hub`.

    It checks before hours of training that the user may push to the repository. If the network is down, it only prints
    a warning, since the network may be back when the first checkpoint is saved.

    Raises:
        HubError: the user may not push there.
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
                f"Pushing to {repo_id} needs a token with write access, and yours can only read. Create another one "
                "in your settings on the Hub, then log in with `hf auth login` or set HF_TOKEN."
            )
    except HubUnreachable as error:
        print(f"Warning: {error} The run starts anyway, and pushes when the Hub can be reached.")
    return Publisher(hub, repo_id, folder)


class Publisher:
    """Pushes the latest checkpoint of a run while it trains, one push at a time. Only the main process has one.

    The pushing thread is a daemon, so a hanging network never keeps the run from ending. It pushes a copy of the run
    folder made of hard links, so a checkpoint that the run deletes meanwhile is still sent whole. A failure does not
    stop the run: the next checkpoint is pushed instead, and `finish` says what is missing on the Hub.

    Args:
        hub: where and when to push.
        repo_id: ORG/NAME, or a NAME in the user's own namespace.
        folder: the run folder.
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
        if kind is not None:  # the run has failed; push what it saved anyway
            print(self.finish(hurry=kind is KeyboardInterrupt), file=sys.stderr)

    def offer(self, checkpoint: Path) -> None:
        """Push a complete checkpoint, unless a push is going on or the last one was too recent."""
        step, now, every = int(checkpoint.name.rpartition("-")[2]), time.monotonic(), self.hub.push_steps
        due = step - self._last_step >= every if every else now - self._last_time >= _SECONDS_BETWEEN
        if (due or self._error) and not self._is_pushing(0):
            self._last_step, self._last_time = step, now
            self._start()

    def finish(self, hurry: bool) -> str:
        """Try to push the last state for a limited time, and return a message about the result.

        Args:
            hurry: someone stopped the run, so there is little time.
        """
        if not self.folder.checkpoints() and self._thread is None:
            return "Nothing was pushed to the Hub: the run has saved no checkpoint."
        seconds, tries = _SECONDS_WHEN_STOPPED if hurry else _SECONDS_AT_THE_END, 0
        print(f"Waiting for the last push, at most {seconds} s.", flush=True)
        end = time.monotonic() + seconds
        with contextlib.suppress(KeyboardInterrupt):
            while not self._is_pushing(end - time.monotonic()):
                if tries and self._error is None:
                    visible = "public" if self.hub.public else "private"
                    return f"Pushed to {self._url} ({visible}), after step {self._pushed_step:,}."
                if tries:
                    error = self._error
                    wait = wait_before_retry(error, tries) if isinstance(error, HubUnreachable) else seconds
                    if time.monotonic() + wait >= end:
                        break
                    time.sleep(wait)
                tries += 1
                self._start()
        shutil.rmtree(self.folder.path / _PINNED, ignore_errors=True)
        why = _in_words(self._error) if self._error else "the last push took too long."
        there = f" The Hub has the model after step {self._pushed_step:,}." if self._pushed_step >= 0 else ""
        words = ["singlelife", "push", str(self.folder.path), self.repo_id]
        words += ["--public"] * self.hub.public + ["--training-state"] * self.hub.push_training_state
        return (
            f"NOT PUSHED to the Hub: {why}{there} The run is complete in {self.folder.path}. To push it later:\n"
            f"  {shlex.join(words)}"
        )

    def _is_pushing(self, seconds: float) -> bool:
        """Whether a push is still going on after waiting up to `seconds` for it."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        """Start to push a copy of the current run folder."""
        pinned, folder, self._error = self.folder.path / _PINNED, self.folder, None
        step, checkpoint = next(reversed(folder.checkpoints().items()), (-1, None))
        try:
            shutil.rmtree(pinned, ignore_errors=True)
            pinned.mkdir()
            for pattern in (folder.config.name, folder.metrics.name, folder.life.name, "*.png"):
                for path in folder.path.glob(pattern):
                    shutil.copyfile(path, pinned / path.name)  # these change in place
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
        except Exception as error:  # no error may stop the run
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
