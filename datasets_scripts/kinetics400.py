"""Thirty hours of Kinetics-400: draw the sample from the clips that are here, and make the dataset of frames."""

import argparse
import sys
from pathlib import Path

from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.dataset_cli import INCOMPLETE, Findings, LifeScript, shown, videos_in
from singlelife.lives.registry import VIDEO_LIST, Life, registered_life
from singlelife.lives.sampling import Sample, draw_sample
from singlelife.lives.video.reader import VideoHeader, read_header
from singlelife.text import duration

SEED = 0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=float, metavar="H", help="how much to draw (default: 30)")
    parser.add_argument("--same-as", type=Path, metavar="FILE", help=f"take the clips of an earlier {VIDEO_LIST}, of "
                        "any machine, by their names, instead of drawing")  # fmt: skip
    parser.add_argument("--redraw", action="store_true", help=f"replace the {VIDEO_LIST} that is there")


def first(arguments: argparse.Namespace) -> int | None:
    """Write the list of the sample's clips, if the data set is named and there is no list yet."""
    life = registered_life("k400_30h")
    listed = life.folder / VIDEO_LIST
    if not arguments.root:
        if arguments.same_as or arguments.redraw or arguments.hours:
            raise LifeError("To draw a sample, name the folder of the clips with --root DIR.")
        return None
    if listed.exists() and not arguments.redraw:
        print(f"The sample of {listed} is used again; --redraw draws another.")
        return None
    print(f"Looking for clips in {arguments.root}", file=sys.stderr)  # a minute for all of Kinetics
    clips = videos_in(arguments.root)
    if not clips:
        print(f"missing: there is no clip in {arguments.root}\nhow to get it: {life.source}")
        return INCOMPLETE
    if arguments.same_as:
        sample, rule = _same(clips, arguments.same_as), f"those of {arguments.same_as.name}"
    else:
        hours = life.hours if arguments.hours is None else arguments.hours
        if hours <= 0:
            raise LifeError(f"--hours should be over 0, not {hours:g}.")
        with tqdm(desc="Drawing", unit=" clips", disable=None, leave=False) as bar:

            def seconds_of(clip: Path) -> float:
                bar.update()
                return read_header(clip).seconds

            sample = draw_sample(clips, 3600 * hours, SEED, seconds_of)
        rule = f"drawn from {len(clips):,} with seed {SEED} (singlelife.lives.sampling says how)"
        if sample.seconds < 3600 * hours:
            print(
                f"The clips in {arguments.root} last {duration(sample.seconds)}, not {hours:g} h. "
                "Get more of them, or draw less with --hours."
            )
            return INCOMPLETE
    lines = [
        f"# {shown(len(sample.clips), 'clip')} of Kinetics-400, {duration(sample.seconds)}: {rule}",
        *(f"# left out, since it cannot be read: {clip.name}" for clip in sample.unreadable),
        *map(str, map(Path.absolute, sample.clips)),
    ]
    life.folder.mkdir(parents=True, exist_ok=True)
    aside = listed.with_suffix(".tmp")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    aside.replace(listed)
    print(f"{listed}: {shown(len(sample.clips), 'clip')}, {duration(sample.seconds)}")
    return None


def _same(clips: list[Path], earlier: Path) -> Sample:
    """The clips whose names an earlier list has, in its order."""
    try:
        lines = earlier.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LifeError(f"--same-as {earlier} cannot be read ({error}).") from error
    by_name = {clip.stem: clip for clip in clips}
    wanted = [Path(line.strip()).stem for line in lines if line.strip() and not line.startswith("#")]
    gone = [name for name in wanted if name not in by_name]
    if gone or not wanted:
        raise LifeError(f"{len(gone)} of the {len(wanted)} clips of {earlier} are not here" + (f", such as {gone[0]}."
                        if gone else "."))  # fmt: skip
    same = [by_name[name] for name in wanted]
    return Sample(same, sum(read_header(clip).seconds for clip in same), [])


def check(life: Life, videos: dict[Path, VideoHeader], arguments: argparse.Namespace, findings: Findings) -> None:
    """Say if the sample is shorter than it should be."""
    hours = sum(header.seconds for header in videos.values()) / 3600
    if videos and hours < life.hours:
        findings.notes.append(f"it lasts {duration(3600 * hours)}, not the {life.hours:g} h of the paper's")


SCRIPT = LifeScript(
    name="kinetics400",
    description="A sample of 30 hours of Kinetics-400, about 11,000 of its 254,000 clips. Its owners' page, "
    "https://github.com/cvdfoundation/kinetics-dataset, says how to get it: 135 GB or more, by the copy. The sample "
    "is drawn by a rule that depends on nothing but the names of the clips that are here, and written down in "
    "lives/k400_30h/videos.txt, so that it is used again.",
    examples="""\
  python datasets_scripts/kinetics400.py --root /data/kinetics400/train      draw the sample
  python datasets_scripts/kinetics400.py --prepare                           its dataset of frames
  python datasets_scripts/kinetics400.py --root DIR --same-as videos.txt     the sample of another machine""",
    add_options=add_options,
    first=first,
    check=check,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.run())
