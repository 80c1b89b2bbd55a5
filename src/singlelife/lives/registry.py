"""The lives that the package knows by name, from `hub_configs/lives/*.yaml`, and the user's own recordings.

Each file describes one data set: `defaults` for all its lives, then `lives`, which maps names to the differences.
"""

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from singlelife.errors import LifeError
from singlelife.files import config_names, hub_configs, read_yaml
from singlelife.lives.simulation import ScreenSource, SimulatedSource

if TYPE_CHECKING:
    from singlelife.lives.scene.rgbd import PosedRecording

METADATA = "metadata.json"  # in the folder of a prepared life
VIDEO_LIST = "videos.txt"  # in a life's folder: its videos, in order
EXAMPLES = ("sim_1", "wt_3", "hdepic_1")  # names to suggest in messages
SHUFFLED = "shuffled-"  # before any life's name: the control with its frames in random order

_OF_ITS_FRAMES = ("frame_rate", "frame_size", "license", "pairs_within_video")  # what a control takes from its base
LIFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Life:
    """One life: where its frames come from, and how they are prepared and paired by default.

    Attributes:
        name: letters, digits, `_` and `-`; its folders have this name.
        dataset, description, license, url: the data set, one line about the life, its licence, the owners' page.
        source: how to get it, in a sentence; empty for simulated lives.
        hours, download_gb, num_videos: its length, download size and number of videos; 0 if unknown.
        poses: where poses come from; empty if there are none.
        access, consent: who may have it, in a word or two, and what the people in it agreed to, in a sentence.
        script, part: the script in `datasets_scripts` that helps to get it, and its folder in the owners' data set.
        video_prefix: the beginning of all its videos' names; empty if they may have any name.
        shuffle_of: a life's name; this one has its frames in random order.
        joins: lives' names, separated by spaces; this one has their videos, in this order.
        frames_of_each: how many frames to take from the start of each simulated life that it joins; 0 for all.
        frame_rate: frames kept per second of recording, in Hz; 10 make about a gigabyte an hour at 256 px.
        frame_size: the kept frames' shorter side, in pixels.
        train: the config in `hub_configs/train` that its training starts from.
        pairs_within_video: never pair frames of two videos, because they show different people and places.
        videos: the recording: the paths of its files in order, or one recording with poses.
        prepared: the folder of its prepared form, which is used if its recording is not here.
        simulation: what to render.
        base, parts: the life that `shuffle_of` names, and the lives that `joins` names.
    """

    name: str
    dataset: str = "own recording"
    description: str = ""
    license: str = ""
    source: str = ""
    hours: float = 0.0
    poses: str = ""
    access: str = "yours"
    consent: str = "Whoever recorded it is responsible for the consent of the people in it."
    url: str = ""
    download_gb: float = 0.0
    script: str = ""
    part: str = ""
    video_prefix: str = ""
    num_videos: int = 0
    shuffle_of: str = ""
    joins: str = ""
    frames_of_each: int = 0
    frame_rate: float = 10.0
    frame_size: int = 256
    train: str = "tiny"
    pairs_within_video: bool = False
    videos: "tuple[str | PosedRecording, ...]" = ()
    prepared: Path | None = None
    simulation: SimulatedSource | ScreenSource | None = None
    base: "Life | None" = None
    parts: tuple["Life", ...] = ()

    def __post_init__(self) -> None:
        if not LIFE_NAME.fullmatch(self.name):
            raise LifeError(
                f"{self.name!r} cannot be the name of a life: use 1 to 64 letters, digits, '_' and '-', beginning "
                "with a letter or digit. (Pass recordings with --video, not as the name.)"
            )
        parts = self.joins.split()
        rules = {
            "be made of other lives: shuffle_of one, or joins two or more": (
                len({self.name, self.shuffle_of, *parts}) == 2 + len(parts) != 3
            ),
            f"have a frame_rate over 0 Hz and up to 1000, not {self.frame_rate}": 0 < self.frame_rate <= 1000,
            f"have a frame_size of 16 to 4096 px, not {self.frame_size}": 16 <= self.frame_size <= 4096,
        }
        for rule, kept in rules.items():
            if not kept:
                raise LifeError(f"The life {self.name!r} should {rule}.")

    @property
    def kind(self) -> str:
        """`"simulated"`, `"shuffled"` (another's frames in random order), `"joined"` (of several) or `"video"`."""
        if self.simulation is not None:
            return "simulated"
        return "shuffled" if self.shuffle_of else "joined" if self.joins else "video"

    @property
    def folder(self) -> Path:
        """The default place of its recordings: the folder with its name in `recordings_dir()`."""
        return recordings_dir() / self.name

    @property
    def repository_name(self) -> str:
        """The default name of its model's repository on the Hub: `singlelife-wt3` for the life `wt_3`."""
        return "singlelife-" + re.sub(r"_(?=\d+$)", "", self.name).replace("_", "-")

    @property
    def depth(self) -> str:
        """The source of its depth: see `DEPTHS` for simulated walks, single or joined; `"measured"` or `"none"` for a
        recording with poses; empty for anything else."""
        source = (self.parts or (self,))[0].simulation
        if isinstance(source, SimulatedSource):
            return source.depth
        if not self.videos or isinstance(self.videos[0], str):
            return ""
        return "measured" if self.videos[0].has_depth else "none"

    def mismatches(self, videos: Sequence[str]) -> tuple[str, ...]:
        """How these videos' names and number differ from what the life should have, for people."""
        wrong = [video for video in videos if not Path(video).name.startswith(self.video_prefix)]
        found = [f"{video}: the names of {self.name}'s videos begin with {self.video_prefix}" for video in wrong]
        if self.num_videos and len(videos) != self.num_videos:
            found.append(f"{self.name} has {self.num_videos} video(s), but {len(videos)} are here")
        return tuple(found)

    def local_videos(self) -> list[Path]:
        """The videos in its folder: those that its list `videos.txt` names, or all. Without a folder, the clip that
        comes with the package, if the life has one."""
        if not self.folder.is_dir():
            clip = hub_configs() / "clips" / f"{self.name}.mp4"
            return [clip] if clip.is_file() else []
        from singlelife.lives.video.recordings import distinct, listed_in, videos_in  # not needed to name lives

        listed = self.folder / VIDEO_LIST
        return distinct(listed_in(listed) if listed.is_file() else videos_in(self.folder))


