"""The steps of a study in order, each a command of this package, keyed by all that its output depends on."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from singlelife._version import __version__
from singlelife.errors import LifeError, SingleLifeError, StudyError
from singlelife.files import read_yaml
from singlelife.lives.prepare import life_fingerprint
from singlelife.lives.registry import SHUFFLED, get_life, life_names
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.arguments import FREE_ON_RESUME, config_path, parse_arguments
from singlelife.study.study_file import Measure, Model, Study

# Raise one when the same settings give another output, so that what was made before is not taken for it.
CODE = {"prepare": 1, "train": 1, "align": 1, "evaluate correspondence": 1, "evaluate depth": 1}
OUT = "{out}"  # in a step's words: the folder that it writes into
RECORD = "step.json"
_OF_THE_MODEL = ("model", "image_size", "mask_ratio")  # of what a resumed run may change, what its result depends on
_LIFE_SETTINGS = {"align": ("pairs",), "evaluate correspondence": ("data",), "evaluate depth": ("train", "test")}
_DEFAULT_PAIRS = "sim_test"
_NOT_HERE = "not here: "
_HELD_OUT = "/held-out"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: `kind/what-key`, with the first letters of the key; its folder within the study's.
        kind: one of `CODE`.
        label: what it is of, for people.
        key: SHA-256 of its settings, of the versions of what makes it, and of the keys of its inputs.
        words: of the command line, after `singlelife`; `OUT` stands for the folder to write into.
        inputs: names of the steps that it needs.
        settings: of a training, all that its result depends on.
    """

    name: str
    kind: str
    label: str
    key: str
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """All steps, those that a step needs before it; and which belong to what.

    Attributes:
        steps: by name, in the order of work.
        models: the training step of each model, by the model's name.
        questions: the last steps of each question, by its name.
        measures: the steps of each measure, by its name; of one that is made for each model, in the models' order.
        left_out: optional questions that are left out, with the lives that they need and that are not here.
    """

    steps: Mapping[str, Step]
    models: Mapping[str, str]
    questions: Mapping[str, tuple[str, ...]]
    measures: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, tuple[str, ...]]

    @property
    def wanted(self) -> list[str]:
        """All steps, but those that cannot be made for want of what a left out question needs."""
        absent = {life for lives in self.left_out.values() for life in lives}
        barred: set[str] = set()
        for name, step in self.steps.items():  # in order, so that what a step needs comes before it
            if (step.kind == "prepare" and step.label in absent) or barred & set(step.inputs):
                barred.add(name)
        return [name for name in self.steps if name not in barred]

    def needed_by(self, names: Sequence[str]) -> list[str]:
        """These steps and all that they need, in order."""
        wanted, waiting = set(), list(names)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += self.steps[name].inputs
        return [name for name in self.steps if name in wanted]


def plan_study(study: Study, folder: Path, cache_dir: Path | None = None) -> Plan:
    """The steps of a study.

    Args:
        folder: the study's own, where the outputs of its steps are.
        cache_dir: of prepared lives.

    Raises:
        SingleLifeError: a setting is wrong, or a life is not known. A life whose videos are not here is no error yet:
            preparing it will say how to get it.
    """
    planner = _Planner(study, folder, cache_dir)
    questions = {}
    for name, question in study.questions.items():
        asked = [study.measures[measure] for measure in question.measures.values()]
        questions[name] = tuple(
            step for measure in asked for step in planner.measure(measure, question.steps_of(measure))
        )
    measures = {name: planner.measure(measure, measure.models) for name, measure in study.measures.items()}
    models = {name: planner.model(model) for name, model in study.models.items()}
    plan = Plan(planner.steps, models, questions, measures, {})
    absent = {
        name: tuple(step.label for step in map(plan.steps.__getitem__, plan.needed_by(questions[name]))
                    if step.kind == "prepare" and not is_here(step))
        for name, question in study.questions.items() if question.optional
    }  # fmt: skip
    return replace(plan, left_out={name: lives for name, lives in absent.items() if lives})


