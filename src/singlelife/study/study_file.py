"""What a study file says: which models to train, what to measure of them, and which questions that answers.

title: Does one life agree with another?
train: {max_steps: 5000}                    # flags of `singlelife train`, for all models
models:                                     # by the name of a set; lists are crossed
  lives: {life: [sim_1, sim_2], seed: [0, 1, 2]}
measures:                                   # by name; settings are flags of the command
  agreement: {command: align, models: [{from: lives, seed: 0}, "untrained:tiny@1"], pairs: sim_test}
  depth: {command: evaluate depth, models: [lives], each: true, train: [sim_1], test: [sim_test]}
questions:                                  # in the order in which they are worked on
  emergence: {ask: ..., finding: ..., analysis: curve, of: [agreement], ...}
run: {side_by_side: 1, threads: 1}          # how this machine does it; changes no result
"""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from singlelife.errors import StudyError
from singlelife.files import hub_configs, read_yaml
from singlelife.lives.resolve import life_reference

COMMANDS = ("align", "evaluate correspondence", "evaluate depth")
EXECUTORS = ("local", "slurm", "hf-jobs")
_OF_A_MEASURE = ("command", "models", "groups", "each", "against")
_OF_A_QUESTION = ("ask", "finding", "analysis", "measures", "optional")
_OF_THE_STUDY = ("output_dir", "resume", "overwrite_output_dir", "dry_run", "cache_dir", "push_to_hub", "hub_org")


@dataclass(frozen=True)
class Model:
    """One model to train: its settings are flags of `singlelife train`."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """One command on several models.

    Attributes:
        command: one of `COMMANDS`.
        models: trained ones by their names, others (`untrained:tiny@1`, a folder, ORG/NAME) as they are.
        groups: of `align`: names of groups and the models in each.
        each: a run of the command for each model, so that one more model costs one more run.
        against: of `align` with `each`: the model that each is compared with.
        settings: flags of the command.
    """

    name: str
    command: str
    models: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    each: bool
    against: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked, what the paper found, and which analysis of which measures answers it.

    Attributes:
        analysis: one of `analyses.ANALYSES`.
        measures: by the role that each has in the analysis.
        models: sets of models by the setting of the analysis, and in it by label.
        optional: leave it out where a recording that it needs is not here, instead of failing for want of it.
    """

    name: str
    ask: str
    finding: str
    analysis: str
    measures: Mapping[str, str]
    models: Mapping[str, Mapping[str, tuple[str, ...]]]
    optional: bool = False

    def steps_of(self, measure: Measure) -> tuple[str, ...]:
        """The models of a measure that this question is about: all, but where each is measured by itself."""
        named = {name for sets in self.models.values() for models in sets.values() for name in models}
        return tuple(model for model in measure.models if model in named) if measure.each else measure.models


@dataclass(frozen=True)
class Run:
    """How the work is done; nothing here changes a result.

    Attributes:
        side_by_side: steps at once on this machine.
        threads: of each.
        executor: who runs the steps.
        hub: user or organisation on the Hub that models are pushed to, and gone on from; needed for `hf-jobs`.
        gpus, gpu, time, sbatch, flavor, timeout, image, package, namespace: of the jobs, see `singlelife train-all`;
            `gpu` is a name of `hub_configs/gpu_peaks.yaml`, to say what the trainings cost on it.
    """

    side_by_side: int = 1
    threads: int = 1
    executor: str = "local"
    hub: str = ""
    gpus: int = 0
    gpu: str = ""
    time: str = "24:00:00"
    sbatch: tuple[str, ...] = ()
    flavor: str = "l4x1"
    timeout: str = "24h"
    image: str = ""
    package: str = "singlelife"
    namespace: str = ""


@dataclass(frozen=True)
class Study:
    """A study file, checked.

    Attributes:
        path: of the file.
        about: a paragraph for the report.
        limits: what its results do not say; paragraphs for the report.
        models: by name.
        measures, questions: by name, in the file's order.
    """

    path: Path
    title: str
    about: str
    limits: tuple[str, ...]
    models: Mapping[str, Model]
    measures: Mapping[str, Measure]
    questions: Mapping[str, Question]
    run: Run = field(default_factory=Run)

    @property
    def spoken(self) -> str:
        """What a user calls it: the name of one that is shipped, wherever the package is installed, or its path."""
        shipped = self.path.is_absolute() and self.path.parent == hub_configs() / "studies"
        return self.path.stem if shipped else self.path.as_posix()


