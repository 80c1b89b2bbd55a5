"""From what a user names to pairs of images with known correspondences."""

from collections.abc import Sequence
from pathlib import Path

from singlelife.alignment.pair_sets import resolve_pair_set
from singlelife.errors import EvaluationError
from singlelife.evaluation.image_pairs import PairData, homography_pair, hpatches, pairs_of_set, stereo_pair


def open_pairs(
    words: Sequence[str],
    *,
    homography: str | Path | None = None,
    disparity: str | Path | None = None,
    disparity_scale: float | None = None,
    split: str = "viewpoint",
    views: str = "plain",
    num_pairs: int = 384,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> PairData:
    """The pairs that a user names.

    Args:
        words: the folder of HPatches' sequences, or one of them; or a life or stored pair set; or two images, the
            reference and the other one, or the left and the right one.
        homography, disparity, disparity_scale: the truth of two images, see `homography_pair` and `stereo_pair`.
        split: of HPatches.
        views, num_pairs, seed: of the pairs that are drawn from a life.
        cache_dir: where prepared lives are kept.

    Raises:
        SingleLifeError: there are no such pairs, or what was said does not belong together.
    """
    _check(words, homography, disparity, disparity_scale)
    if len(words) == 2:
        first, second = (Path(word).expanduser() for word in words)
        if homography:
            return homography_pair(first, second, Path(homography).expanduser())
        assert disparity is not None  # _check has looked
        return stereo_pair(first, second, Path(disparity).expanduser(), disparity_scale)
    where = Path(words[0]).expanduser()
    if where.is_dir() and ((where / "H_1_2").is_file() or any(where.glob("[vi]_*/"))):
        return hpatches(where, split)
    if where.is_file():
        raise EvaluationError(
            f"{words[0]} is a file. --data takes two images, with --homography FILE or --disparity FILE, or a folder "
            "or a life."
        )
    is_path = len(where.parts) > 2 or words[0].startswith(("/", ".", "~"))
    if is_path and not where.exists() and where.name != "held-out":  # which ends the words for a part of a life
        raise EvaluationError(
            f"There is nothing to evaluate correspondence on at {words[0]}: no such folder. --data takes the folder "
            "of HPatches' sequences, a prepared life, a stored pair set, or two images."
        )
    drawn = resolve_pair_set(
        words[0], views=views, num_pairs=num_pairs, seed=seed, image_size=None, cache_dir=cache_dir
    )
    return pairs_of_set(drawn)


def _check(
    words: Sequence[str],
    homography: str | Path | None,
    disparity: str | Path | None,
    disparity_scale: float | None,
) -> None:
    truths = [name for name, given in (("homography", homography), ("disparity", disparity)) if given]
    if len(words) == 2 and len(truths) != 1:
        raise EvaluationError(
            "--data of two images takes their ground truth: --homography FILE, or for a rectified stereo pair "
            "--disparity FILE."
        )
    if len(words) != 2 and truths:
        raise EvaluationError(f"--{truths[0]} is the ground truth of two images: --data takes both.")
    if len(words) != 1 and len(words) != 2:
        raise EvaluationError(
            f"--data takes one folder or life, or two images; not {len(words)} words. Evaluate data sets one by one."
        )
    if disparity_scale is not None and (not disparity or not disparity_scale > 0):
        raise EvaluationError("--disparity-scale says how many pixels, over 0, a level of --disparity is.")
