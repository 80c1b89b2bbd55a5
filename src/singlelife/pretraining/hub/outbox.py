"""Where a run lays out what is to be pushed, for a process of its own that pushes it.

In the run folder, `.push/` holds
    job.json       where to push, as `PushJob`
    <i>-step-<n>/  what the run folder held at that step: hard links, so that files outlive their deletion there
    busy           the name of the one that is being pushed
    outcome.json   what became of the last try, as `Outcome`
    log.txt        what the process said
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from singlelife.pretraining.run_folder import MODEL_FILES, RunFolder, write_text

FOLDER = ".push"
_SNAPSHOT = re.compile(r"(\d+)-step-(\d+)")


@dataclass(frozen=True)
class PushJob:
    """What every push of a run has in common; see `push_run`."""

    repo_id: str | None
    org: str | None
    private: bool
    training_state: bool


@dataclass(frozen=True, order=True)
class Snapshot:
    """What the run folder held at one moment: the how manieth it is, the step, and where it is."""

    number: int
    step: int
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What became of the last try to push.

    Attributes:
        step: of the last snapshot that is on the Hub; -1 if none is.
        url: where it is; empty if none is.
        error: why the last try failed; empty if it did not.
        hopeless: whether trying again is of no use.
    """

    step: int = -1
    url: str = ""
    error: str = ""
    hopeless: bool = False


class Outbox:
    """The folder `.push` of a run."""

    def __init__(self, run: Path):
        self.run, self.path = run, run / FOLDER
        self.log, self._job, self._busy = self.path / "log.txt", self.path / "job.json", self.path / "busy"
        self._outcome = self.path / "outcome.json"
        self._count = 0

    def open(self, job: PushJob) -> None:
        """Begin anew."""
        self.remove()
        self.path.mkdir(parents=True)
        write_text(self._job, json.dumps(asdict(job)))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def job(self) -> PushJob:
        return PushJob(**json.loads(self._job.read_text(encoding="utf-8")))

    @property
    def outcome(self) -> Outcome:
        if not self._outcome.exists():
            return Outcome()
        return Outcome(**json.loads(self._outcome.read_text(encoding="utf-8")))

    def note(self, outcome: Outcome) -> None:
        write_text(self._outcome, json.dumps(asdict(outcome)))

    def snapshots(self) -> list[Snapshot]:
        """What waits to be pushed, in order of time."""
        if not self.path.is_dir():
            return []
        found = [(_SNAPSHOT.fullmatch(path.name), path) for path in self.path.iterdir()]
        return sorted(Snapshot(int(match[1]), int(match[2]), path) for match, path in found if match)

    def put(self, step: int, checkpoint: Path | None) -> None:
        """Lay out a checkpoint and what the run folder says of it; what waited and is not being pushed goes.

        Raises:
            OSError: the disk is full.
        """
        self._count += 1
        aside = self.path / "next.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        folder = RunFolder(self.run)
        patterns = (folder.config.name, folder.metrics.name, folder.life.name, "*.png")
        for path in {path for pattern in patterns for path in self.run.glob(pattern)}:
            shutil.copyfile(path, aside / path.name)  # they change in place
        for path in {path for pattern in MODEL_FILES for path in self.run.glob(pattern)}:  # of a finished run
            _link(path, aside / path.name)
        if checkpoint is not None:
            (aside / checkpoint.name).mkdir()
            for path in checkpoint.iterdir():
                _link(path, aside / checkpoint.name / path.name)
        busy = self._busy.read_text(encoding="utf-8") if self._busy.exists() else ""
        for older in self.snapshots():
            if older.path.name != busy:
                shutil.rmtree(older.path, ignore_errors=True)
        aside.rename(self.path / f"{self._count}-step-{step}")

    def take(self) -> Snapshot | None:
        """The newest that waits, marked as being pushed, or None."""
        waiting = self.snapshots()
        if not waiting:
            return None
        write_text(self._busy, waiting[-1].path.name)
        return waiting[-1]

    def give_back(self) -> None:
        """Nothing is being pushed any more."""
        self._busy.unlink(missing_ok=True)

    def drop(self, pushed: Snapshot) -> None:
        """Remove what was pushed, and all that is older."""
        for waiting in self.snapshots():
            if waiting <= pushed:
                shutil.rmtree(waiting.path, ignore_errors=True)


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:  # a file system without links
        shutil.copyfile(path, to)
