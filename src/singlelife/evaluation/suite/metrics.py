"""What the tasks measure: names, units, which way is better, and which numbers come first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from singlelife.evaluation.correspondence import RESOLUTIONS, THRESHOLDS, PairResult
from singlelife.evaluation.depth_protocols import METRICS
from singlelife.evaluation.probing import Measure


@dataclass(frozen=True)
class Metric:
    """One number of a task.

    Attributes:
        title: for people, with its unit where it has one.
        higher_is_better: else lower is.
        is_share: from 0 to 1.
    """

    title: str
    higher_is_better: bool
    is_share: bool = False

    def text(self, value: float) -> str:
        """The number as tables have it."""
        return f"{value:.3f}" if self.is_share or "px" not in self.title else f"{value:.2f}"


_DEPTH_TITLES = {
    "delta1": "δ1",
    "delta2": "δ2",
    "delta3": "δ3",
    "abs_rel": "AbsRel",
    "rmse": "RMSE m",
    "log10": "log10",
}


def _of_correspondence() -> dict[str, Metric]:
    found = {}
    for resolution, side in RESOLUTIONS.items():
        where = f" of {side}²" if side else ""
        found[f"aepe_{resolution}"] = Metric(f"AEPE px{where}", False)
        for threshold in THRESHOLDS:
            found[f"pck{threshold}_{resolution}"] = Metric(f"PCK@{threshold}{where}", True, is_share=True)
    return found


METRICS_OF: dict[str, dict[str, Metric]] = {
    "depth": {
        name: Metric(_DEPTH_TITLES[name], name.startswith("delta"), is_share=name.startswith("delta"))
        for name in METRICS
    },
    "correspondence": _of_correspondence(),
    "classification": {"top1": Metric("top-1", True, is_share=True)},
}

# Those of the overview and of the bar charts.
FIRST = {"depth": ("delta1", "abs_rel"), "correspondence": ("aepe_original", "pck5_original"),
         "classification": ("top1",)}  # fmt: skip


def of_pairs(pairs: Sequence[PairResult], seed: int) -> dict[str, Measure]:
    """Means over pairs with their intervals, and the AEPE of each level where there are several (`aepe_240_II`)."""
    measures = {}
    levels = list(dict.fromkeys(pair.level for pair in pairs))
    for resolution in RESOLUTIONS:
        errors = [pair.errors[resolution] for pair in pairs]
        aepe = np.array([each.aepe for each in errors])
        measures[f"aepe_{resolution}"] = Measure.of(aepe[None], seed)
        for number, threshold in enumerate(THRESHOLDS):
            shares = np.array([each.pck[number] for each in errors])
            measures[f"pck{threshold}_{resolution}"] = Measure.of(shares[None], seed)
        if len(levels) > 1:
            for level in levels:
                of_level = np.array([pair.level == level for pair in pairs])
                measures[f"aepe_{resolution}_{level}"] = Measure.of(aepe[of_level][None], seed)
    return measures
