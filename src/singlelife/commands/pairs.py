"""`singlelife pairs`: the pairs that a model learns from, and the pair sets that models are scored on."""

from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from singlelife.alignment.settings import PairSetConfig
from singlelife.commands import check_folders, check_pairs
from singlelife.errors import LifeError, PairSetError, SingleLifeError
from singlelife.files import atomic_write
from singlelife.lives.pairs.pairing import PAIRINGS, PairSettings
from singlelife.lives.registry import default_cache_dir
from singlelife.lives.resolve import check_names
from singlelife.text import aligned

if TYPE_CHECKING:
    from singlelife.lives.pairs.pairing import Pairing
    from singlelife.lives.prepared import PreparedLife
    from singlelife.lives.scene.geometry import Geometry

_SAMPLED = 2_000  # pairs that the table's numbers are measured on
_IN_A_LINE = 6  # pairs
_KINDS: dict[str, Any] = {each.name: each.type for each in fields(PairSettings)}
_Settings = make_dataclass(  # a subclass, so that each flag has the help of its setting
    "_Settings",
    [(name, kind | None, None) for name, kind in _KINDS.items()],
    bases=(PairSettings,),
    namespace={"__post_init__": lambda self: None},
    frozen=True,
)


@dataclass(frozen=True)
class Show:
    """Draw pairs of a life, as training sees them before it crops, or pairs of a pair set.

    For a life, the picture has a row for each pairing: target and source side by side with the time between them,
    their overlap (the 3D points that both frames see over those that either sees) and the pair's index. A table says
    how many pairs there are of each kind. For a pair set, two dots of the same colour are a true match.

    Examples: singlelife pairs show sim_1 --pairing spatial temporal --num 12; the pairs that a run saw at its step
    700, of 32 each: singlelife pairs show --run runs/sim_1 --index $(seq 22400 22431)
    """

    what: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="LIFE|PAIRSET")] = None
    """A life: its name, a new name with --video, or the folder of a prepared life. Or a pair set: its folder, a
    folder of image pairs, or ORG/NAME[@REVISION] on the Hub."""
    video: tuple[str, ...] | None = None
    """Files, folders or globs of your recording."""
    of_run: Annotated[Path | None, tyro.conf.arg(name="run", metavar="FOLDER")] = None
    """Show the pairs that this run trains on: its life, settings, seed, and frames that are not held out."""
    pairing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="|".join(PAIRINGS))] = ()
    """Show only these pairings (default: all that the life allows, or the run's)."""
    num: int = 6
    """The number of pairs to draw for each pairing, or from the pair set."""
    index: tuple[int, ...] = ()
    """Show the pairs with these indices, instead of the first ones."""
    seed: int | None = None
    """Seed of the pairs (default: 0, or the run's)."""
    output: Path | None = None
    """The PNG to write (default: pictures/NAME-pairs.png in the cache)."""
    cache_dir: Path | None = None
    """Where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)."""
    settings: _Settings = field(default_factory=_Settings)  # type: ignore[valid-type]
    """Settings of the pairings (default: the values in the life's recipe)."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise SingleLifeError(f"--num {self.num}: it should be at least 1.")
        if wrong := [name for name in self.pairing if name not in PAIRINGS]:
            raise SingleLifeError(f"--pairing {wrong[0]}: it should be one of {', '.join(PAIRINGS)}.")
        for flag, numbers in (("--index", self.index), ("--seed", (self.seed or 0,))):
            if not all(0 <= number < 2**63 for number in numbers):
                raise SingleLifeError(f"{flag} {min(numbers)}: it should be from 0 to 2^63 - 1.")
        check_folders(output=self.output)
        given = {"LIFE": self.what, "--video": self.video, "--seed": self.seed} | self._flags()
        if self.of_run and (refused := [name for name, value in given.items() if value is not None]):
            raise SingleLifeError(f"--run takes all settings from the run: leave out {', '.join(refused)}.")
        if not self.of_run and not self.what:
            raise SingleLifeError(
                "Whose pairs? Name a life that `singlelife lives` lists, or a run with --run FOLDER."
            )

    def _flags(self) -> dict[str, str]:
        """The settings of pairings that were given."""
        given = ((name, getattr(self.settings, name)) for name in _KINDS)
        return {f"--{name.replace('_', '-')}": str(value) for name, value in given if value is not None}

    def run(self) -> int:
        if self.what and not self.video:
            check_pairs(self.what, self.cache_dir)
            from singlelife.alignment.pair_sets.resolve import stored_pair_set

            if pairs := stored_pair_set(self.what, cache_dir=self.cache_dir):
                from singlelife.alignment.plots import draw_pairs

                output = self._picture_of(Path(self.what.partition("@")[0]).absolute().name)
                print(f"{pairs}\n\n{draw_pairs(pairs, output, self.num)} pairs drawn in {output}")
                return 0
        from singlelife.lives.scene.store import life_geometry

        life, pairings, seed = self._pairings()
        geometry: Geometry | None = None
        try:
            geometry = life_geometry(life)
        except LifeError as error:
            if self.pairing:  # otherwise the line about spatial pairs gives the reason
                print(f"overlaps are not known: {error}\n")
        rows = [("PAIRING", "PAIRS", "FRAMES AS TARGET", "MEDIAN GAP", "TWO VIDEOS", "MEDIAN OVERLAP")]
        shown = []
        indices = np.array([*range(_SAMPLED), *(self.index or range(self.num))], dtype=np.int64)
        for name, pairing in pairings.items():
            frames = pairing.pairs(seed, indices)
            gaps, overlaps = _apart(life, frames, geometry)
            gap, overlap = _median(gaps[:_SAMPLED]), _median(overlaps[:_SAMPLED])
            numbers = f"{len(pairing):,}", f"{len(pairing.targets) / len(life):.1%}", _gap_text(gap)
            two_videos = f"{np.isnan(gaps[:_SAMPLED]).mean():.0%}"
            rows.append((name, *numbers, two_videos, "not known" if np.isnan(overlap) else f"{overlap:.2f}"))
            titles = []
            for gap, overlap, index in zip(gaps[_SAMPLED:], overlaps[_SAMPLED:], indices[_SAMPLED:], strict=True):
                known = "" if np.isnan(overlap) else f"  ·  overlap {overlap:.2f}"
                titles.append(f"{name}  ·  {_gap_text(gap)}{known}  ·  #{index}")
            shown.append((frames[_SAMPLED:], titles))
        print(aligned(rows))
        output = self._picture_of(life.name)
        title = f"Pairs of {self.of_run or life.name}, seed {seed}: target left, source right"
        _draw_sheet(output, life, shown, title)
        print(f"\ndrawn in {output}")
        return 0

    def _picture_of(self, name: str) -> Path:
        """The PNG to write; its folder is made."""
        output = self.output or (self.cache_dir or default_cache_dir()) / "pictures" / f"{name}-pairs.png"
        output.parent.mkdir(parents=True, exist_ok=True)
        return output

    def _pairings(self) -> "tuple[PreparedLife, dict[str, Pairing], int]":
        """The life, its possible pairings by name, and the seed."""
        from singlelife.lives.resolve import resolve_life
        from singlelife.pretraining.arguments import parse_arguments
        from singlelife.pretraining.batches import pairings

        words = ["--life", str(self.what), "--seed", str(self.seed or 0), "--validation-fraction", "0"]
        words += ["--video", *self.video] if self.video else []
        words += ["--cache-dir", str(self.cache_dir)] if self.cache_dir else []
        words += [word for setting in self._flags().items() for word in setting]
        run = parse_arguments(["--config", str(self.of_run / "config.yaml")] if self.of_run else words)
        where = self.cache_dir or run.life.cache_dir
        life = resolve_life(str(run.life.life), videos=run.life.video, cache_dir=where)
        only = self.pairing or ((run.pairs.pairing,) if self.of_run else ())
        made: dict[str, Pairing] = {}
        missing: dict[str, list[str]] = {}  # reason → pairings
        for name in only or PAIRINGS:
            try:
                made[name], _ = pairings(life, replace(run.pairs, pairing=name))
            except LifeError as error:
                if only:
                    raise
                missing.setdefault(str(error), []).append(name)
        for why, names in missing.items():
            print(f"no {' or '.join(names)} pairs: {why}\n")
        if not made:
            raise LifeError(f"The life {life.name} has no pairs of any kind.")
        return life, made, run.train.seed


@dataclass(frozen=True)
class Make:
    """Draw a balanced pair set from lives, and store it in a folder.

    A pair set is a fixed set of pairs of views with their provenance and, where lives have depth and poses, their
    true matches. Each life gives the same number of pairs, and so does each bin within a life: bins of overlap (of the
    3D points that the two frames see) or of gap (the time between them). The same arguments give the same set. If two
    people's sets have the same hash, they score models on the same pairs. `singlelife push FOLDER ORG/NAME` shares it.

    Example: singlelife pairs make sim_1 sim_test --output pairs/sim --num-pairs 600 --image-size 64
    """

    lives: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="LIFE...")]
    """Names of lives, folders of prepared lives, ORG/NAME on the Hub, or LIFE/held-out for the stretches that training
    holds out."""
    output: Path
    """Folder to store the pair set in; it must not exist yet."""
    draw: PairSetConfig = field(default_factory=PairSetConfig)
    cache_dir: Path | None = None
    """Where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)."""

    def __post_init__(self) -> None:
        if not self.lives:
            raise PairSetError("Name at least one LIFE to draw pairs from.")
        if self.output.exists():
            raise PairSetError(f"--output {self.output} exists already. Choose another folder, or delete it.")

    def run(self) -> int:
        check_names(self.lives, self.cache_dir)
        from singlelife.alignment.pair_sets import make_balanced_pair_set
        from singlelife.alignment.pair_sets.resolve import resolve_stretch

        lives, rows = zip(*(resolve_stretch(life, cache_dir=self.cache_dir) for life in self.lives), strict=True)
        pairs = make_balanced_pair_set(lives, self.draw, rows=rows, progress=True)
        pairs.save(self.output, progress=True)
        print(f"{pairs}\n\nstored in {self.output}. Next: singlelife cas A B --pairs {self.output}")
        return 0


def _apart(life: "PreparedLife", frames: np.ndarray, geometry: "Geometry | None") -> tuple[np.ndarray, np.ndarray]:
    """For pairs of frames, int64 (m, 2): the seconds between them, NaN across two videos; and their overlaps, NaN if
    unknown."""
    from singlelife.lives.pairs.overlap import overlaps_of

    target, source = frames.T
    same_video = life.video_index[target] == life.video_index[source]
    gaps = np.where(same_video, np.abs(life.timestamps[target] - life.timestamps[source]), np.nan)
    if geometry is None:
        return gaps, np.full(len(frames), np.nan)
    return gaps, overlaps_of(geometry.points, geometry.component, frames)


def _median(values: np.ndarray) -> float:
    """The median of the known values; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _gap_text(seconds: float) -> str:
    """A time between two frames, for people; NaN means that they come from two videos."""
    if np.isnan(seconds):
        return "other video"
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _draw_sheet(path: Path, life: "PreparedLife", shown: list[tuple[np.ndarray, list[str]]], title: str) -> None:
    """Write a contact sheet as a PNG, with the pairs of frames, (m, 2), of each pairing under their titles."""
    from matplotlib.figure import Figure

    columns = min(_IN_A_LINE, max(len(frames) for frames, _ in shown))
    lines = [-(-len(frames) // columns) for frames, _ in shown]
    figure = Figure(figsize=(3 * columns + 1, 1.6 * sum(lines) + 0.5), facecolor="white", layout="constrained")
    figure.suptitle(title, size=13, weight="bold")
    axes = figure.subplots(sum(lines), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for (frames, titles), first in zip(shown, np.cumsum([0, *lines]), strict=False):
        images = [image.permute(1, 2, 0).numpy() for image in life.decode(frames.reshape(-1))]
        for number, text in enumerate(titles):
            axis = axes[first + number // columns, number % columns]
            axis.imshow(_side_by_side(*images[2 * number : 2 * number + 2]), interpolation="antialiased")
            axis.set_title(text, size=8, pad=3)
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _side_by_side(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Two images (height, width, 3) as one, with a white line between."""
    white = np.full((max(len(target), len(source)), target.shape[1] + source.shape[1] + 3, 3), 255, np.uint8)
    white[: len(target), : target.shape[1]] = target
    white[: len(source), target.shape[1] + 3 :] = source
    return white


COMMAND = Annotated[Show, tyro.conf.subcommand("show")] | Annotated[Make, tyro.conf.subcommand("make")]