def read_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: it says something that is not known, or that does not fit together; the message says where.
    """
    content = read_yaml(path)
    _known(str(path), content, ("title", "about", "limits", "train", "models", "measures", "questions", "run"))
    common = _mapping(f"{path}, train", content.get("train", {}))
    sets: dict[str, list[Model]] = {}
    models: dict[str, Model] = {}
    for name, settings in _mapping(f"{path}, models", content.get("models")).items():
        where = f"{path}, models, {name}"
        sets[name] = _apart(name, _crossed(where, common | _mapping(where, settings)), models)
        models |= {model.name: model for model in sets[name]}
    measures = {}
    for name, settings in _mapping(f"{path}, measures", content.get("measures", {})).items():
        measures[name] = _measure(f"{path}, measures, {name}", name, settings, sets)
    questions = {}
    for name, settings in _mapping(f"{path}, questions", content.get("questions", {})).items():
        questions[name] = _question(f"{path}, questions, {name}", name, settings, sets, measures)
    return Study(
        path=path,
        title=str(content.get("title", path.stem)),
        about=str(content.get("about", "")),
        limits=tuple(map(str, content.get("limits", ()))),
        models=models,
        measures=measures,
        questions=questions,
        run=_run(f"{path}, run", content.get("run", {})),
    )


def _crossed(where: str, settings: dict[str, Any]) -> list[Model]:
    """A model for each combination of the settings that are lists; `video` is a list by itself."""
    if "life" not in settings:
        raise StudyError(f"{where}: has no life. Give one, or a list of them.")
    if wrong := [name for name in settings if name in _OF_THE_STUDY]:
        raise StudyError(f"{where}: {wrong[0]} is the study's own to set; leave it out.")
    lists = {name: value for name, value in settings.items() if isinstance(value, list) and name != "video"}
    if empty := [name for name, value in lists.items() if not value]:
        raise StudyError(f"{where}: {empty[0]} is an empty list.")
    models = []
    for values in itertools.product(*lists.values()):
        one = settings | dict(zip(lists, values, strict=True))
        models.append(Model(_name(one), one))
    return models


def _apart(name: str, group: Sequence[Model], known: Mapping[str, Model]) -> list[Model]:
    """The models of a set; one that has the name of another of other settings gets its set's name too."""
    return [
        replace(model, name=f"{model.name}_{name}") if _differ(model, known.get(model.name, model)) else model
        for model in group
    ]


def _differ(one: Model, other: Model) -> bool:
    usual = {"seed": 0, "pairing": "temporal"}
    told = [
        {key: value for key, value in (usual | dict(model.settings)).items() if value is not None}
        for model in (one, other)
    ]
    return told[0] != told[1]


def _name(settings: Mapping[str, Any]) -> str:
    """A model's name: its life, what sets it apart from others of it, and its seed. Settings that only say how long or
    how it is trained stay out; the key of its step tells those apart."""
    parts = [life_reference(str(settings["life"]), settings.get("video")).name]
    parts += [str(settings["pairing"])] if settings.get("pairing", "temporal") != "temporal" else []
    parts += [f"{settings['hours']:g}h"] if settings.get("hours") else []
    parts += [Path(str(settings["model"])).stem] if settings.get("model", "tiny") not in ("tiny", "base") else []
    return "_".join([*parts, f"s{settings.get('seed', 0)}"])


def _selected(where: str, words: Any, sets: Mapping[str, list[Model]]) -> tuple[str, ...]:
    """The names of the models that words stand for: a set, `{from: SET, SETTING: value or values}`, or what any
    command takes as a model, which has a colon or a slash."""
    found: list[str] = []
    for word in words if isinstance(words, list) else [words]:
        if isinstance(word, str) and (":" in word or "/" in word):
            found.append(word)
            continue
        wanted = {"from": word} if isinstance(word, str) else _mapping(where, word)
        name, filters = str(wanted.get("from")), {key: value for key, value in wanted.items() if key != "from"}
        if name not in sets:
            near = difflib.get_close_matches(str(name), list(sets), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sets)}."
            raise StudyError(f"{where}: there is no set of models {name!r}; {hint}")
        matching = [
            model.name
            for model in sets[name]
            if all(model.settings.get(key) in (value if isinstance(value, list) else [value])
                   for key, value in filters.items())
        ]  # fmt: skip
        if not matching:
            raise StudyError(f"{where}: no model of the set {name!r} has {filters}.")
        found += matching
    return tuple(dict.fromkeys(found))


