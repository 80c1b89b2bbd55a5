"""The lives of HD-EPIC: check that the SLAM files for spatial pairs are on this machine."""

import argparse
import json
import sys
import zipfile
from pathlib import Path

from reporting import COMPLETE, Findings, run_script, script_parser, shown

from singlelife.errors import LifeError
from singlelife.lives.registry import Life, life_names, registered_life
from singlelife.lives.video.recordings import videos_in

NAME = "hd_epic"
MAPPING = Path("SLAM/multi/vrs_to_multi_slam.json")  # from each recording to its group of the multi-recording SLAM
WITH_COLMAP = ("P02-20240210-113925", "P02-20240211-182630", "P06-20240510-140459")  # poses by COLMAP, no MPS
SLAM_FILES = (
    "closed_loop_trajectory.csv",
    "online_calibration.jsonl",
    "semidense_observations.csv.gz",
    "semidense_points.csv.gz",
)
DESCRIPTION = (
    "HD-EPIC (CC BY-NC 4.0, https://hd-epic.github.io): days in nine kitchens; eight of them are lives. The videos "
    "take 115.5 GB, SLAM and gaze 349 GB. The owners' program downloads them, one participant at a time if you like: "
    "https://github.com/hd-epic/hd-epic-downloader. This script checks that each video has its Aria MPS output and "
    "the table of its frames' times; `singlelife prepare NAME --dry-run` checks the videos themselves."
)
EXAMPLES = """\
  python datasets_scripts/hd_epic.py                               all eight, in the folders lives/NAME
  python datasets_scripts/hd_epic.py hdepic_1 --root /data/HD-EPIC one, in the owners' folders
  singlelife prepare hdepic_1 --video /data/HD-EPIC/Videos/P01     its dataset of frames"""


def main(words: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    names = [name for name in life_names() if registered_life(name).script == NAME]
    parser.add_argument("life", nargs="*", default=names, metavar="NAME", help="which lives (default: all eight)")
    parser.add_argument("--root", type=Path, metavar="DIR", help="the data set as its owners lay it out (default: the "
                        "folder of each life, lives/NAME or $SINGLELIFE_RECORDINGS/NAME)")  # fmt: skip
    return run_script(NAME, lambda: _run(parser.parse_args(words)))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.root and not arguments.root.is_dir():
        raise LifeError(f"--root {arguments.root}: there is no such folder.")
    lives = [registered_life(name) for name in arguments.life]
    codes = [
        check(life, arguments.root).report(f"{life.name}: {life.description}", f"{life.source}") for life in lives
    ]
    return max(codes, default=COMPLETE)


def check(life: Life, root: Path | None) -> Findings:
    """Check which SLAM files of a life's videos are on this machine.

    Args:
        life: a life of HD-EPIC.
        root: the data set as its owners lay it out; the life's folder by default.
    """
    findings = Findings()
    videos = videos_in(root / life.part) if root else life.local_videos()
    if not videos:
        findings.missing.append(f"there is no video in {root / life.part if root else life.folder}")
        return findings
    participant = Path(life.part).name
    places = [life.folder, life.folder / "SLAM-and-Gaze" / participant]
    if root:
        places.insert(0, root / "SLAM-and-Gaze" / participant)
    folder = next((place for place in places if (place / "SLAM").is_dir()), None)
    if folder is None:
        findings.missing.append(f"the folder SLAM, looked for in {', '.join(map(str, places))}")
        return findings
    groups = _groups(folder / MAPPING, findings)
    complete = 0
    with_slam = [video for video in videos if video.stem not in WITH_COLMAP]
    findings.notes += [f"{video.stem} has COLMAP poses, no Aria MPS" for video in videos if video not in with_slam]
    for video in with_slam:
        lacking = _lacking(video, folder, groups)
        findings.missing += [f"{video.stem}: {what}" for what in lacking]
        complete += not lacking
    findings.facts.append(f"SLAM of {complete} of {shown(len(with_slam), 'video')} in {folder}")
    return findings


def _groups(path: Path, findings: Findings) -> dict[str, str]:
    """The group of each recording, by its video's name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {Path(key).name.split("_")[0].removesuffix(".vrs"): str(group) for key, group in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        findings.wrong.append(f"{path} cannot be read ({error})")
        return {}


def _lacking(video: Path, folder: Path, groups: dict[str, str]) -> list[str]:
    lacking = []
    times = video.with_name(f"{video.stem}_mp4_to_vrs_time_ns.csv")
    if not times.is_file() or not times.stat().st_size:
        lacking.append(f"{times.name}, the times of its frames")
    name = f"multi/{groups[video.stem]}" if video.stem in groups else f"other_aligned/{video.stem}"
    slam = folder / "SLAM" / name
    archive = slam.with_name(f"{slam.name}.zip")
    if slam.is_dir():
        names = [path.name for path in slam.rglob("*") if path.is_file() and path.stat().st_size]
    elif archive.is_file():
        try:
            with zipfile.ZipFile(archive) as content:
                names = [Path(entry.filename).name for entry in content.infolist() if entry.file_size]
        except zipfile.BadZipFile:
            return [*lacking, f"SLAM/{name}.zip is damaged"]
    else:
        return [*lacking, f"SLAM/{name}.zip"]
    return lacking + [f"SLAM/{name}: {file}" for file in SLAM_FILES if file not in names]


if __name__ == "__main__":
    sys.exit(main())
