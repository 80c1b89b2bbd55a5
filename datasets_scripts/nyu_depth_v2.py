"""NYU Depth V2, for depth: whether its labelled frames are here and whole, and a dataset of them."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from singlelife.errors import EvaluationError, LifeError
from singlelife.evaluation.nyu import LABELED, SPLITS, open_labeled, read_splits
from singlelife.lives.dataset_cli import COMPLETE, Findings, run_script, script_parser, shown
from singlelife.text import in_bytes

if TYPE_CHECKING:
    from datasets import Dataset

NAME = "nyu_depth_v2"
NUM_FRAMES, NUM_TEST = 1449, 654
FARTHEST = 100.0  # metres: more than that, in a room, is another unit
HOW_TO_GET = (
    "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html has its terms, the labelled data set "
    f"{LABELED} (2.8 GB) and the official split {SPLITS}. Put both into a folder, and name that folder. Or name a "
    "data set of the Hub that has images and depth, with --hub."
)
DESCRIPTION = (
    "NYU Depth V2: 1,449 frames of rooms with depth, 654 of which are the official test. --prepare makes a "
    "dataset of them that the evaluation reads, by datasets.load_from_disk(OUT): its splits are train and test (or "
    f"unsplit, without {SPLITS}), its columns image (PNG), depth (float32, metres, holes filled by the owners), "
    "raw_depth (float32, metres, as the sensor gave it, 0 where it saw nothing) and index (its number in the file, "
    "from 0). Needs pip install 'singlelife[evaluation]'."
)
EXAMPLES = """\
  python datasets_scripts/nyu_depth_v2.py /data/nyu                       what is here
  python datasets_scripts/nyu_depth_v2.py /data/nyu --prepare /data/nyu/prepared
  python datasets_scripts/nyu_depth_v2.py --hub ORG/NAME --prepare nyu    from a data set of the Hub"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=f"with {LABELED} and {SPLITS}")
    parser.add_argument("--hub", metavar="REPO", help="take images and depth from this data set of the Hub, or local "
                        "folder of one, instead")  # fmt: skip
    parser.add_argument("--depth-scale", type=float, metavar="M", help="metres of a level of the depth in --hub, "
                        "where it is stored in whole numbers")  # fmt: skip
    parser.add_argument("--prepare", type=Path, metavar="OUT", help="make the dataset, as the new folder OUT")
    return run_script(NAME, lambda: _run(parser.parse_args(words)))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.prepare and arguments.prepare.exists():
        raise LifeError(f"{arguments.prepare} is there already. Remove it, or choose another folder.")
    if arguments.hub:
        return _from_hub(arguments)
    folder, findings = arguments.folder, Findings()
    splits: dict[str, list[int]] = {}
    if folder is None or not folder.is_dir():
        findings.missing.append("the folder of the data set" + (f" {folder}" if folder else ""))
    else:
        splits = check(folder, findings)
    code = findings.report(f"NYU Depth V2 in {folder}" if folder else "NYU Depth V2", HOW_TO_GET)
    if code == COMPLETE and arguments.prepare:
        _save({name: (_labeled_rows, {"path": folder / LABELED, "indices": indices})
               for name, indices in splits.items()}, arguments.prepare)  # fmt: skip
    return code


def check(folder: Path, findings: Findings) -> dict[str, list[int]]:
    """Check the labelled data set and its split.

    Returns:
        The frames of each split, from 0; empty where nothing can be used.
    """
    path = folder / LABELED
    if not path.is_file():
        findings.missing.append(str(path))
        return {}
    try:
        with open_labeled(path) as content:
            shapes = {name: content[name].shape for name in ("images", "depths", "rawDepths") if name in content}
    except OSError as error:
        findings.wrong.append(f"{path}: not an HDF5 (MATLAB v7.3) file, or cut off ({error})")
        return {}
    images, depths = shapes.get("images", ()), shapes.get("depths", ())
    if len(images) != 4 or images[1] != 3 or depths != (images[0], *images[2:]) or shapes.get("rawDepths") != depths:
        findings.wrong.append(f"{path}: its arrays should be images (n, 3, w, h), depths and rawDepths (n, w, h), not "
                              f"{shapes}")  # fmt: skip
        return {}
    count, _, width, height = images
    findings.facts.append(f"{shown(count, 'frame')} of {width}x{height} px, {in_bytes(path.stat().st_size)}")
    if count != NUM_FRAMES:
        findings.notes.append(f"{LABELED} has {count} frames, the official one {NUM_FRAMES}")
    if not (folder / SPLITS).is_file():
        findings.notes.append(f"without {SPLITS} there is no official test; all frames make one split")
        return {"unsplit": list(range(count))}
    try:
        splits = read_splits(folder / SPLITS, count)
    except EvaluationError as error:
        findings.wrong.append(str(error))
        return {}
    findings.facts.append(f"{len(splits['train'])} frames to train on, {len(splits['test'])} to test on")
    if len(splits["test"]) != NUM_TEST:
        findings.notes.append(f"the official test has {NUM_TEST} frames")
    return splits


