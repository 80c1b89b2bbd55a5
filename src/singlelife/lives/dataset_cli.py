"""What the scripts of `datasets_scripts` share: a small command line per data set, over the same few steps.

A script says what is here of its lives, how to get what is missing, and what is wrong with what is here; it prepares
them if asked to, and pushes them to the Hub if asked to. It downloads nothing that its owners do not offer for it.
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from singlelife.errors import LifeError, SingleLifeError
from singlelife.lives.registry import SHUFFLED, Life, find_videos, life_names, recordings_dir, registered_life
from singlelife.lives.video.header import VideoHeader, read_header
from singlelife.text import duration, in_bytes

COMPLETE, INCOMPLETE, WRONG_USAGE = 0, 1, 2  # exit codes

_SHOWN = 5  # of many of a kind

_EPILOG = """\
exit codes: 0 all is here, or prepared; 1 something is missing or wrong, and told; 2 the command line is wrong, or
preparing or pushing failed, and why is told."""


@dataclass
class Findings:
    """What there is to say of a data set that is, or should be, here.

    Attributes:
        facts: what is here.
        missing: what is not.
        wrong: files that are here and cannot be used.
        notes: what is worth knowing, and in no one's way.
    """

    facts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.missing and not self.wrong

    @property
    def exit_code(self) -> int:
        return COMPLETE if self.complete else INCOMPLETE

    def show(self, title: str) -> None:
        """Print them."""
        print(title)
        for kind in ("facts", "missing", "wrong", "notes"):
            texts, prefix = getattr(self, kind), {"facts": "", "notes": "note: "}.get(kind, f"{kind}: ")
            for text in texts[:_SHOWN]:
                print(f"  {prefix}{text}")
            if len(texts) > _SHOWN:
                print(f"  {prefix}and {len(texts) - _SHOWN:,} more")

    def report(self, title: str, how_to_get: str) -> int:
        """Print them, and how to get what is missing; give the exit code."""
        self.show(title)
        if not self.complete:
            print(_filled(f"how to get it: {how_to_get}"))
        return self.exit_code


@dataclass(frozen=True)
class LifeScript:
    """What makes a script for lives its own.

    Attributes:
        name: of the script, without `.py`; the lives whose entry names it are its own.
        description: what `--help` begins with.
        examples: command lines, each with what it does.
        any_name: whether a life may have any name, as people's own recordings do.
        add_options: adds options of its own.
        first: what it does before the checks; an exit code ends the script.
        check: adds what it finds beyond what all videos are checked for. It gets the life, its videos with their
            headers, and the command line.
    """

    name: str
    description: str
    examples: str
    any_name: bool = False
    add_options: Callable[[argparse.ArgumentParser], object] | None = None
    first: Callable[[argparse.Namespace], int | None] | None = None
    check: Callable[[Life, dict[Path, VideoHeader], argparse.Namespace, Findings], object] | None = None

    def run(self, words: Sequence[str] | None = None) -> int:
        """Run the command line (`sys.argv` by default) and return the exit code."""
        return run_script(self.name, lambda: self._run(self._parser().parse_args(words)))

    def lives(self) -> list[Life]:
        return [life for life in map(registered_life, life_names()) if life.script == self.name]

    def _parser(self) -> argparse.ArgumentParser:
        parser = script_parser(self.name, self.description, self.examples)
        names = [life.name for life in self.lives()]
        parser.add_argument(
            "life", nargs="*", default=names, metavar="NAME", help=f"which lives (default: {', '.join(names)})"
            + ("; or any name for a recording of your own" if self.any_name else ""),
        )  # fmt: skip
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--videos", nargs="+", metavar="PATH", help="the videos of ONE life: files, folders, globs")
        where.add_argument("--root", type=Path, metavar="DIR", help="the data set as its owners lay it out (default: "
                           "the folder of each life, lives/NAME or $SINGLELIFE_RECORDINGS/NAME)")  # fmt: skip
        parser.add_argument("--prepare", action="store_true", help="make the dataset of frames, if all is here")
        parser.add_argument("--incomplete", action="store_true", help="prepare what is here, whatever is missing")
        parser.add_argument("--push", metavar="ORG/NAME", help="prepare, then push the frames to the Hub as a "
                            "dataset, which is private")  # fmt: skip
        parser.add_argument("--public", action="store_true", help="push it for all to see: only if its licence and "
                            "the people in it allow that")  # fmt: skip
        parser.add_argument("--workers", type=int, metavar="N", help="processes that decode (default: all cores)")
        parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where prepared lives are kept (default: "
                            "$SINGLELIFE_CACHE or ~/.cache/singlelife)")  # fmt: skip
        if self.add_options:
            self.add_options(parser)
        return parser

    def _run(self, arguments: argparse.Namespace) -> int:
        lives = [self._life(name) for name in arguments.life]
        if len(lives) > 1 and (arguments.videos or arguments.push):
            raise LifeError("--videos and --push are of one life: name which.")
        if arguments.public and not arguments.push:
            raise LifeError("--public says how to --push, which is not asked for.")
        if arguments.push:
            from singlelife.hub.client import check_push

            check_push(arguments.push)  # now, not after hours of preparation
        if arguments.root and not arguments.root.is_dir():
            raise LifeError(f"--root {arguments.root}: there is no such folder.")
        if self.first and (code := self.first(arguments)) is not None:
            return code
        codes = {life: self._one(life, arguments) for life in lives}
        ways: dict[str, list[str]] = {}
        for life, code in codes.items():
            if code == INCOMPLETE and (source := _source_of_frames(life)).source:
                ways.setdefault(source.source, []).append(source.name)
        for way, names in ways.items():
            where = f"Put it into {recordings_dir() / names[0]}, or say where it is with --videos or --root."
            print(
                _filled(f"how to get {names[0] if len(names) == 1 else f'{names[0]} and the others'}: {way} {where}")
            )
        return max(codes.values(), default=COMPLETE)

    def _life(self, name: str) -> Life:
        own = [life.name for life in self.lives()]
        known = name in life_names() or name.startswith(SHUFFLED)
        if not known and self.any_name:
            return Life(name=name, kind="video", description="a recording of your own")
        if known and (life := registered_life(name)).script == self.name:
            return life
        raise LifeError(f"{name!r} is not a life of {self.name}.py. It has {', '.join(own)}.")

    def _one(self, life: Life, arguments: argparse.Namespace) -> int:
        source = _source_of_frames(life)
        videos, where = _videos_of(source, arguments)
        findings = Findings()
        headers = check_videos(source, videos, where, findings)
        if self.check:
            self.check(source, headers, arguments, findings)
        findings.show(f"{life.name}: {life.description}")
        wanted = arguments.prepare or arguments.push
        if not wanted or not headers or not (findings.complete or arguments.incomplete):
            if wanted and headers:
                print("  not prepared, since it is not complete; --incomplete prepares what is here")
            return findings.exit_code
        _prepare_and_push(life, list(headers), arguments)
        return COMPLETE


def script_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser whose help has examples and exit codes."""
    return argparse.ArgumentParser(
        prog=f"{name}.py",
        description=textwrap.fill(description, 100, break_long_words=False, break_on_hyphens=False),
        epilog=f"examples:\n{examples}\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_script(name: str, body: Callable[[], int]) -> int:
    """Run a script's body. What the user can put right is told on stderr, without a traceback."""
    try:
        return body()
    except SingleLifeError as error:
        print(f"{name}.py: {error}", file=sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt:
        print(f"{name}.py: interrupted.", file=sys.stderr)
        return 130


def check_videos(life: Life, videos: Sequence[Path], where: str, findings: Findings) -> dict[Path, VideoHeader]:
    """Check that the videos of a life are all here, can be read and have the names they should have.

    Args:
        life: whose `num_videos` and `video_pattern` count.
        videos: that were found.
        where: they were looked for, for people.
        findings: to add to.

    Returns:
        The videos that can be used, with their headers.
    """
    if not videos:
        findings.missing.append(f"there is no video in {where}")
        return {}
    headers: dict[Path, VideoHeader] = {}
    for video in tqdm(videos, desc="Reading headers", unit=" videos", disable=None, leave=False):
        try:
            header = read_header(video)
        except LifeError as error:
            findings.wrong.append(str(error))
            continue
        if life.video_pattern and not re.fullmatch(life.video_pattern, video.name):
            findings.wrong.append(f"{video}: not the name of a video of {life.name} ({life.video_pattern})")
            continue
        headers[video] = header
    of = f" of {life.num_videos:,}" if life.num_videos else ""
    size = sum(video.stat().st_size for video in headers)
    seconds = sum(header.seconds for header in headers.values())
    shapes = sorted(
        {f"{header.width}x{header.height} px at {header.frame_rate:.3g} Hz" for header in headers.values()}
    )
    kinds = ", ".join(shapes[:3]) + (f" and {len(shapes) - 3} more kinds" if len(shapes) > 3 else "")
    findings.facts.append(
        f"{len(headers):,}{of} video{'s' * (len(videos) != 1)} in {where}: {duration(seconds)}, {in_bytes(size)}"
        + (f", {kinds}" if kinds else "")
    )
    if len(headers) < life.num_videos:
        findings.missing.append(f"{life.num_videos - len(headers)} of its {life.num_videos} videos")
    elif life.num_videos and len(headers) > life.num_videos:
        findings.wrong.append(f"it has {life.num_videos} videos, not {len(headers)}")
    for video, header in headers.items():
        if min(header.width, header.height) < life.frame_size:
            pixels = f"{header.width}x{header.height}"
            findings.notes.append(f"{video.name} is smaller than the {life.frame_size} px of frames: {pixels}")
        if not header.seconds:
            findings.notes.append(f"{video.name} does not say how long it is; preparing it will tell")
    return headers


def shown(count: int, what: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def _filled(text: str) -> str:
    return textwrap.fill(text, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _source_of_frames(life: Life) -> Life:
    return _source_of_frames(registered_life(life.shuffle_of)) if life.shuffle_of else life


def _videos_of(life: Life, arguments: argparse.Namespace) -> tuple[list[Path], str]:
    """The videos that are here, and where they were looked for."""
    if life.kind == "simulated":
        raise LifeError(
            f"{life.name} is rendered when it is needed and has no videos: singlelife prepare {life.name}."
        )
    if arguments.videos:
        more = f" and {len(arguments.videos) - 1} more" if len(arguments.videos) > 1 else ""
        return find_videos(arguments.videos), f"{arguments.videos[0]}{more}"
    if arguments.root and life.part:
        folder = arguments.root / life.part
        return videos_in(folder), str(folder)
    return life.local_videos(), str(life.folder)


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder and of those in it; none if it is not there."""
    try:
        return find_videos([folder])
    except LifeError:
        return []


def _prepare_and_push(life: Life, videos: list[Path], arguments: argparse.Namespace) -> None:
    from singlelife.lives.prepare import prepare_life  # datasets and torch take seconds to import
    from singlelife.lives.registry import get_life

    prepared = prepare_life(
        get_life(life.name, list(map(str, videos))), cache_dir=arguments.cache_dir, num_workers=arguments.workers
    )
    print(f"  prepared: {len(prepared):,} frames in {prepared.path}")
    if arguments.push:
        from singlelife.hub.push import publish
        from singlelife.lives.publishing import life_publication

        if arguments.public:
            print(f"  The frames may show faces, and their licence is: {life.license}.", file=sys.stderr)
        url = publish(life_publication(prepared, arguments.push), private=not arguments.public)
        print(f"  pushed: {url}")
