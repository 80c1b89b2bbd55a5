"""Every task of a suite on every model, each result written as soon as it is there."""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from singlelife.alignment.models import UNTRAINED, load_model
from singlelife.errors import EvaluationError, SingleLifeError
from singlelife.evaluation.suite.comparison import seedless
from singlelife.evaluation.suite.metrics import FIRST, METRICS_OF
from singlelife.evaluation.suite.page import SHEETS
from singlelife.evaluation.suite.results import Done, ModelResults, all_results, results_of
from singlelife.evaluation.suite.settings import Suite
from singlelife.evaluation.suite.tasks import Machine, OpenTask, open_task
from singlelife.text import duration

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_SEEDS = re.compile(r"(?P<model>.+)@(?P<first>\d+)\.\.(?P<last>\d+)")
_MOST_SEEDS = 1000
_MOST_SHOWN = 6  # models of a sheet


@dataclass(frozen=True)
class Problem:
    """What could not be done: with one model (all of them if empty), in one task (all if empty), and why."""

    model: str
    task: str
    why: str


@dataclass
class Outcome:
    """What a run of a suite did.

    Attributes:
        models: those that were asked for, then the untrained ones beside them.
        num_measured, num_kept: results that were computed, and that were there already.
        problems: what failed.
    """

    models: list[str]
    num_measured: int = 0
    num_kept: int = 0
    problems: list[Problem] = field(default_factory=list)


def evaluate_suite(
    models: Sequence[str],
    suite: Suite,
    folder: Path,
    *,
    untrained_seeds: int = 1,
    baselines: bool = True,
    machine: Machine | None = None,
) -> Outcome:
    """Run a suite. What fails is told in the end, and all else is kept.

    Args:
        models: as `load_model` takes them; `untrained:MODEL@0..2` stands for the seeds 0, 1 and 2.
        suite: what to run.
        folder: of the results, see `results.py`, and of the sheets; made if it is not there.
        untrained_seeds: how many untrained models of each architecture stand beside the others, where none is named.
        baselines: whether those, and what is no model (the identity flow, the mean depth), are wanted.
        machine: where and how models run.

    Raises:
        EvaluationError: a model is named twice, or what is in the folder cannot be read.
    """
    machine = machine or Machine()
    names = expand(models)
    folder.mkdir(parents=True, exist_ok=True)
    all_results(folder)  # says what cannot be read before hours are spent
    outcome = Outcome(names)
    results = {}
    for name, revision in _revisions(outcome, untrained_seeds if baselines else 0).items():
        results[name] = results_of(folder, name)
        results[name].of_revision(revision)
    outcome.models = list(dict.fromkeys([*names, *results]))
    work = _Work(results, folder, baselines, outcome, machine.progress)
    if results:
        work.run(suite, machine)
    return outcome


def check_groups(groups: Mapping[str, Sequence[str]], models: Sequence[str], folder: Path) -> None:
    """Make sure, before any work, that groups are of models that will be there.

    Raises:
        EvaluationError: one is not.
    """
    there = [each.model for each in all_results(folder)] if folder.is_dir() else []
    known = {*expand(models), *there}
    known |= set(map(seedless, known))
    for group, members in groups.items():
        for member in members:
            if member not in known and not member.startswith(UNTRAINED):  # such may stand beside the others
                names = ", ".join(sorted(known)) or "none"
                raise EvaluationError(f"--groups {group}: {member} is none of the models, which are {names}.")


def expand(models: Sequence[str]) -> list[str]:
    """The models, with ranges of seeds written out.

    Raises:
        EvaluationError: a range is not one, or a model is named twice.
    """
    names: list[str] = []
    for model in models:
        match = _SEEDS.fullmatch(model) if model.startswith(UNTRAINED) else None
        if match is None:
            names.append(model)
            continue
        first, last = int(match["first"]), int(match["last"])
        if not first <= last < first + _MOST_SEEDS:
            raise EvaluationError(
                f"{model}: seeds go from the lower to the higher one, at most {_MOST_SEEDS} of them, as in @0..2."
            )
        names += [f"{match['model']}@{seed}" for seed in range(first, last + 1)]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise EvaluationError(f"Named twice: {', '.join(twice)}. Each model is evaluated once.")
    return names


