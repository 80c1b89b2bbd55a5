"""ScanNet, for depth: check that the exported frames are on this machine and complete."""

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from reporting import Findings, run_script, script_parser, shown
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.evaluation.depth_data import SCENE

NAME = "scannet"
HOW_TO_GET = (
    "ScanNet is for those who sign its terms of use: http://www.scan-net.org says how, and sends the owners' download "
    "program. Export the frames of each scene with the owners' SensReader "
    "(https://github.com/ScanNet/ScanNet/tree/master/SensReader/python) into SCENE/color and SCENE/depth."
)
DESCRIPTION = (
    "ScanNet: frames of rooms with depth. This reads the folders that the owners' SensReader exports, "
    "scene0000_00/{color/0.jpg, depth/0.png}: depth is 16-bit, in millimetres, 0 where unknown. Nothing is converted: "
    "the folder is what `singlelife evaluate depth` reads."
)
EXAMPLES = """\
  python datasets_scripts/scannet.py /data/scannet/scans                          all scenes there
  python datasets_scripts/scannet.py /data/scannet/scans --scenes test.txt        the scenes of a split"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the folder of the scenes")
    parser.add_argument("--scenes", type=Path, metavar="FILE", help="a file with a scene on each line, such as the "
                        "owners' list of a split (default: all scenes in the folder)")  # fmt: skip
    arguments = parser.parse_args(words)
    return run_script(NAME, lambda: check(arguments.folder, arguments.scenes).report("ScanNet", HOW_TO_GET))


def check(folder: Path | None, listed: Path | None = None) -> Findings:
    """Check the scenes of a folder: all of them, or those that a file lists."""
    findings = Findings()
    if folder is None or not folder.is_dir():
        findings.missing.append("the folder of the scenes" + (f" {folder}" if folder else ""))
        return findings
    scenes = sorted(path.name for path in folder.iterdir() if SCENE.fullmatch(path.name))
    if listed is not None:
        try:
            scenes = listed.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise LifeError(f"--scenes {listed} cannot be read ({error}).") from error
    if not scenes:
        findings.missing.append(f"there is no scene in {folder}")
    whole = 0
    for scene in tqdm(scenes, desc="Checking", unit=" scenes", disable=None, leave=False):
        whole += _check_scene(folder / scene, findings)
    findings.facts.append(f"{shown(len(scenes), 'scene')}, {shown(whole, 'frame')}")
    return findings


def _check_scene(scene: Path, findings: Findings) -> int:
    """The number of complete frames."""
    color, depth = (
        {path.stem: path for path in (scene / kind).glob("*") if path.stat().st_size} for kind in ("color", "depth")
    )
    if not color and not depth:
        findings.missing.append(f"the frames of {scene.name}")
    for name in sorted(color.keys() ^ depth.keys()):
        findings.missing.append(f"{scene.name}: {'color' if name in depth else 'depth'} of frame {name}")
    for path in list(depth.values())[:1]:  # all frames of a scene are exported alike
        try:
            with Image.open(path) as picture:
                if picture.mode not in ("I;16", "I"):
                    findings.wrong.append(f"{path}: has mode {picture.mode}, but depth is 16-bit")
        except OSError as error:
            findings.wrong.append(f"{path}: cannot be read ({error})")
    return len(color.keys() & depth.keys())


if __name__ == "__main__":
    sys.exit(main())
