"""What the steps of a study have found so far, as the analyses read it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from singlelife.study.runner import record_of, step_folder
from singlelife.study.steps import Plan
from singlelife.study.study_file import Study


@dataclass(frozen=True)
class Agreement:
    """One model against another, or by itself, at one k.

    Attributes:
        raw, position_free: adjusted scores, 0 by chance and 1 in full agreement.
        position: adjusted score against the position map.
        truth, position_free_truth: how often the true match is in the top k at large shifts; None where not known.
    """

    raw: float
    position_free: float
    position: float
    truth: float | None
    position_free_truth: float | None


class Results:
    """The outputs of the steps that are done; None for what is not there yet."""

    def __init__(self, study: Study, plan: Plan, folder: Path):
        self.study, self.plan, self.folder = study, plan, folder
        self._read: dict[str, Any] = {}

    def output(self, step: str) -> dict[str, Any] | None:
        """The result.json of a step."""
        if step not in self._read:
            there = record_of(self.folder, self.plan.steps[step]) is not None
            path = step_folder(self.folder, self.plan.steps[step]) / "result.json"
            self._read[step] = json.loads(path.read_text(encoding="utf-8")) if there else None
        return self._read[step]

    def of(self, measure: str, model: str) -> dict[str, Any] | None:
        """The output of a measure that is made for each model; None also where the measure leaves the model out."""
        models = self.study.measures[measure].models
        return self.output(self.plan.measures[measure][models.index(model)]) if model in models else None

    def agreement(self, measure: str, model: str) -> Agreement | None:
        """A model against the one that all are compared with."""
        found = self.of(measure, model)
        return None if found is None else self.cell(found, found["k"], 0, 1)

    def cell(self, found: dict[str, Any], k: int, first: int, second: int) -> Agreement:
        """Two models of an `align`; what is said of one model is said of the second."""
        at_k = found["at_k"][str(k)]
        reading = at_k["readings"][second]
        truths = [each and each["large_shifts"] for each in (reading["truth"], reading["position_free_truth"])]
        return Agreement(
            at_k["raw"]["adjusted"][first][second],
            at_k["position_free"]["adjusted"][first][second],
            reading["position"]["adjusted"],
            *truths,
        )

    def position_free(self, measure: str, model: str) -> float | None:
        found = self.agreement(measure, model)
        return None if found is None else found.position_free

    def truth(self, measure: str, model: str) -> float | None:
        found = self.agreement(measure, model)
        return None if found is None else found.truth

    def delta1(self, measure: str, model: str) -> float | None:
        found = self.of(measure, model)
        return None if found is None else found["rows"][0]["measures"]["delta1"]["mean"]

    def aepe(self, measure: str, model: str) -> float | None:
        found = self.of(measure, model)
        return None if found is None else found["models"][0]["summary"]["240"]["aepe"]

    def hours(self, model: str) -> float | None:
        """How much of its life a model learnt from."""
        settings = self.study.models[model].settings
        if settings.get("hours"):
            return float(settings["hours"])
        path = self.folder / self.plan.models[model] / "life.json"
        return json.loads(path.read_text(encoding="utf-8"))["hours"] if path.is_file() else None

    def index(self, measure: str, model: str) -> int:
        """Where a model stands in an `align` of many."""
        return self.study.measures[measure].models.index(model)

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Of each step that is done, what it noted."""
        found = {name: record_of(self.folder, step) for name, step in self.plan.steps.items()}
        return {name: record for name, record in found.items() if record is not None}

    def missing(self, steps: Sequence[str]) -> list[str]:
        """Steps that are not done."""
        return [step for step in dict.fromkeys(steps) if step not in self.records]


def mean(values: Sequence[float | None]) -> float:
    """Of those that are known; NaN where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan
