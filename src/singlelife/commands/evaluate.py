"""`singlelife evaluate`: measure frozen models on tasks that they were not trained for."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from singlelife.commands import check_models, push_with, report_written
from singlelife.errors import EvaluationError
from singlelife.evaluation.settings import CorrespondenceConfig, DepthConfig, EvaluationConfig
from singlelife.files import atomic_write
from singlelife.lives.resolve import check_names
from singlelife.machine import configure_cpu
from singlelife.results import append_results

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
        self._check_folder("--results", self.results)
        self._check_folder("--json", Path(self.json) if self.json and self.json != "-" else None)

    @staticmethod
    def _check_folder(flag: str, path: Path | None) -> None:
        if path is not None and not path.absolute().parent.is_dir():
            raise EvaluationError(f"{flag} {path}: there is no such folder to write into.")

    @staticmethod
    def _start(config: EvaluationConfig) -> None:
        """Before any work."""
        configure_cpu()
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error

        from singlelife.machine import choose_device

        disable_progress_bar()
        set_verbosity_error()  # the commands have their own bars and errors
        print(f"device: {choose_device(config.device)}", file=sys.stderr)

    def _report(self, evaluation: "Evaluation", *drawn: Path | None, following: str = "") -> int:
        """Print and write the evaluation, and name the files written, including those already `drawn`.

        Returns:
            The exit code: 0, or 1 if a model or an item could not be measured.
        """
        fields = json.dumps(evaluation.to_dict(), indent=2)
        print(fields if self.json == "-" else evaluation)
        if self.json and self.json != "-":
            with atomic_write(Path(self.json)) as aside:
                aside.write_text(fields + "\n", encoding="utf-8")
        if self.results:
            append_results(self.results, evaluation.rows())
        report_written(self.json, self.results, *drawn, following=following or push_with(self.results, self.models))
        for model, why in evaluation.failed.items():
            print(f"singlelife: {model} could not be measured: {why}", file=sys.stderr)
        return SOME_FAILED if evaluation.failed else 0


@dataclass(frozen=True, kw_only=True)
class Correspondence(_Evaluate):
    """Measure how well models match two views without any training for it (zero-shot).

    A model's cross-attention, or the correlation of its features, is the cost volume, as in ZeroCo. Its matches are
    compared with the truth in pixels. Exit code: 0; 1 if a model or a pair could not be measured; 2 if none could.

        singlelife evaluate correspondence runs/sim_1 runs/sim_2 --data sim_test --results results.jsonl
        singlelife evaluate correspondence runs/my_day --data hpatches-sequences-release --sheet matches.png
    """

    config: CorrespondenceConfig
    sheet: Path | None = None
    """draw the matches of some pairs into this PNG"""

    def run(self) -> int:
        self._check_folder("--sheet", self.sheet)
        self._start(self.config)
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
    Exit code: 0; 1 if a model could not be measured; 2 if none could.

        singlelife evaluate depth runs/sim_1 --train sim_3 sim_4 --test sim_test --results results.jsonl
        singlelife evaluate depth runs/my_day --train data/nyu --test data/nyu --save models/my_depth
    """

    config: DepthConfig
    sheet: Path | None = None
    """draw the depth maps of some test frames into this PNG"""
    save: Path | None = None
    """save the model (one CroCo) with its first probe in this new folder, for pipeline("depth-estimation")"""

    def run(self) -> int:
        self._check_folder("--sheet", self.sheet)
        self._check_folder("--save", self.save)
        if self.save and self.save.exists():
            raise EvaluationError(f"--save {self.save} is there already. Remove it, or choose another folder.")
        if self.save and len(self.models) > 1:
            raise EvaluationError(f"--save takes one model, not {len(self.models)}.")
        check_names([*self.config.train, *self.config.test], self.config.cache_dir)
        self._start(self.config)
        from singlelife.alignment.models import load_model
        from singlelife.evaluation.depth import croco_of, evaluate_depth, save_depth_model
        from singlelife.evaluation.sheets import depth_maps, draw_depth

        if self.save:
            croco_of(load_model(self.models[0]))  # fails now if it cannot be saved, not after hours
        maps = {}

        def keep(probed: "ProbedModel") -> None:
            name = probed.features.encoder.name
            if self.sheet:
                maps[name] = depth_maps(probed)
                draw_depth(self.sheet, probed.frames, maps)
            if self.save and name == self.models[0]:
                save_depth_model(probed, self.save)

        evaluation = evaluate_depth(self.models, self.config, on_model=keep)
        use = f'transformers.pipeline("depth-estimation", model="{self.save}", trust_remote_code=False)'
        return self._report(evaluation, self.sheet, self.save, following=use if self.save else "")


COMMAND: Any = (
    Annotated[Correspondence, tyro.conf.subcommand("correspondence")] | Annotated[Depth, tyro.conf.subcommand("depth")]
)