def _revisions(outcome: Outcome, untrained_seeds: int) -> dict[str, str]:
    """What the weights of each model are, and after all others of the untrained ones beside them, of each architecture
    of which the user has named none. Models that cannot be loaded are noted and left out."""
    found: dict[str, str] = {}
    for name in outcome.models:
        try:
            found[name] = load_model(name).revision
        except SingleLifeError as error:
            outcome.problems.append(Problem(name, "", str(error)))
    trained = [name for name in found if not name.startswith(UNTRAINED)]
    untrained = {_architecture(revision) for name, revision in found.items() if name not in trained}
    for name in trained if untrained_seeds else []:
        twins = {twin: load_model(twin).revision for twin in _twins(name, untrained_seeds)}
        architecture = _architecture(next(iter(twins.values())))
        if architecture not in untrained:
            untrained.add(architecture)
            found |= twins
    return found


def _twins(name: str, seeds: int) -> list[str]:
    return [f"{UNTRAINED}{name}@{seed}" for seed in range(seeds)]


def _architecture(revision: str) -> str:
    """The part of an untrained model's revision that is the same for every seed."""
    return revision.rpartition(" seed ")[0]


@dataclass
class _Work:
    """The results of the models, and what is said of them on the way."""

    results: dict[str, ModelResults]
    folder: Path
    baselines: bool
    outcome: Outcome
    progress: bool

    def run(self, suite: Suite, machine: Machine) -> None:
        """Task by task, so that the data of one are open at a time."""
        total = len(suite.tasks) * len(self.results)
        with tqdm(total=total, desc="Evaluating", unit=" results", disable=None if self.progress else True) as bar:
            for name, task in suite.tasks.items():
                opened = self._tried("", name, partial(open_task, task, machine))
                if opened is None:
                    bar.update(len(self.results))
                else:
                    self._task(name, opened, bar)

    def _task(self, name: str, task: OpenTask, bar: Any) -> None:
        """A task on every model, then its own baselines, then its sheet."""
        for model, there in self.results.items():
            self._one(name, there, task.about | {"revision": there.revision}, partial(task.measure, model))
            bar.update()
        if self.baselines and any(name in there.tasks for there in self.results.values()):
            models = list(self.results)
            for baseline, measure in task.baselines().items():
                there = results_of(self.folder, baseline)
                about = task.about | {"revision": None}
                self._one(name, there, about, partial(measure, models))
        self._tried("", name, partial(self._sheet, name, task))

    def _sheet(self, name: str, task: OpenTask) -> None:
        """Of all models in the folder one of each life, these first, as far as there is room; those that differ in
        their seed alone look alike."""
        others = [there for there in all_results(self.folder) if there.model not in self.results]
        chosen: dict[str, tuple[str, dict[str, torch.Tensor]]] = {}
        for there in (*self.results.values(), *others):
            life, about = seedless(there.model), task.about | {"revision": there.revision}
            room = len(chosen) < _MOST_SHOWN and life not in chosen
            if room and there.kept(name, about) and (pictures := there.pictures(name)):
                chosen[life] = there.model, pictures
        if chosen:
            path = self.folder / SHEETS / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            task.draw(path, list(chosen.values()))

    def _one(self, task: str, there: ModelResults, about: dict[str, Any], measure: Callable[[], Done]) -> None:
        if there.kept(task, about):
            self.outcome.num_kept += 1
            self._say(f"{task}  {there.model}: kept, it was computed before")
            return
        start = time.perf_counter()
        done = self._tried(there.model, task, measure)
        if done is None:
            return
        there.put(task, about, done)
        self.outcome.num_measured += 1
        metrics = METRICS_OF[about["task"]]
        said = [
            f"{metrics[name].title} {metrics[name].text(done.metrics[name].mean)}" for name in FIRST[about["task"]]
        ]
        self._say(f"{task}  {there.model}: {', '.join(said)} ({duration(time.perf_counter() - start)})")

    def _tried(self, model: str, task: str, work: Callable[[], Result]) -> Result | None:
        """What `work` gives. Whatever goes wrong in one place is noted, and the other results are kept."""
        try:
            return work()
        except SingleLifeError as error:
            why = str(error)
        except Exception as error:
            _LOG.exception("The task %s failed with %s.", task, model or "all models")
            why = f"{type(error).__name__}: {error}"
        self.outcome.problems.append(Problem(model, task, why))
        self._say(f"{task}  {model or 'all models'}: failed: {why}")
        return None

    def _say(self, words: str) -> None:
        if self.progress:
            tqdm.write(words, file=sys.stderr)
