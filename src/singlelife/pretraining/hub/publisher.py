"""Pushing a run to the Hub while it goes on.

The training process only lays out hard links (see `outbox.py`); a process of its own (`worker.py`) sends them. That
needs none of the training's memory or GPU, runs at a lower priority, and can be ended at any moment.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from huggingface_hub import constants
from tqdm.auto import tqdm

from singlelife.errors import HubError, RunError
from singlelife.hub.errors import HubUnreachable
from singlelife.hub.repositories import check_token, hub_api
from singlelife.lives.registry import Life
from singlelife.pretraining.arguments import HubConfig, RunConfig
from singlelife.pretraining.hub.outbox import Outbox, PushJob
from singlelife.pretraining.hub.push import make_ready, repository_of
from singlelife.pretraining.run_folder import RunFolder

_SECONDS_BETWEEN = 30 * 60  # pushes, unless --push-steps says otherwise
_SECONDS_WHEN_STOPPED = 15  # that a run which was told to stop waits for its last push


def start_publisher(arguments: RunConfig, folder: RunFolder) -> "Publisher | None":
    """What pushes the run, if `--push-to-hub` asks for it; made sure of before hours of training.

    A network that is dead only warns: it may be back when the first checkpoint is there.

    Raises:
        HubError: the repository cannot be pushed to.
    """
    hub, repo_id = arguments.hub, None
    if hub.push_to_hub is None:
        return None
    if constants.HF_HUB_OFFLINE:
        raise HubError(
            "--push-to-hub needs the Hub, and HF_HUB_OFFLINE says not to ask it. Unset it, or leave the flag out and "
            "push later with `singlelife push`."
        )
    check_token()
    api, life = hub_api(), arguments.life_name
    try:
        repo_id = repository_of(api, Life(life, "video").repository_name, hub.push_to_hub or None, hub.hub_org)
        make_ready(api, repo_id, life, not hub.public, hub.push_training_state)
    except HubUnreachable as error:
        print(f"Warning: {error} The run starts all the same, and pushing is tried with its checkpoints.")
    return Publisher(folder, hub, repo_id)


class Publisher:
    """Pushes a run's checkpoints. Of the main process.

    Args:
        folder: of the run.
        arguments: of the user.
        repo_id: where to; None where the Hub has yet to say whose token it is.
    """

    def __init__(self, folder: RunFolder, arguments: HubConfig, repo_id: str | None):
        self.folder, self.arguments, self.repo_id = folder, arguments, repo_id
        self.outbox = Outbox(folder.path)
        self._worker: subprocess.Popen[bytes] | None = None
        self._last_step, self._last_time = -1, -float("inf")
        self._opened, self._problem, self._told = False, "", set[str]()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the run has failed; what it saved is pushed all the same
            print(self.finish(hurry=kind is KeyboardInterrupt), file=sys.stderr)

    def offer(self, checkpoint: Path) -> None:
        """Have a complete checkpoint pushed, unless the last push was a short while ago. It never fails."""
        step, now = int(checkpoint.name.rpartition("-")[2]), time.monotonic()
        every = self.arguments.push_steps
        due = step - max(self._last_step, 0) >= every if every else now - self._last_time >= _SECONDS_BETWEEN
        if due:
            self._put(step, checkpoint)
        self._tell()

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
        seconds = self.arguments.push_wait
        self._wait(min(seconds, _SECONDS_WHEN_STOPPED) if hurry else seconds)
        outcome, waiting = self.outbox.outcome, self.outbox.snapshots()
        self.outbox.remove()
        if not waiting and not self._problem and outcome.step >= 0:
            visible = "public" if self.arguments.public else "private"
            return f"Pushed to {outcome.url} ({visible}), after step {outcome.step:,}."
        why = self._problem or outcome.error or "the last push was not done in time."
        there = f" On the Hub is the model after step {outcome.step:,}." if outcome.step >= 0 else ""
        return (
            f"NOT PUSHED to the Hub: {why}{there} The run is whole in {self.folder.path}. To push it later:\n"
            f"  {self.command(finished)}"
        )

    def command(self, finished: bool) -> str:
        """The command line that pushes the run."""
        words = ["singlelife", "push", str(self.folder.path)]
        if name := self.repo_id or self.arguments.push_to_hub:
            words.append(name)
        if self.repo_id is None and self.arguments.hub_org:
            words += ["--org", self.arguments.hub_org]
        words += ["--public"] if self.arguments.public else []
        words += ["--training-state"] if self.arguments.push_training_state and not finished else []
        return shlex.join(words)

    def _put(self, step: int, checkpoint: Path | None) -> None:
        try:
            if not self._opened:
                job = PushJob(
                    self.repo_id or self.arguments.push_to_hub or None,
                    self.arguments.hub_org,
                    not self.arguments.public,
                    self.arguments.push_training_state,
                )
                self.outbox.open(job)
                self._opened = True
            self.outbox.put(step, checkpoint)
            self._last_step, self._last_time, self._problem = step, time.monotonic(), ""
            self._start()
        except (OSError, RunError) as error:
            self._problem = f"step {step} could not be laid out to be pushed: {error}."
            self._say(f"Not pushed: {self._problem} The run goes on.")

    def _start(self) -> None:
        """Start the process that pushes, unless it runs."""
        if self._worker is not None and self._worker.poll() is None:
            return
        with self.outbox.log.open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "singlelife.pretraining.hub.worker", str(self.folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the run
                env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            )

    def _wait(self, seconds: float) -> None:
        """Wait until all is pushed, trying again is of no use, or the time is over; then end the process."""
        end = time.monotonic() + seconds
        text = "Waiting for the last push: {n_fmt} of at most {total_fmt} s{postfix}"
        bar = tqdm(total=round(seconds), bar_format=text, leave=False)
        with bar, contextlib.suppress(KeyboardInterrupt):
            while self.outbox.snapshots() and time.monotonic() < end:
                if self._worker is None or self._worker.poll() is not None:
                    if self.outbox.outcome.hopeless or not self.outbox.snapshots():
                        break
                    self._start()  # it ended just before the last checkpoint came in
                time.sleep(0.1)
                bar.update(round(seconds - (end - time.monotonic())) - bar.n)
                if error := self.outbox.outcome.error:
                    bar.set_postfix_str(error[:80])
        if self._worker is not None and self._worker.poll() is None:
            self._worker.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._worker.wait(5)
            self._worker.kill()
        if self._worker is not None:
            self._worker.wait()

    def _tell(self) -> None:
        """Say once what became of the last try."""
        outcome = self.outbox.outcome
        if outcome.error:
            self._say(f"Not pushed so far: {outcome.error} The run goes on.")
        elif outcome.step >= 0:
            self._say(f"Pushed step {outcome.step:,} to {outcome.url}")

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            tqdm.write(text)
