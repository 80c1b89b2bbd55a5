"""The lives of HD-EPIC: what is here of each, how to get the rest, and the dataset of frames."""

import argparse
import json
import sys
import zipfile
from pathlib import Path

from singlelife.lives.dataset_cli import Findings, LifeScript, shown
from singlelife.lives.registry import Life
from singlelife.lives.video.reader import VideoHeader

MAPPING = Path("SLAM/multi/vrs_to_multi_slam.json")  # from each recording to its group of the multi-recording SLAM
SLAM_FILES = (
    "closed_loop_trajectory.csv",
    "online_calibration.jsonl",
    "semidense_observations.csv.gz",
    "semidense_points.csv.gz",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slam", action="store_true", help="check the SLAM files as well, which spatial pairs need")


def check(life: Life, videos: dict[Path, VideoHeader], arguments: argparse.Namespace, findings: Findings) -> None:
    """Check that each video has its Aria MPS output and the table of its frames' times."""
    if not arguments.slam or not videos:
        return
    participant = Path(life.part).name
    places = [life.folder, life.folder / "SLAM-and-Gaze" / participant]
    if arguments.root:
        places.insert(0, arguments.root / "SLAM-and-Gaze" / participant)
    folder = next((place for place in places if (place / "SLAM").is_dir()), None)
    if folder is None:
        findings.missing.append(f"the folder SLAM, looked for in {', '.join(map(str, places))}")
        return
    groups = _groups(folder / MAPPING, findings)
    complete = 0
    for video in videos:
        lacking = _lacking(video, folder, groups)
        findings.missing += [f"{video.stem}: {what}" for what in lacking]
        complete += not lacking
    findings.facts.append(f"SLAM of {complete} of {shown(len(videos), 'video')} in {folder}")


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
            return [*lacking, f"SLAM/{name}.zip is not whole"]
    else:
        return [*lacking, f"SLAM/{name}.zip"]
    return lacking + [f"SLAM/{name}: {file}" for file in SLAM_FILES if file not in names]


SCRIPT = LifeScript(
    name="hd_epic",
    description="HD-EPIC (CC BY-NC 4.0, https://hd-epic.github.io): days in nine kitchens, of which eight are lives. "
    "Its videos have 115.5 GB, its SLAM and gaze 349 GB; the owners' program downloads them, for one participant at "
    "a time if you like: https://github.com/hd-epic/hd-epic-downloader",
    examples="""\
  python datasets_scripts/hd_epic.py                             what is here of all eight
  python datasets_scripts/hd_epic.py hdepic_1 --root /data/HD-EPIC --slam
                                                                 the same of one, in the owners' folders
  python datasets_scripts/hd_epic.py hdepic_1 --prepare          its dataset of frames
  python datasets_scripts/hd_epic.py hdepic_1 --push my-lab/life-hdepic-1""",
    add_options=add_options,
    check=check,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.run())