def recordings_dir() -> Path:
    """`$SINGLELIFE_RECORDINGS`, or the folder `lives` in the working directory."""
    return Path(os.environ.get("SINGLELIFE_RECORDINGS") or "lives")


def default_cache_dir() -> Path:
    """Where prepared lives and results are kept: `$SINGLELIFE_CACHE`, or `~/.cache/singlelife`."""
    return Path(os.environ.get("SINGLELIFE_CACHE") or Path.home() / ".cache" / "singlelife")


def life_folder(name: str, fingerprint: str, cache_dir: str | Path | None = None) -> Path:
    """The folder of the life's prepared form with this fingerprint."""
    return Path(cache_dir or default_cache_dir()) / "lives" / f"{name}-{fingerprint[:12]}"


def prepared_folders(name: str, cache_dir: str | Path | None = None) -> list[Path]:
    """All prepared forms of a life, from whatever videos and settings, the newest first."""
    if not LIFE_NAME.fullmatch(name):
        return []
    found = life_folder(name, "", cache_dir).parent.glob(f"{name}-{'[0-9a-f]' * 12}/{METADATA}")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]


def own_names(cache_dir: str | Path | None = None) -> list[str]:
    """Names of unregistered lives that are prepared here or have a folder of recordings."""
    prepared = (Path(cache_dir or default_cache_dir()) / "lives").glob(f"*-{'[0-9a-f]' * 12}/{METADATA}")
    names = {path.parent.name[:-13] for path in prepared}
    names |= {path.name for path in recordings_dir().glob("*/") if LIFE_NAME.fullmatch(path.name)}
    return sorted(names - _registered().keys())


def life_names() -> list[str]:
    """Names of the registered lives, in the order of their files."""
    return list(_registered())


def known_life(name: str, cache_dir: str | Path | None = None) -> Life:
    """The description of a registered life, of the user's own life, or of a control for either.

    Raises:
        LifeError: there is no such life.
    """
    if not {name, name.removeprefix(SHUFFLED)} & set(own_names(cache_dir)):
        return registered_life(name)
    life = _shuffled(name) if name.startswith(SHUFFLED) else Life(name, description="a recording of your own")
    return dataclasses.replace(life, dataset="own recordings", source="It is prepared from videos that --video names.")


def registered_life(name: str) -> Life:
    """The entry of a registered life, whether its videos are here or not.

    Raises:
        LifeError: there is no such life.
    """
    lives = _registered()
    if name.startswith(SHUFFLED) and name.removeprefix(SHUFFLED) in lives:
        return _shuffled(name)
    if name not in lives:
        raise unknown_life(name)
    return lives[name]


