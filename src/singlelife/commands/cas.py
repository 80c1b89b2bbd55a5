"""`singlelife cas`: how far models agree about geometry."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from singlelife.alignment.settings import CasConfig
from singlelife.commands import check_folders, check_models, check_pairs, report, start
from singlelife.errors import SingleLifeError

SOME_FAILED = 1  # exit code


@dataclass(frozen=True)
class Cas:
    """Measure how far models agree about geometry, by the Correspondence Alignment Score (CAS).

    The CAS is the share of their strongest matches that two models have in common. The table leads with the centred
    score, which leaves out habits of place and popular patches. Compare it with its null: the score of the same models
    on mismatched pairs. Next come the raw score and each model's score against the position map. With more than two
    models, you get a matrix, means within and across groups of models, and a test of whether groups matter. --curve
    shows how the score changes over the checkpoints of a run.

    Each model runs once on a pair set; the cache folder keeps the result. If one of many models fails, the others are
    compared, the table ends with its error, and the exit code is 1.

        singlelife cas runs/sim_1 runs/sim_2 --views zoomed --k 5 1 10 20
        singlelife cas runs/sim_1 runs/sim_2 runs/sim_still untrained:tiny --save alignment
        singlelife cas --curve runs/sim_1 --reference runs/sim_2 --controls runs/sim_still untrained:tiny
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")] = ()
    """Two or more run folders, checkpoints, ORG/NAME[@REVISION] on the Hub, or untrained:MODEL[@SEED]. A model is a
    CroCo, or a vision transformer that docs/alignment.md lists."""

    config: CasConfig = field(default_factory=CasConfig)

    groups: tuple[str, ...] = ()
    """Groups of models, as NAME=MODEL,MODEL. By default, models are grouped by the data set of their life, which
    their names give. For more than two models."""

    representation: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also compare one vector per view, the mean of its patches' features: linear CKA and mutual nearest neighbours.
    For more than two models."""

    curve: tuple[str, ...] = ()
    """Instead of MODELs: compare every saved checkpoint of one run, or the finished models of several runs that differ
    in --hours of life, with --reference."""

    reference: str | None = None
    """The model that --curve compares with."""

    controls: tuple[str, ...] = ()
    """Models that should not align with the reference of a curve. Alignment has emerged where the curve's interval
    lies above theirs."""

    results: Path | None = None
    """Append a row for each number to this results.jsonl."""

    json: str | None = None
    """Write all fields to this JSON file; - prints them instead of the table."""

    save: Path | None = None
    """Write result.json and pictures (of a matrix or a curve) into this folder."""

    def __post_init__(self) -> None:
        of_many = self.groups or self.representation
        if self.curve and (self.models or of_many):
            raise SingleLifeError("--curve takes no MODELs, --groups or --representation.")
        if self.curve and self.reference is None:
            raise SingleLifeError("--curve needs the model to compare with: add --reference MODEL.")
        if not self.curve and (self.reference or self.controls):
            raise SingleLifeError("--reference and --controls need --curve RUN; add it.")
        if not self.curve and len(self.models) < 2:
            raise SingleLifeError(f"Name at least two models to compare, or --curve RUN; given: {len(self.models)}.")
        if len(self.models) == 2 and of_many:
            raise SingleLifeError("--groups and --representation are for more than two models.")
        if len(self.models) != 2 and self.config.search != "none":
            raise SingleLifeError(f"--search {self.config.search} compares exactly two models.")
        check_folders(json=self.json, results=self.results, save=self.save)
        if self.save and self.save.exists() and not self.save.is_dir():
            raise SingleLifeError(f"--save {self.save} is a file; give a folder.")

    def run(self) -> int:
        check_models([*self.models, *self.curve, *self.controls, *([self.reference] if self.reference else [])])
        groups = dict(map(_named_group, self.groups))
        check_pairs(self.config.pairs, self.config.cache_dir)
        start(self.config.device)
        from singlelife.alignment.comparison import cas, cas_matrix
        from singlelife.alignment.curve import cas_curve
        from singlelife.alignment.matrix import AlignmentResult

        result: AlignmentResult
        if self.reference:
            result = cas_curve(self.curve, self.reference, self.config, controls=self.controls)
        elif len(self.models) == 2:
            result = cas(*self.models, config=self.config)
        else:
            result = cas_matrix(self.models, self.config, groups=groups, representation=self.representation)
        if self.save:
            from singlelife.alignment.plots import save_pictures

            save_pictures(result, self.save)
            result.save_json(self.save / "result.json")
        report(result, self.models, self.json, self.results, self.save)
        return SOME_FAILED if getattr(result, "failed", ()) else 0


def _named_group(word: str) -> tuple[str, list[str]]:
    name, _, members = word.partition("=")
    models = [model for model in members.split(",") if model]
    if not (name and models):
        raise SingleLifeError(f"--groups takes NAME=MODEL,MODEL, not {word!r}.")
    return name, models


COMMAND = Cas
