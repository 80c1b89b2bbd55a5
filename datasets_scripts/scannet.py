"""ScanNet, for depth: whether the exported frames are here and whole."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from reporting import Findings, run_script, script_parser, shown
from tqdm.auto import tqdm

from singlelife.errors import LifeError

NAME = "scannet"
SCENE = re.compile(r"scene\d{4}_\d{2}")
INTRINSIC = "intrinsic/intrinsic_depth.txt"
HOW_TO_GET = (
    "ScanNet is for those who sign its terms of use: http://www.scan-net.org says how, and sends the owners' download "
    "program. Export the frames of each scene with the owners' SensReader "
    "(https://github.com/ScanNet/ScanNet/tree/master/SensReader/python) into SCENE/color, depth, pose and intrinsic."
)
DESCRIPTION = (
    "ScanNet: frames of rooms with depth. This reads the folders that the owners' SensReader exports, "
    "scene0000_00/{color/0.jpg, depth/0.png, pose/0.txt, intrinsic/intrinsic_depth.txt}: depth is 16-bit, in "
    "millimetres, 0 where unknown; a pose is camera to world, 4x4, in metres, infinite where unknown. "
    "Nothing is converted: the folder is what `singlelife evaluate depth` reads."
)
EXAMPLES = """\
  python datasets_scripts/scannet.py /data/scannet/scans                          what is here
  python datasets_scripts/scannet.py /data/scannet/scans --scenes test.txt        those of a split"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="of the scenes' folders")
    parser.add_argument("--scenes", type=Path, metavar="FILE", help="the scenes that count, a name a line, such as "
                        "the owners' list of a split (default: all that are here)")  # fmt: skip
    return run_script(NAME, lambda: _run(parser.parse_args(words)))


def _run(arguments: argparse.Namespace) -> int:
    folder, findings = arguments.folder, Findings()
    if folder is None or not folder.is_dir():
        findings.missing.append("the folder of the scenes" + (f" {folder}" if folder else ""))
    else:
        check(folder, _names(arguments.scenes) if arguments.scenes else None, findings)
    return findings.report(f"ScanNet in {folder}" if folder else "ScanNet", HOW_TO_GET)


def check(folder: Path, names: list[str] | None, findings: Findings) -> None:
    """Check the scenes of a folder.

    Args:
        folder: with a folder for each scene.
        names: of the scenes that count; all that are here by default.
        findings: to add to.
    """
    here = sorted(path.name for path in folder.iterdir() if path.is_dir() and SCENE.fullmatch(path.name))
    scenes = here if names is None else [name for name in names if name in here]
    findings.missing += [f"the scene {name}" for name in names or () if name not in here]
    if not scenes:
        findings.missing.append(f"there is no scene in {folder}")
    known: list[bool] = []
    for scene in tqdm(scenes, desc="Checking", unit=" scenes", disable=None, leave=False):
        known += _known_poses(folder / scene, findings)
    unknown = len(known) - sum(known)
    findings.facts.append(f"{shown(len(scenes), 'scene')}, {shown(len(known), 'frame')}, {unknown:,} of unknown pose")


def _known_poses(scene: Path, findings: Findings) -> list[bool]:
    """Of each whole frame of a scene, whether its pose is known."""
    color, depth, pose = (
        {path.stem: path for path in (scene / kind).glob("*") if path.is_file() and path.stat().st_size}
        for kind in ("color", "depth", "pose")
    )
    frames = sorted((name for name in {*color, *depth, *pose} if name.isdecimal()), key=int)
    if not (scene / INTRINSIC).is_file():
        findings.missing.append(f"{scene.name}/{INTRINSIC}")
    if not frames:
        findings.missing.append(f"the frames of {scene.name}")
        return []
    known = []
    for name in frames:
        lacking = [kind for kind, files in (("color", color), ("depth", depth), ("pose", pose)) if name not in files]
        if lacking:
            findings.missing.append(f"{scene.name}: {' and '.join(lacking)} of frame {name}")
            continue
        try:
            known.append(read_pose(pose[name]) is not None)
        except LifeError as error:
            findings.wrong.append(str(error))
    if frames[0] in depth:
        try:
            with Image.open(depth[frames[0]]) as picture:  # all frames of a scene are exported alike
                if picture.mode not in ("I;16", "I"):
                    findings.wrong.append(f"{depth[frames[0]]}: has mode {picture.mode}, where depth is 16-bit")
                picture.load()
        except OSError as error:
            findings.wrong.append(f"{depth[frames[0]]}: cannot be read ({error})")
    return known


def read_pose(path: Path) -> np.ndarray | None:
    """A frame's pose, camera to world, float64 (4, 4), in metres; None where it is not known.

    Raises:
        LifeError: the file does not hold one.
    """
    try:
        matrix = np.loadtxt(path, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise LifeError(f"{path}: cannot be read ({error})") from error
    if matrix.shape != (4, 4):
        raise LifeError(f"{path}: a pose has 4x4 numbers")
    return matrix if np.isfinite(matrix).all() else None


def _names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise LifeError(f"--scenes {path} cannot be read ({error}).") from error


if __name__ == "__main__":
    sys.exit(main())
