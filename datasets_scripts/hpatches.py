"""HPatches, for zero-shot correspondence: check that all sequences are on this machine and complete."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reporting import Findings, run_script, script_parser
from tqdm.auto import tqdm

from singlelife.errors import EvaluationError
from singlelife.evaluation.features import rgb
from singlelife.evaluation.image_pairs import read_homography

NAME = "hpatches"
SEQUENCES = {"v": ("viewpoint", 59), "i": ("illumination", 57)}
IMAGES = 6  # per sequence; the first is the reference
HOW_TO_GET = (
    "HPatches' page, https://github.com/hpatches/hpatches-dataset, links the archive "
    "hpatches-sequences-release.tar.gz (1.3 GB) and its terms. Unpack it, and name the folder of the sequences."
)
DESCRIPTION = (
    "HPatches: 59 sequences of planar scenes from six viewpoints and 57 in six lights, with the homographies "
    "between their images. Nothing is converted: v_*/ and i_*/ with 1.ppm to 6.ppm and H_1_2 to H_1_6 are what "
    "`singlelife evaluate correspondence` reads. H_1_k maps pixels of image 1 to pixels of image k."
)
EXAMPLES = "  python datasets_scripts/hpatches.py /data/hpatches-sequences-release"


def main(words: Sequence[str] | None = None) -> int:
    """Check the folder of the command line (`sys.argv` by default) and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the folder of the sequences")
    folder = parser.parse_args(words).folder
    return run_script(NAME, lambda: check(folder).report("HPatches", HOW_TO_GET))


def check(folder: Path | None) -> Findings:
    """Check the folder of the sequences."""
    findings = Findings()
    if folder is None or not folder.is_dir():
        findings.missing.append("the folder of the sequences" + (f" {folder}" if folder else ""))
        return findings
    for letter, (kind, expected) in SEQUENCES.items():
        sequences = sorted(path for path in folder.glob(f"{letter}_*") if path.is_dir())
        whole = 0
        for sequence in tqdm(sequences, desc=kind, unit=" sequences", disable=None, leave=False):
            faults = list(_faults(sequence))
            findings.wrong += faults
            whole += not faults
        findings.facts.append(f"{whole} of {expected} {kind} sequences")
        if len(sequences) < expected:
            findings.missing.append(f"{expected - len(sequences)} of {expected} {kind} sequences ({letter}_*)")
        elif len(sequences) > expected:
            findings.notes.append(f"{len(sequences)} {kind} sequences, but HPatches has {expected}")
    return findings


def _faults(sequence: Path) -> list[str]:
    faults = []
    readers: list[tuple[str, Callable[[Path], object]]]
    readers = [(f"{number}.ppm", rgb) for number in range(1, IMAGES + 1)]
    readers += [(f"H_1_{number}", read_homography) for number in range(2, IMAGES + 1)]
    for name, read in readers:
        try:
            read(sequence / name)
        except (EvaluationError, ValueError) as error:
            faults.append(str(error))
    return faults


if __name__ == "__main__":
    sys.exit(main())