def _measure(where: str, name: str, settings: Any, sets: Mapping[str, list[Model]]) -> Measure:
    settings = _mapping(where, settings)
    command = settings.get("command")
    if command not in COMMANDS:
        raise StudyError(f"{where}: command should be one of {', '.join(COMMANDS)}, not {command!r}.")
    if not settings.get("models"):
        raise StudyError(f"{where}: has no models.")
    grouped = _mapping(where, settings.get("groups", {}))
    groups = {group: _selected(f"{where}, groups, {group}", words, sets) for group, words in grouped.items()}
    models = _selected(f"{where}, models", settings["models"], sets)
    if outside := [model for members in groups.values() for model in members if model not in models]:
        raise StudyError(f"{where}: {outside[0]} is in a group, and not among the models.")
    each = bool(settings.get("each", False))
    against = _selected(f"{where}, against", settings["against"], sets) if "against" in settings else ()
    if command == "align" and each != (len(against) == 1):
        raise StudyError(
            f"{where}: align with `each` takes one model `against` which each is compared, and only then."
        )
    if set(against) & set(models):
        raise StudyError(f"{where}: {against[0]} is both compared and what is compared with.")
    flags = {key: value for key, value in settings.items() if key not in _OF_A_MEASURE}
    if wrong := [flag for flag in flags if flag in ("save", "json", "cache_dir", "device")]:
        raise StudyError(f"{where}: {wrong[0]} is the study's own to set; leave it out.")
    return Measure(name, command, models, groups, each, "".join(against), flags)


def _question(
    where: str, name: str, settings: Any, sets: Mapping[str, list[Model]], measures: Mapping[str, Measure]
) -> Question:
    from singlelife.study.analyses import ANALYSES

    settings = _mapping(where, settings)
    analysis = settings.get("analysis")
    if analysis not in ANALYSES:
        raise StudyError(f"{where}: analysis should be one of {', '.join(ANALYSES)}, not {analysis!r}.")
    roles = _mapping(where, settings.get("measures", {}))
    for measure in roles.values():
        if measure not in measures:
            raise StudyError(f"{where}: there is no measure {measure!r}; there are {', '.join(measures)}.")
    needed = ANALYSES[analysis]
    if missing := [role for role in needed.measures if role not in roles]:
        raise StudyError(f"{where}: the analysis {analysis} needs the measures {', '.join(needed.measures)}; "
                         f"{missing[0]} is missing.")  # fmt: skip
    own = {key: value for key, value in settings.items() if key not in _OF_A_QUESTION}
    _known(where, own, needed.models)
    if missing := [key for key in needed.models if key not in own]:
        raise StudyError(f"{where}: the analysis {analysis} needs {missing[0]}.")
    models = {}
    for key, value in own.items():
        labelled = value if isinstance(value, dict) and "from" not in value else {key: value}
        models[key] = {str(label): _selected(f"{where}, {key}", words, sets) for label, words in labelled.items()}
    return Question(
        name,
        str(settings.get("ask", name)),
        str(settings.get("finding", "")),
        analysis,
        roles,
        models,
        bool(settings.get("optional", False)),
    )


def _run(where: str, settings: Any) -> Run:
    settings = _mapping(where, settings)
    defaults = Run()
    _known(where, settings, [each.name for each in fields(Run)])
    for name, value in settings.items():
        default = getattr(defaults, name)
        kind = list if isinstance(default, tuple) else type(default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise StudyError(f"{where}: {name} should be of type {kind.__name__}, not {value!r}.")
    if settings.get("side_by_side", 1) < 1 or settings.get("threads", 1) < 1 or settings.get("gpus", 0) < 0:
        raise StudyError(f"{where}: side_by_side and threads should be 1 or more, gpus 0 or more.")
    if settings.get("executor", "local") not in EXECUTORS:
        raise StudyError(f"{where}: executor should be one of {', '.join(EXECUTORS)}, not {settings['executor']!r}.")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    return Run(**values)


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StudyError(f"{where}: should be a mapping of names to values, not {value!r}.")
    return {str(name): each for name, each in value.items()}


def _known(where: str, content: Mapping[str, Any], known: Any) -> None:
    for name in content:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise StudyError(f"{where}: {name!r} is not known; {hint}")
