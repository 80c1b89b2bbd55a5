"""NYU Depth V2, for depth: check that its labelled frames are on this machine and complete."""

import sys
from collections.abc import Sequence
from pathlib import Path

from reporting import Findings, run_script, script_parser, shown

from singlelife.errors import EvaluationError
from singlelife.evaluation.depth_data import LABELED, SPLITS, open_nyu
from singlelife.text import in_bytes

NAME = "nyu_depth_v2"
NUM_FRAMES, NUM_TEST = 1449, 654
HOW_TO_GET = (
    "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html has its terms, the labelled data set "
    f"{LABELED} (2.8 GB) and the official split {SPLITS}. Put both into a folder, and name that folder."
)
DESCRIPTION = (
    "NYU Depth V2: 1,449 frames of rooms with depth; 654 of them are the official test. Nothing is converted: the "
    f"folder with {LABELED} and {SPLITS} is what `singlelife evaluate depth` reads. Needs "
    "pip install 'singlelife[evaluation]'."
)
EXAMPLES = "  python datasets_scripts/nyu_depth_v2.py /data/nyu"


def main(words: Sequence[str] | None = None) -> int:
    """Check the folder of the command line (`sys.argv` by default) and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=f"the folder of {LABELED} and {SPLITS}")
    folder = parser.parse_args(words).folder
    return run_script(NAME, lambda: check(folder).report("NYU Depth V2", HOW_TO_GET))


def check(folder: Path | None) -> Findings:
    """Check the folder with the two files."""
    findings = Findings()
    if folder is None or not folder.is_dir():
        findings.missing.append("the folder of the data set" + (f" {folder}" if folder else ""))
        return findings
    findings.missing += [str(folder / name) for name in (LABELED, SPLITS) if not (folder / name).is_file()]
    if findings.missing:
        return findings
    try:
        content, splits = open_nyu(folder)
    except EvaluationError as error:
        findings.wrong.append(str(error))
        return findings
    with content:
        count, _, width, height = content["images"].shape
    size = in_bytes((folder / LABELED).stat().st_size)
    findings.facts.append(f"{shown(count, 'frame')} of {width}x{height} px, {size}")
    findings.facts.append(f"{len(splits['train'])} frames to train on, {len(splits['test'])} to test on")
    if (count, len(splits["test"])) != (NUM_FRAMES, NUM_TEST):
        findings.notes.append(f"the official data have {NUM_FRAMES} frames, {NUM_TEST} of them to test on")
    return findings


if __name__ == "__main__":
    sys.exit(main())
