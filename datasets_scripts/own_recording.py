"""A recording of your own: whether it makes a life, and its dataset of frames."""

import argparse
import sys
from pathlib import Path

from singlelife.lives.dataset_cli import Findings, LifeScript
from singlelife.lives.registry import Life
from singlelife.lives.video.reader import VideoHeader

SHORT_HOURS = 0.5  # the paper finds that models of different lives begin to agree at about half an hour of life


def check(life: Life, videos: dict[Path, VideoHeader], arguments: argparse.Namespace, findings: Findings) -> None:
    """Say if the recording is short."""
    hours = sum(header.seconds for header in videos.values()) / 3600
    if 0 < hours < SHORT_HOURS:
        findings.notes.append(
            f"{hours * 60:.1f} minutes are short: models begin to agree at about half an hour of life"
        )
    if life.hours and 0 < hours < 0.5 * life.hours:
        findings.notes.append(f"the paper's lives of this kind have about {life.hours:g} h")


SCRIPT = LifeScript(
    name="own_recording",
    description="A recording of your own, by any camera: its files are read in natural order of their names. The "
    "weeks ald_1 to ald_4 of the paper are not public; a week of your own can take their place.",
    examples="""\
  python datasets_scripts/own_recording.py my_day --videos day/*.mp4
                                                     what is in it, and whether it can be read
  python datasets_scripts/own_recording.py my_day --videos day/*.mp4 --prepare
  python datasets_scripts/own_recording.py ald_1     a week in the folder lives/ald_1""",
    any_name=True,
    check=check,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.run())
