"""`singlelife evaluate`: measure frozen models on tasks they were not trained for."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from singlelife.commands import check_folders, check_models, report, start
from singlelife.errors import EvaluationError
from singlelife.evaluation.settings import CorrespondenceConfig, DepthConfig
from singlelife.lives.resolve import check_names
from singlelife.machine import configure_cpu

if TYPE_CHECKING:
    from singlelife.evaluation.correspondence import Matcher
    from singlelife.evaluation.depth import ProbedModel
    from singlelife.evaluation.image_pairs import PairData
    from singlelife.evaluation.results import Evaluation

SOME_FAILED = 1  # exit code


@dataclass(frozen=True, kw_only=True)
class _Evaluate:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")] = ()
    """run folders, checkpoints, ORG/NAME[@REVISION] on the Hub (docs/alignment.md lists models), or untrained:MODEL"""
    results: Path | None = None
    """append a row for each number to this results.jsonl"""
    json: str | None = None
    """write all fields to this JSON file; - prints them instead of the tables"""

    def __post_init__(self) -> None:
        if not self.models:
            raise EvaluationError("Name at least one MODEL to evaluate.")
        check_models(self.models)
        check_folders(results=self.results, json=self.json)

    def _report(self, evaluation: "Evaluation", *drawn: Path | None) -> int:
        """Print and write the evaluation, and name the models that could not be measured; returns the exit code."""
        report(evaluation, self.models, self.json, self.results, *drawn)
        for model, why in evaluation.failed.items():
            print(f"singlelife: {model} could not be measured: {why}", file=sys.stderr)
        return SOME_FAILED if evaluation.failed else 0


@dataclass(frozen=True, kw_only=True)
class Correspondence(_Evaluate):
    """Measure how well models match two views without any training for it (zero-shot).

    A model's cross-attention, or the correlation of its features, is the cost volume, as in ZeroCo. Its matches are
    compared with the truth in pixels. Exit codes: 0 if all went well; 1 if a model or a pair could not be measured; 2
    if none could.

        singlelife evaluate correspondence runs/sim_1 runs/sim_2 --data sim_test --results results.jsonl
        singlelife evaluate correspondence runs/my_day --data hpatches-sequences-release --sheet matches.png
    """

    config: CorrespondenceConfig
    sheet: Path | None = None
    """draw the matches of some pairs into this PNG"""

    def run(self) -> int:
        check_folders(sheet=self.sheet)
        configure_cpu()
        start(self.config.device)
        from singlelife.evaluation.correspondence import evaluate_correspondence
        from singlelife.evaluation.sheets import draw_matches, matches

        flows = {}

        def draw(matcher: "Matcher", data: "PairData") -> None:
            if self.sheet and matcher.model:
                flows[matcher.model.name] = matches(matcher, data)
                draw_matches(self.sheet, data, flows)

        evaluation = evaluate_correspondence(self.models, self.config, on_model=draw)
        return self._report(evaluation, self.sheet) or (SOME_FAILED if evaluation.left_out else 0)


@dataclass(frozen=True, kw_only=True)
class Depth(_Evaluate):
    """Measure how well a probe reads metric depth from frozen encoders.

    Features are computed once and kept. A small probe learns depth from them, and is tested on frames of other places.
    Exit codes: 0 if all went well; 1 if a model could not be measured; 2 if none could.

        singlelife evaluate depth runs/sim_1 --train sim_3 sim_4 --test sim_test --results results.jsonl
        singlelife evaluate depth runs/my_day --train data/nyu --test data/nyu --save models/my_depth
    """

    config: DepthConfig
    sheet: Path | None = None
    """draw the depth maps of some test frames into this PNG"""
    save: Path | None = None
    """save the model (only one, a CroCo) with its first probe in this new folder, for pipeline("depth-estimation")"""

    def run(self) -> int:
        check_folders(sheet=self.sheet, save=self.save)
        if self.save and self.save.exists():
            raise EvaluationError(f"--save {self.save} exists already. Delete it, or choose another folder.")
        if self.save and len(self.models) > 1:
            raise EvaluationError(f"--save takes one model, not {len(self.models)}.")
        check_names([*self.config.train, *self.config.test], self.config.cache_dir)
        configure_cpu()
        start(self.config.device)
        from singlelife.alignment.models import load_model
        from singlelife.evaluation.depth import croco_of, evaluate_depth, save_depth_model
        from singlelife.evaluation.sheets import depth_maps, draw_depth

        if self.save:
            croco_of(load_model(self.models[0]))  # a model that cannot be saved fails now, not after hours
        maps = {}

        def keep(probed: "ProbedModel") -> None:
            name = probed.features.encoder.name
            if self.sheet:
                maps[name] = depth_maps(probed)
                draw_depth(self.sheet, probed.frames, maps)
            if self.save and name == self.models[0]:
                save_depth_model(probed, self.save)

        evaluation = evaluate_depth(self.models, self.config, on_model=keep)
        code = self._report(evaluation, self.sheet, self.save)
        if self.save:
            use = f'transformers.pipeline("depth-estimation", model="{self.save}", trust_remote_code=False)'
            print(f"next: {use}", file=sys.stderr)
        return code


COMMAND: Any = (
    Annotated[Correspondence, tyro.conf.subcommand("correspondence")] | Annotated[Depth, tyro.conf.subcommand("depth")]
)
