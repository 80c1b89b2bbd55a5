"""Alignment as it emerges: the score of a model in training against a reference, every so many steps.

What the reference looks at is computed once, at the start. The scores are lines of the run's metrics, and the picture
is drawn from these, so that a run that stopped and went on draws one curve.
"""

from pathlib import Path
from typing import Any

from singlelife.alignment.comparison import coarser
from singlelife.alignment.extraction import Extraction, agreement, chance, extract, truth
from singlelife.alignment.models import AttentionMapProvider, CrossAttention, load_model
from singlelife.alignment.pair_sets import VIEWS, PairSet, resolve_pair_set
from singlelife.alignment.plots.style import (
    INK,
    VARIANT_COLOURS,
    VARIANT_NAMES,
    bare,
    draw_curve,
    new_figure,
    write,
)
from singlelife.alignment.score import (
    Score,
    score,
)
from singlelife.croco import CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import CheckpointError
from singlelife.pretraining.arguments import AlignmentArguments

_K = 5  # of the top k, as everywhere
_AT_ONCE = 32  # pairs


class AlignmentCurve:
    """Measures a model in training against a reference.

    Args:
        reference: the model to agree with.
        pairs: the pair set.
        processor: of the model in training.
        grid: of the model in training, rows and columns of patches. The coarser of the two is compared.
        device: where the model in training runs.
    """

    def __init__(
        self,
        reference: AttentionMapProvider,
        pairs: PairSet,
        processor: CroCoImageProcessor,
        grid: tuple[int, int],
        device: str,
    ):
        self.name, self.pairs = f"{_short(reference.name)} on {pairs.name}", pairs
        self._processor, self._device = processor, device
        self._grid = coarser([reference.grid, grid])
        self._reference = self._watch(reference)
        self._true_match = pairs.true_match(self._grid).numpy()

    @classmethod
    def of(
        cls,
        arguments: AlignmentArguments,
        processor: CroCoImageProcessor,
        grid: tuple[int, int],
        image_size: int,
        device: str,
        cache_dir: Path | None,
    ) -> "AlignmentCurve":
        """As the settings say.

        Raises:
            SingleLifeError: the reference or the pairs cannot be had.
        """
        assert arguments.cas_reference, "there is nothing to compare with"
        reference = load_model(arguments.cas_reference, device)
        life, _, views = arguments.cas_pairs.rpartition("/")
        if not life or views not in VIEWS:
            life, views = arguments.cas_pairs, VIEWS[0]
        pairs = resolve_pair_set(
            life,
            views=views,
            num_pairs=arguments.cas_num_pairs,
            seed=0,
            image_size=max(image_size, reference.image_size),
            cache_dir=cache_dir,
        )
        return cls(reference, pairs, processor, grid, device)

    def __call__(self, model: CroCoForPreTraining) -> dict[str, Any]:
        """The scores of a model, for the metrics. It is left in the mode it was in, and no random number is drawn.

        Returns:
            `cas` and `cas_position_free`, each with `_low` and `_high` (95% bootstrap interval over pairs) and
            `_adjusted` (for chance); `cas_chance`; where true matches are known, how many of them the model's own
            position-free top k holds, `cas_truth`, and at large shifts, `cas_truth_large_shifts`; and
            `cas_reference`, what it was measured against. Nothing of a model whose attention is not finite.
        """
        was_training = model.training
        try:
            name = "the model in training"
            watched = self._watch(CrossAttention(name, "", model.croco, self._processor, self._device))
        except CheckpointError:  # the training itself says so, and stops if it goes on
            return {}
        finally:
            model.train(was_training)
        values: dict[str, Any] = {"cas_reference": self.name, "cas_chance": chance(watched)}
        for name, variant in {"cas": "raw", "cas_position_free": "position_free"}.items():
            result = score(agreement(watched, self._reference, variant), chance(watched, self._reference))
            values |= {name: result.cas, f"{name}_low": result.low, f"{name}_high": result.high}
            values[f"{name}_adjusted"] = result.chance_corrected
        found = truth(watched, self._true_match, "position_free")
        if found is not None:
            values["cas_truth"] = found.matches
            if found.large_shifts is not None:
                values["cas_truth_large_shifts"] = found.large_shifts
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}

    def _watch(self, model: AttentionMapProvider) -> Extraction:
        return extract(model, self.pairs, [_K], grid=self._grid, batch_size=_AT_ONCE, progress=False)[_K]


def _short(model: str) -> str:
    """What to call a model in metrics and pictures, which may be published: of a folder, no more than its own name."""
    if not Path(model).is_dir():
        return model
    path = Path(model).resolve()
    return f"{path.parent.name}/{path.name}" if path.name.startswith("checkpoint-") else path.name


def draw_alignment(path: Path, metrics: list[dict[str, Any]], title: str, reference: str) -> bool:
    """The scores over steps, with their intervals and chance, as a PNG.

    Args:
        path: of the PNG.
        metrics: lines of a run's metrics.jsonl.
        title: of the picture.
        reference: only what was measured against it is drawn.

    Returns:
        Whether there was anything to draw.
    """
    points = [line for line in metrics if line.get("cas_reference") == reference]
    if not points:
        return False
    steps = [point["step"] for point in points]
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    for name, variant in (("cas_position_free", "position_free"), ("cas", "raw")):
        draw_curve(axes, steps, [_score(point, name) for point in points], colour=VARIANT_COLOURS[variant],
                   label=VARIANT_NAMES[variant])  # fmt: skip
    axes.axhline(points[0]["cas_chance"], color=INK, ls=":", lw=1, label="chance")
    axes.set(xlabel="optimiser steps", ylabel=f"matches in common (CAS, k = {_K})", ylim=(0, None), xlim=(0, None))
    axes.set_title(f"{title}\nagainst {reference}", fontsize=10, color=INK)
    bare(axes)
    axes.legend(frameon=False, fontsize=9)
    write(figure, path)
    return True


def _score(point: dict[str, Any], name: str) -> Score:
    return Score(
        point[name], point["cas_chance"], point.get(f"{name}_adjusted"), point[f"{name}_low"], point[f"{name}_high"]
    )
