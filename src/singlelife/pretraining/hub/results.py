"""Scores of a model, as `singlelife cas --json` writes them, for its card."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult

from singlelife.errors import RunError
from singlelife.hub.errors import is_repo_id
from singlelife.pretraining.run_folder import RESULTS


@dataclass(frozen=True)
class Alignment:
    """How far the model agrees with another one.

    Attributes:
        other: the other model: an id on the Hub, or the last part of its folder's name.
        pairs, pairs_hash, num_pairs: what they were compared on.
        k, patches: the top k of so many.
        raw, position_free: the scores, with their interval and chance.
    """

    other: str
    pairs: str
    pairs_hash: str
    num_pairs: int
    k: int
    patches: int
    raw: dict[str, float]
    position_free: dict[str, float]

    def eval_results(self) -> list[EvalResult]:
        """As the header of a model card has them."""
        chance = self.raw["chance"]
        return [
            EvalResult(
                task_type="image-feature-extraction",
                task_name="Agreement on correspondences",
                dataset_type=self.pairs,
                dataset_name=f"{self.num_pairs} pairs of {self.pairs}",
                dataset_revision=self.pairs_hash,
                metric_type=kind,
                metric_name=f"{name} with {self.other} (top {self.k} of {self.patches}, chance {chance:.3f})",
                metric_value=round(score["cas"], 4),
                metric_args={key: round(score[key], 4) for key in ("low", "high", "adjusted")},
            )
            for kind, name, score in (
                ("cas", "CAS", self.raw),
                ("cas_position_free", "Position-free CAS", self.position_free),
            )
        ]


def read_results(path: Path, run: Path, repo_id: str) -> Alignment:
    """A file of `singlelife cas A B --json FILE`, where A or B is the run.

    Raises:
        RunError: it cannot be read, is something else, or is about other models.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        models = [str(model) for model in said["models"]]
        rows, columns = said["grid"]
        scores = [{key: float(said[kind][key]) for key in _SCORE} for kind in ("raw", "position_free")]
        about = str(said["pairs"]), str(said["pairs_hash"]), int(said["num_pairs"]), int(said["k"])
    except OSError as error:
        raise RunError(f"The results {path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not what `singlelife cas A B --json FILE` writes ({error!r}).") from error
    ours = [_is_of(model, run, repo_id) for model in models]
    if len(models) != 2 or not any(ours):
        raise RunError(f"{path} compares {' and '.join(models)}, none of which is {run} or {repo_id}.")
    other = models[1] if ours[0] else models[0]
    if "/" in about[0] and Path(about[0]).exists():  # the folder of a prepared life
        about = PurePath(about[0]).name, *about[1:]
    return Alignment(name_of(other), *about, rows * columns, *scores)


_SCORE = ("cas", "low", "high", "chance", "adjusted")


def _is_of(model: str, run: Path, repo_id: str) -> bool:
    """Whether a model as it was named is the run, or one of its checkpoints."""
    path = Path(model)
    return model == repo_id or run.resolve() in (path.resolve(), path.resolve().parent) or path.name == run.name


def name_of(model: str) -> str:
    """A model as others may know it: of a folder, its last part. Runs are in `runs` unless one says otherwise."""
    on_the_hub = is_repo_id(model) and not model.startswith(("runs/", ".")) and not Path(model).exists()
    return model if on_the_hub else PurePath(model).name


def own_results(run: Path) -> list[Path]:
    """The files that lie in a run's own folder of results."""
    return sorted((run / RESULTS).glob("*.json"))


def header_scores(alignments: list[Alignment]) -> dict[str, Any]:
    """What a list of models shows of them: the mean position-free score, adjusted for chance."""
    if not alignments:
        return {}
    scores = [alignment.position_free["adjusted"] for alignment in alignments]
    return {"cas": round(sum(scores) / len(scores), 4), "cas_with": [each.other for each in alignments]}