def get_life(name: str, videos: Sequence[str | Path] | None = None, cache_dir: str | Path | None = None) -> Life:
    """The life with this name, with its recording, simulation or prepared form.

    Args:
        name: a registered life, or any valid new name; `shuffled-NAME` is the control of NAME.
        videos: the recording: files, folders, globs, `.txt` files that list files, one per line; or one folder with
            camera poses in a layout that `scene.rgbd` reads. By default the content of the life's folder; if that is
            empty, the newest prepared form of the life.
        cache_dir: where prepared forms are kept; `default_cache_dir()` if not given.

    Raises:
        LifeError: the name is not valid or not known, or no video is found.
    """
    registered = name in _registered()
    new = _shuffled(name) if name.startswith(SHUFFLED) else Life(name, description="A recording of your own.")
    life = _registered()[name] if registered else new
    if life.shuffle_of:
        base = get_life(life.shuffle_of, videos, cache_dir)
        same = {field: getattr(base, field) for field in _OF_ITS_FRAMES}
        return dataclasses.replace(life, base=base, **same)
    if life.kind != "video":
        if videos:
            raise LifeError(f"The life {name!r} is {life.kind} and takes no video; give your recording another name.")
        return _joined(life) if life.joins else life
    if recording := _posed(name, videos or [life.folder]):
        return dataclasses.replace(life, videos=(recording,))
    from singlelife.lives.video.recordings import find_videos, in_order_of_time  # not needed to name lives

    if found := find_videos(videos) if videos else life.local_videos():
        if not videos and not (life.folder / VIDEO_LIST).is_file():
            found = in_order_of_time(found)
        return dataclasses.replace(life, videos=tuple(map(str, found)))
    if kept := prepared_folders(name, cache_dir):
        metadata = json.loads((kept[0] / METADATA).read_text(encoding="utf-8"))
        same = {field: metadata[field] for field in _OF_ITS_FRAMES if field in metadata}
        return dataclasses.replace(life, prepared=kept[0], **same)
    if not registered and not life.folder.is_dir():
        raise unknown_life(name, cache_dir)
    raise LifeError(
        f"The life {name!r} has no video here. {life.source} Then put its videos into the folder {life.folder}, or "
        f"name them: singlelife prepare {name} --video PATH."
    )


def _posed(name: str, videos: Sequence[str | Path]) -> "PosedRecording | None":
    """The recording with camera poses in one of the folders, or None; LifeError if other videos are named too."""
    for folder in (folder for each in videos if (folder := Path(each).expanduser()).is_dir()):
        from singlelife.lives.scene.rgbd import posed_recording  # not needed to name lives

        if recording := posed_recording(folder.absolute()):
            if len(videos) > 1:
                raise LifeError(
                    f"{folder} is a recording with camera poses ({recording.layout}). The life {name!r} can have only "
                    "this one recording, because the poses of two recordings share no world."
                )
            return recording
    return None


def _shuffled(name: str) -> Life:
    """The control `shuffled-NAME`."""
    shuffled = name.removeprefix(SHUFFLED)
    base = _registered().get(shuffled) or Life(shuffled)
    inherited = ("license", "source", "hours", "access", "consent", "frame_rate", "frame_size", "train")
    description = f"control: the frames of the life {shuffled} in random order"
    same = {field: getattr(base, field) for field in inherited}
    return Life(name=name, dataset="controls", description=description, shuffle_of=shuffled, **same)


def _joined(life: Life) -> Life:
    """A joined life with its parts. They show different people and places, so no pair may combine two of them."""
    parts = [get_life(name) for name in life.joins.split()]
    for number, part in enumerate(parts):
        if life.frames_of_each and (whole := part.simulation) is not None:
            shorter = dataclasses.replace(whole, num_frames=min(life.frames_of_each, whole.num_frames))
            parts[number] = dataclasses.replace(part, simulation=shorter)
    forms = {(part.frame_rate, part.frame_size, part.depth) for part in parts}
    if any(part.kind not in ("video", "simulated") for part in parts) or len(forms) > 1:
        raise LifeError(
            f"The life {life.name!r} joins {life.joins}. These should all be videos, or all be simulated with the "
            "same depth, and have one frame_rate and frame_size."
        )
    ((rate, size, _),) = forms
    return dataclasses.replace(
        life, parts=tuple(parts), frame_rate=rate, frame_size=size, license=parts[0].license, pairs_within_video=True
    )


def unknown_life(name: str, cache_dir: str | Path | None = None) -> LifeError:
    """The error for an unknown name, with the nearest names."""
    # Not get_close_matches, which prefers the last of equally near names.
    names = [*life_names(), *own_names(cache_dir)]
    nearness = {known: difflib.SequenceMatcher(None, known, name).ratio() for known in names}
    near = [known for known in sorted(nearness, key=lambda known: -nearness[known])[:3] if nearness[known] > 0.4]
    examples = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(EXAMPLES)} and others."
    return LifeError(
        f"There is no life {name!r}. {examples} `singlelife lives` lists all. A recording of your own takes its name "
        f"from `singlelife prepare NAME --video PATH`, or from the folder {recordings_dir() / Path(name).name}."
    )


@cache
def _registered() -> dict[str, Life]:
    lives: dict[str, Life] = {}
    for config in config_names("lives"):
        path = hub_configs() / "lives" / f"{config}.yaml"
        content = read_yaml(path)
        if not isinstance(content.get("lives"), dict) or set(content) - {"defaults", "lives"}:
            raise LifeError(f"{path} should hold the mapping `lives`, perhaps `defaults`, and nothing else.")
        for name, values in content["lives"].items():
            if name in lives:
                raise LifeError(f"{path} describes the life {name!r}, but another file describes it too.")
            try:
                described = content.get("defaults", {}) | values
                if (simulation := described.pop("simulation", None)) is not None:
                    simulation = (ScreenSource if "screen" in simulation else SimulatedSource)(**simulation)
                lives[name] = Life(name=name, simulation=simulation, **described)
            except (LifeError, TypeError) as error:  # TypeError: a name or a type is wrong, or something is missing
                raise LifeError(f"{path}, life {name!r}: {error}") from error
    return lives