class _Planner:
    def __init__(self, study: Study, folder: Path, cache_dir: Path | None):
        self.study, self.folder, self.cache_dir = study, folder, cache_dir
        self.steps: dict[str, Step] = {}
        self._by_key: dict[str, str] = {}
        self._by_model: dict[str, str] = {}
        self._cache_words = ["--cache-dir", str(cache_dir)] if cache_dir else []

    def add(
        self,
        kind: str,
        label: str,
        words: Sequence[str],
        inputs: Sequence[str],
        said: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """Add a step, or find the one of the same key; `said` is what the key is of, besides the inputs' keys."""
        keys = sorted(self.steps[name].key for name in inputs)
        described = {"kind": kind, "code": CODE[kind], "version": __version__, "said": said, "inputs": keys}
        key = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
        if key in self._by_key:
            return self._by_key[key]
        where = kind.replace("evaluate ", "").replace(" ", "-")
        name = f"{where}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', label)}-{key[:8]}"
        self.steps[name] = Step(name, kind, label, key, tuple(words), tuple(dict.fromkeys(inputs)), settings or {})
        self._by_key[key] = name
        return name

    def life(self, words: str, videos: Sequence[str] = ()) -> str:
        words = words.removesuffix(_HELD_OUT)
        fingerprint = _fingerprint(words, tuple(videos))
        recording = ["--video", *videos] if videos else []
        return self.add(
            "prepare", words, ["prepare", words, *recording, *self._cache_words], [], {"life": fingerprint}
        )

    def model(self, model: Model) -> str:
        if model.name in self._by_model:
            return self._by_model[model.name]
        off = [f"--{name.replace('_', '-')}=False" for name, value in model.settings.items() if value is False]
        flags = [*_flags(model.settings), *off]
        try:
            arguments = parse_arguments(flags, here=False)
        except LifeError:
            raise
        except SingleLifeError as error:
            raise StudyError(f"{self.study.path}, the model {model.name}: {error}") from error
        settings = {
            name: value
            for name, value in arguments.to_dict().items()
            if name not in FREE_ON_RESUME or name in _OF_THE_MODEL
        }
        words = ["train", *flags, "--output-dir", OUT, "--resume"]
        if self.study.run.hub:
            repository = f"{self.study.run.hub}/{_repository(self.study, model)}"
            words[-1:] = ["--push-to-hub", repository, "--resume", "hub"]
        life = arguments.life.life
        assert life
        said = settings | {"model": _model_config(str(settings["model"]))}
        inputs = [self.life(life, arguments.life.video or ())]
        name = self.add("train", model.name, [*words, *self._cache_words], inputs, said, settings)
        self._by_model[model.name] = name
        return name

    def measure(self, measure: Measure, models: Sequence[str]) -> tuple[str, ...]:
        if not measure.each:
            return (self._measure(measure, models, measure.name),)
        with_each = (measure.against,) if measure.against else ()
        return tuple(self._measure(measure, (*with_each, model), f"{measure.name}-{model}") for model in models)

    def _measure(self, measure: Measure, models: Sequence[str], label: str) -> str:
        inputs = [self.model(self.study.models[model]) for model in models if model in self.study.models]
        lives = [
            life
            for setting in _LIFE_SETTINGS[measure.command]
            for life in _listed(measure.settings.get(setting, _DEFAULT_PAIRS if setting == "pairs" else []))
        ]
        inputs += [self.life(life) for life in lives if _is_a_life(life)]
        out = OUT if measure.command == "align" else f"{OUT}/result.json"
        words = [*measure.command.split(), *(self.place(model) for model in models)]
        if measure.groups:
            words += ["--groups", *(f"{group}={','.join(map(self.place, members))}"
                                    for group, members in measure.groups.items())]  # fmt: skip
        words += [*_flags(measure.settings), "--save" if measure.command == "align" else "--json", out]
        said = {"models": list(models), "groups": measure.groups, "settings": measure.settings}
        return self.add(measure.command, label, [*words, *self._cache_words], inputs, said)

    def place(self, model: str) -> str:
        """What commands call a model: the folder of its step, or what it is called anyway."""
        return str(self.folder / self.model(self.study.models[model])) if model in self.study.models else model


def _flags(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            words += [flag, *map(str, value)]
        elif value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _is_a_life(words: str) -> bool:
    """Whether it is the name of one, or the folder of a prepared one."""
    words = words.removesuffix(_HELD_OUT)
    return words.removeprefix(SHUFFLED) in life_names() or (Path(words) / "metadata.json").is_file()


@cache
def _fingerprint(words: str, videos: tuple[str, ...] = ()) -> str:
    """Of a life; of one that is not here, its name: it will be another step once it is."""
    if videos:
        return life_fingerprint(get_life(words, videos))
    reference = life_reference(words)
    if reference.kind == "hub":
        return f"{reference.where}@{reference.revision}"
    if reference.kind == "folder":
        return json.loads((Path(reference.where) / "metadata.json").read_text(encoding="utf-8"))["fingerprint"]
    try:
        return life_fingerprint(get_life(words))
    except LifeError:
        if not _is_a_life(words):
            raise
        return f"{_NOT_HERE}{words}"


def is_here(preparation: Step) -> bool:
    """Whether a life's frames are here, or can be made or fetched."""
    return "--video" in preparation.words or not _fingerprint(preparation.label).startswith(_NOT_HERE)


@cache
def _model_config(name_or_path: str) -> Any:
    """What a model's settings are, by whatever name; of a checkpoint, its path."""
    return name_or_path if Path(name_or_path).is_dir() else read_yaml(config_path("models", name_or_path))


def _repository(study: Study, model: Model) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", f"singlelife-{study.path.stem}-{model.name}")