def _labeled_rows(path: Path, indices: list[int]) -> Iterator[dict[str, Any]]:
    from PIL import Image

    with open_labeled(path) as content:
        for index in indices:  # MATLAB stores the last axis first: (3, w, h) and (w, h)
            yield {
                "image": Image.fromarray(content["images"][index].transpose(2, 1, 0)),
                "depth": content["depths"][index].T.astype(np.float32),
                "raw_depth": content["rawDepths"][index].T.astype(np.float32),
                "index": index,
            }


def _from_hub(arguments: argparse.Namespace) -> int:
    from datasets import load_dataset

    try:
        content = load_dataset(arguments.hub)
    except Exception as error:  # of several libraries, by what is wrong
        raise LifeError(f"--hub {arguments.hub} cannot be loaded ({str(error).splitlines()[0]}).") from error
    print(f"{arguments.hub}: {', '.join(f'{name} {len(split):,}' for name, split in content.items())} frames")
    sources = {}
    for name, split in content.items():
        depth = next((column for column in ("depth", "depth_map") if column in split.column_names), None)
        if depth is None or "image" not in split.column_names:
            raise LifeError(
                f"--hub {arguments.hub} should have columns image and depth or depth_map; it has "
                f"{', '.join(split.column_names)}."
            )
        metres(split[0][depth], arguments.depth_scale)  # says what is wrong with it before the work starts
        sources[name] = (_hub_rows, {"split": split, "column": depth, "scale": arguments.depth_scale})
    if arguments.prepare:
        _save(sources, arguments.prepare)
    return COMPLETE


def _hub_rows(split: "Dataset", column: str, scale: float | None) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(split):
        depth = metres(row[column], scale)
        yield {"image": row["image"].convert("RGB"), "depth": depth, "raw_depth": depth, "index": index}


def metres(depth: Any, scale: float | None) -> np.ndarray:
    """Depth in metres, float32 (height, width), of an image or array.

    Raises:
        LifeError: it has whole numbers and `scale`, the metres of a level, is not given, or it cannot be metres.
    """
    values = np.squeeze(np.asarray(depth))
    if values.ndim != 2:
        raise LifeError(f"Depth should have two axes, not the shape {values.shape}.")
    if np.issubdtype(values.dtype, np.integer) and scale is None:
        raise LifeError("Depth is stored in whole numbers here: say how many metres a level has, with --depth-scale.")
    values = values.astype(np.float32) * np.float32(1.0 if scale is None else scale)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > FARTHEST:
        raise LifeError(
            f"Depth of {values.min():g} to {values.max():g} cannot be metres in a room: set --depth-scale."
        )
    return values


def _save(sources: dict[str, tuple[Any, dict[str, Any]]], out: Path) -> None:
    """Write the rows that each split's function gives as a dataset that appears whole or not at all."""
    from datasets import Array2D, Dataset, DatasetDict, Features, Image, Value

    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        splits = DatasetDict()
        for name, (rows, arguments) in sources.items():
            first = next(rows(**arguments), None)
            if first is None:
                raise LifeError(f"The split {name} has no frames.")
            depth = Array2D(first["depth"].shape, "float32")
            features = Features({"image": Image(), "depth": depth, "raw_depth": depth, "index": Value("int64")})
            splits[name] = Dataset.from_generator(
                rows, features=features, gen_kwargs=arguments, cache_dir=str(partial / "cache"), split=name
            )
        splits.save_to_disk(str(partial / "whole"))
        (partial / "whole").rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"  prepared: {', '.join(f'{name} {len(split):,}' for name, split in splits.items())} frames in {out}")


if __name__ == "__main__":
    sys.exit(main())
