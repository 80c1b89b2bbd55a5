"""Running the steps of a study on this machine: several side by side, each once, whatever ends it.

A step works in a folder `.NAME.partial` beside its own, which takes its name when all is well. Its log stays in
`logs/`, whatever becomes of it. A training that was stopped goes on from its checkpoints.
"""

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from singlelife._version import __version__
from singlelife.errors import StudyError
from singlelife.study.steps import OUT, RECORD, Plan, Step
from singlelife.study.study_file import Run
from singlelife.text import duration

_POLL = 0.2  # seconds between looks at the running steps
_LAST_LINES = 6  # of a failed step's log, to show
_PR_SET_PDEATHSIG = 1


@dataclass
class Outcome:
    """What became of the steps that were asked for, by name."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # and why
    left: list[str] = field(default_factory=list)  # for want of what they need, or of time

    @property
    def good(self) -> bool:
        return not self.failed and not self.left


def step_folder(folder: Path, step: Step) -> Path:
    return folder / step.name


def partial_folder(folder: Path, step: Step) -> Path:
    whole = step_folder(folder, step)
    return whole.with_name(f".{whole.name}.partial")


def log_file(folder: Path, step: Step) -> Path:
    return folder / "logs" / f"{step.name.replace('/', '-')}.log"


def record_of(folder: Path, step: Step) -> dict[str, Any] | None:
    """What a step noted when it was done; None where it is not."""
    try:
        record = json.loads((step_folder(folder, step) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.get("key") == step.key else None


def command_line(folder: Path, step: Step, run: Run, *, shown: bool = False) -> list[str]:
    """The words that run a step; `shown` as a user would write them."""
    out = str(partial_folder(folder, step))
    words = [word.replace(OUT, out) for word in step.words]
    if run.gpus > 0 and step.kind == "train":
        from singlelife.pretraining.jobs import Resources

        return [*Resources(gpus=run.gpus).launch, "-m", "singlelife.cli", *words]
    return ["singlelife", *words] if shown else [sys.executable, "-m", "singlelife.cli", *words]


def shown_command(folder: Path, step: Step, run: Run) -> str:
    return f"OMP_NUM_THREADS={run.threads} {shlex.join(command_line(folder, step, run, shown=True))}"


@contextlib.contextmanager
def locked(folder: Path, step: str = "") -> Iterator[int]:
    """Keep a study's folder, or one step of it, from other studies as long as this process, or a step that it started,
    is alive.

    Raises:
        StudyError: another is at work in it.
    """
    if sys.platform == "win32":
        raise StudyError("Steps of a study are run on Linux and macOS; see --dry-run for the commands.")
    import fcntl

    (folder / "locks").mkdir(parents=True, exist_ok=True)
    with (folder / "locks" / (step.replace("/", "-") or "study")).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StudyError(
                f"A study, or a step of one that was ended, is still at work in {folder}. Wait for it, or end it."
            ) from error
        yield lock.fileno()


class Runner:
    """Runs steps that are not done yet, each after those of them that it needs.

    Args:
        folder: the study's.
        lock: of `locked`, which steps inherit.
        say: told of each step that begins, ends or fails.
    """

    def __init__(self, plan: Plan, folder: Path, run: Run, lock: int, say: TextIO = sys.stderr):
        self.plan, self.folder, self.run, self._lock, self._say = plan, folder, run, lock, say
        self._running: dict[int, tuple[Step, float]] = {}
        self._stopped: int | None = None

    def __call__(self, names: Sequence[str]) -> Outcome:
        """Run these steps. One that needs another, which is neither done nor among them, is left.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM came; running steps were told, and have ended.
        """
        outcome = Outcome()
        waiting = []
        for name, step in self.plan.steps.items():
            if record_of(self.folder, step):
                outcome.done.append(name)
            elif name in names:
                waiting.append(name)
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while (waiting or self._running) and self._stopped is None:
                self._start_ready(waiting, outcome)
                if not self._running:
                    break  # the rest waits for what has failed
                self._reap(outcome)
                time.sleep(_POLL)
            self._end_running()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        outcome.left = waiting
        if self._stopped is not None:
            raise KeyboardInterrupt
        return outcome

    def _start_ready(self, waiting: list[str], outcome: Outcome) -> None:
        for name in list(waiting):
            if len(self._running) >= self.run.side_by_side:
                return
            step = self.plan.steps[name]
            if all(needed in outcome.done for needed in step.inputs):
                waiting.remove(name)
                try:
                    self._start(step)
                except OSError as error:
                    raise StudyError(f"The step {name} cannot be started: {error}") from error

    def _start(self, step: Step) -> None:
        partial, log = partial_folder(self.folder, step), log_file(self.folder, step)
        if step.kind != "train":  # only a training goes on from what it has
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        shown = shown_command(self.folder, step, self.run)
        print(f"{_now()} {step.name}: {shown}", file=self._say, flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.run.threads)}
        with log.open("a", encoding="utf-8") as output:
            print(f"\n{_now()} {shown}", file=output, flush=True)
            process = subprocess.Popen(
                command_line(self.folder, step, self.run),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(self._lock,),
                start_new_session=True,  # Ctrl-C is for this process, which tells the steps
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        self._running[process.pid] = (step, time.time())
        process.returncode = 0  # it is waited for below, with what it used

    def _reap(self, outcome: Outcome) -> None:
        for pid, (step, started) in list(self._running.items()):
            ended, status, used = os.wait4(pid, os.WNOHANG)
            if not ended:
                continue
            del self._running[pid]
            code = os.waitstatus_to_exitcode(status)
            seconds, cpu_seconds = time.time() - started, used.ru_utime + used.ru_stime
            if code == 0:
                self._settle(step, seconds, cpu_seconds)
                outcome.done.append(step.name)
                finished = len(outcome.done)
                print(f"{_now()} {step.name}: done in {duration(seconds)} ({duration(cpu_seconds)} of CPU time); "
                      f"{finished} of {len(self.plan.wanted)} steps are", file=self._say, flush=True)  # fmt: skip
            else:
                self._add_time(step, seconds, cpu_seconds)
                outcome.failed[step.name] = self._why(step, code)
                print(f"{_now()} {step.name}: FAILED. {outcome.failed[step.name]}", file=self._say, flush=True)

    def _settle(self, step: Step, seconds: float, cpu_seconds: float) -> None:
        """Write down how a step was made, and give its folder its name."""
        partial, whole = partial_folder(self.folder, step), step_folder(self.folder, step)
        spent = self._add_time(step, seconds, cpu_seconds)
        record = {name: value for name, value in asdict(step).items() if name != "words"}
        record |= {"command": shown_command(self.folder, step, self.run), "version": __version__, **spent}
        (partial / RECORD).write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        (partial / _SPENT).unlink()
        shutil.rmtree(whole, ignore_errors=True)  # of the same key and yet not done: damaged
        partial.rename(whole)

    def _add_time(self, step: Step, seconds: float, cpu_seconds: float) -> dict[str, float]:
        """What a step has taken over all its attempts; kept in its folder, so that no attempt is forgotten."""
        path = partial_folder(self.folder, step) / _SPENT
        spent: Mapping[str, float] = {}
        with contextlib.suppress(OSError, ValueError):
            spent = json.loads(path.read_text(encoding="utf-8"))
        total = {
            "seconds": round(spent.get("seconds", 0.0) + seconds, 1),
            "cpu_seconds": round(spent.get("cpu_seconds", 0.0) + cpu_seconds, 1),
        }
        path.write_text(json.dumps(total), encoding="utf-8")
        return total

    def _why(self, step: Step, code: int) -> str:
        log = log_file(self.folder, step)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LAST_LINES:]
        ended = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        return "\n    ".join([f"{ended}; the end of {log}:", *(line.split("\r")[-1] for line in lines)])

    def _stop(self, number: int, frame: Any) -> None:
        self._stopped = number

    def _end_running(self) -> None:
        """Tell running steps to end, and wait until they have; a training saves a checkpoint first."""
        if not self._running:
            return
        print(f"{_now()} Ending {len(self._running)} step(s); a training saves a checkpoint first.", file=self._say,
              flush=True)  # fmt: skip
        for pid in self._running:  # they are not waited for yet, so that no other process can have these numbers
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # one that somebody has paused could not end
        for pid, (step, started) in list(self._running.items()):
            _, _, used = os.wait4(pid, 0)
            self._add_time(step, time.time() - started, used.ru_utime + used.ru_stime)
            del self._running[pid]


_SPENT = "spent.json"


def _end_with_parent() -> None:
    """In a step's process: be told when the study is killed, so that no step goes on beside the next study's."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _now() -> str:
    return time.strftime("%H:%M:%S")
