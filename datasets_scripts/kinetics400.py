"""Thirty hours of Kinetics-400: draw the sample from the clips on this machine."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reporting import COMPLETE, INCOMPLETE, run_script, script_parser, shown
from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.files import atomic_write
from singlelife.lives.prepare import seeded_order
from singlelife.lives.registry import VIDEO_LIST, registered_life
from singlelife.lives.video.reader import VideoReader
from singlelife.lives.video.recordings import videos_in
from singlelife.text import duration

NAME, SEED = "kinetics400", 0
DESCRIPTION = (
    "A sample of 30 hours of Kinetics-400, about 11,000 of its 254,000 clips. Its owners' page, "
    "https://github.com/cvdfoundation/kinetics-dataset, says how to get it: 135 GB or more, depending on the copy. "
    "The draw depends only on the names of the clips in the folder. The script writes the sample into "
    "lives/k400_30h/videos.txt, and uses that file from then on."
)
EXAMPLES = """\
  python datasets_scripts/kinetics400.py --root /data/kinetics400/train      draw the sample
  singlelife prepare k400_30h                                                its dataset of frames"""


@dataclass(frozen=True)
class Sample:
    """Clips that were drawn.

    Attributes:
        clips: in the order in which they were drawn.
        seconds: their total duration.
        unreadable: clips that were drawn but left out, since their headers cannot be read or give no duration.
    """

    clips: list[Path]
    seconds: float
    unreadable: list[Path]


def main(words: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the folder of the clips")
    parser.add_argument("--hours", type=float, metavar="H", help="how much to draw (default: 30)")
    return run_script(NAME, lambda: _run(parser.parse_args(words)))


def _run(arguments: argparse.Namespace) -> int:
    """Write the list of the sample's clips, if there is none yet."""
    life = registered_life("k400_30h")
    listed = life.folder / VIDEO_LIST
    hours = life.hours if arguments.hours is None else arguments.hours
    if hours <= 0:
        raise LifeError(f"--hours should be over 0, not {hours:g}.")
    if listed.exists():
        print(f"The sample of {listed} is used again; delete that file to draw another.")
        return COMPLETE
    print(f"Looking for clips in {arguments.root}", file=sys.stderr)  # a minute for all of Kinetics
    clips = videos_in(arguments.root) if arguments.root.is_dir() else []
    if not clips:
        print(f"missing: there is no clip in {arguments.root}\nhow to get it: {life.source}")
        return INCOMPLETE
    with tqdm(desc="Drawing", unit=" clips", disable=None, leave=False) as bar:

        def seconds_of(clip: Path) -> float:
            bar.update()
            with VideoReader(clip, frame_rate=1, frame_size=16) as reader:
                return reader.announced_seconds

        sample = draw_sample(clips, 3600 * hours, SEED, seconds_of)
    if sample.seconds < 3600 * hours:
        print(
            f"The clips in {arguments.root} last {duration(sample.seconds)}, not {hours:g} h. "
            "Get more of them, or draw less with --hours."
        )
        return INCOMPLETE
    rule = f"drawn from {len(clips):,} with seed {SEED} (draw_sample of datasets_scripts/kinetics400.py says how)"
    lines = [
        f"# {shown(len(sample.clips), 'clip')} of Kinetics-400, {duration(sample.seconds)}: {rule}",
        *(f"# left out, since it cannot be read: {clip.name}" for clip in sample.unreadable),
        *map(str, map(Path.absolute, sample.clips)),
    ]
    life.folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(listed) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{listed}: {shown(len(sample.clips), 'clip')}, {duration(sample.seconds)}")
    return COMPLETE


def draw_sample(clips: Sequence[Path], seconds: float, seed: int, seconds_of: Callable[[Path], float]) -> Sample:
    """Draw clips at random until they last long enough.

    The rule: sort the clips by file name without suffix, by code points; put them into the order of
    `seeded_order(len(clips), seed)`; take them from the front until they last `seconds` or longer, leaving out those
    that cannot be read. It depends only on which clips there are, not on folders, suffixes, dates or the machine. Only
    clips that are taken are opened.

    Args:
        clips: to draw from. Their file names without suffix differ.
        seconds: the duration that the sample should reach.
        seed: of the order.
        seconds_of: the duration of a clip; it may raise LifeError.

    Raises:
        LifeError: two clips have one name.
    """
    by_name = {clip.stem: clip for clip in clips}
    if len(by_name) < len(clips):
        twice = next(clip for clip in clips if by_name[clip.stem] != clip)
        raise LifeError(f"Two clips have one name: {twice} and {by_name[twice.stem]}. Remove one.")
    names = sorted(by_name)
    taken: list[Path] = []
    unreadable: list[Path] = []
    total = 0.0
    for index in seeded_order(len(names), seed):
        if total >= seconds:
            break
        clip = by_name[names[index]]
        try:
            lasts = seconds_of(clip)
        except LifeError:
            lasts = 0.0
        (taken if lasts > 0 else unreadable).append(clip)
        total += lasts
    return Sample(taken, total, unreadable)


if __name__ == "__main__":
    sys.exit(main())
