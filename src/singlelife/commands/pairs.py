"""`singlelife pairs`: the pairs that a model learns from, and the pair sets that models are scored on."""

from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from singlelife.alignment.settings import Views
from singlelife.errors import LifeError, PairSetError, SingleLifeError
from singlelife.files import hub_configs, read_yaml
from singlelife.lives.pairs.pairing import PAIRINGS, PairSettings
from singlelife.text import aligned

if TYPE_CHECKING:
    from singlelife.alignment.pair_sets import PairSet
    from singlelife.lives.pairs.pairing import Pairing
    from singlelife.lives.pairs.sheet import PairSample
    from singlelife.lives.prepared import PreparedLife
    from singlelife.lives.scene.geometry import Geometry

_MOST_PAIRS = 2**63


def _setting(name: str, kind: Any, default: Any) -> tuple[str, Any, None]:
    about = f"as in `singlelife train` (default: that of the life's recipe, or {default})"
    return name, Annotated[kind | None, tyro.conf.arg(help=about)], None


_Overrides = make_dataclass(
    "_Overrides",
    [_setting(each.name, each.type, each.default) for each in fields(PairSettings)],
    namespace={"__doc__": "Settings of the pairings."},
    frozen=True,
)


@dataclass(frozen=True)
class Show:
    """Draw pairs of a life, as training sees them before it crops, or pairs of a pair set.

    Of a life, the picture has a row for each way to make pairs, target and source side by side with the time between
    them, their overlap and the pair's index; a table says how many pairs there are of each kind. The
    overlap of two frames is the number of 3D points that both see over the number that either sees; it is known where
    a life has poses. Of a pair set, true matches are dots of one colour.

    Examples: singlelife pairs show sim_1 --pairing spatial temporal --num 12; the pairs that a run saw at its step
    700, of 32 each: singlelife pairs show --run runs/sim_1 --index $(seq 22400 22431)
    """

    what: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="LIFE|PAIRSET")] = None
    """A life: its name, a new name with --video, or the folder of a prepared life. Or a pair set: its folder, a
    folder of pairs of images, or ORG/NAME[@REVISION] on the Hub."""

    video: tuple[str, ...] | None = None
    """Files, folders or globs of your recording."""

    of_run: Annotated[Path | None, tyro.conf.arg(name="run", metavar="FOLDER")] = None
    """Show the pairs that this run trains on: its life, settings, seed, and frames that are not held out."""

    pairing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="|".join(PAIRINGS))] = ()
    """Only these pairings (default: all that the life can have, or the run's)."""

    num: int = 6
    """Pairs of each pairing, or of the pair set."""

    index: tuple[int, ...] = ()
    """Show the pairs of these indices, instead of the first."""

    seed: int | None = None
    """Seed of the pairs (default: 0, or the run's)."""

    output: Path | None = None
    """The PNG to write (default: NAME-pairs.png)."""

    cache_dir: Path | None = None
    """Where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)."""

    overrides: _Overrides = field(default_factory=_Overrides)  # type: ignore[valid-type]
    """Settings of the pairings."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise SingleLifeError(f"--num {self.num}: it should be at least 1.")
        if wrong := [name for name in self.pairing if name not in PAIRINGS]:
            raise SingleLifeError(f"--pairing {wrong[0]}: it should be one of {', '.join(PAIRINGS)}.")
        for flag, numbers in (("--index", self.index), ("--seed", [] if self.seed is None else [self.seed])):
            if wrong_numbers := [number for number in numbers if not 0 <= number < _MOST_PAIRS]:
                raise SingleLifeError(f"{flag} {wrong_numbers[0]}: it should be from 0 to 2^63 - 1.")
        _check_output(self.output)
        if self.of_run:
            given = {"LIFE": self.what, "--video": self.video, "--seed": self.seed} | self._given()
            if refused := [name for name, value in given.items() if value is not None]:
                raise SingleLifeError(f"--run takes all settings from the run: leave out {', '.join(refused)}.")
        elif not self.what:
            raise SingleLifeError(
                "Whose pairs? Name a life that `singlelife lives` lists, or a run with --run FOLDER."
            )

    def run(self) -> int:
        if self.what and not self.video and not self.of_run and (pairs := self._pair_set(self.what)):
            return self._show_pair_set(pairs)
        import numpy as np

        from singlelife.lives.pairs.sheet import draw_sheet, sample_pairs

        life, pairings, seed = self._pairings_of_run(self.of_run) if self.of_run else self._pairings_of_life()
        output = self.output or Path(f"{life.name}-pairs.png")
        geometry = _geometry(life, explain=bool(self.pairing))  # else spatial pairs have said why
        sampled = [sample_pairs(life, name, pairing, seed, geometry=geometry) for name, pairing in pairings.items()]
        chosen = np.array(self.index or range(self.num), dtype=np.int64)
        shown = [sample_pairs(life, name, pairing, seed, chosen, geometry) for name, pairing in pairings.items()]
        print(_table(life, sampled))
        of_run = f" of {self.of_run}" if self.of_run else ""
        title = f"Pairs of {life.name}{of_run}, seed {seed}: target left, source right"
        draw_sheet(output, life, shown, title)
        print(f"\ndrawn in {output}")
        return 0

    @staticmethod
    def _pair_set(what: str) -> "PairSet | None":
        from singlelife.alignment.pair_sets.resolve import stored_pair_set

        return stored_pair_set(what)

    def _show_pair_set(self, pairs: "PairSet") -> int:
        from singlelife.alignment.pair_sets.sheet import describe, draw_pairs

        assert self.what is not None
        output = self.output or Path(f"{Path(self.what.partition('@')[0]).absolute().name}-pairs.png")
        print(describe(pairs))
        print(f"\n{draw_pairs(pairs, output, self.num)} pairs drawn in {output}")
        return 0

    def _given(self) -> dict[str, Any]:
        values = {
            f"--{each.name.replace('_', '-')}": getattr(self.overrides, each.name) for each in fields(PairSettings)
        }
        return {flag: value for flag, value in values.items() if value is not None}

    def _pairings_of_life(self) -> "tuple[PreparedLife, dict[str, Pairing], int]":
        """The life, and those of the pairings that it can have."""
        from singlelife.lives.pairs.pairing import PairingContext, make_pairing
        from singlelife.lives.resolve import resolve_life, training_recipe

        assert self.what is not None
        videos = list(self.video) if self.video else None
        life = resolve_life(self.what, videos=videos, cache_dir=self.cache_dir)
        recipe = read_yaml(hub_configs() / "train" / f"{training_recipe(self.what, videos)}.yaml")
        settings = {each.name: recipe[each.name] for each in fields(PairSettings) if each.name in recipe}
        settings |= {flag[2:].replace("-", "_"): value for flag, value in self._given().items()}
        context = PairingContext.of_life(life, PairSettings(**settings))
        pairings: dict[str, Pairing] = {}
        missing: dict[str, list[str]] = {}  # why: which
        for name in self.pairing or PAIRINGS:
            try:
                pairings[name] = make_pairing(name, context)
            except LifeError as error:
                if self.pairing:
                    raise
                missing.setdefault(str(error), []).append(name)
        for why, names in missing.items():
            print(f"no {' or '.join(names)} pairs: {why}\n")
        if not pairings:
            raise LifeError(f"The life {life.name} has no pairs of any kind.")
        return life, pairings, self.seed or 0

    def _pairings_of_run(self, folder: Path) -> "tuple[PreparedLife, dict[str, Pairing], int]":
        """The life of a run and its training pairs."""
        from singlelife.lives.resolve import resolve_life
        from singlelife.pretraining.arguments import parse_arguments
        from singlelife.pretraining.batches import pairings
        from singlelife.pretraining.run_folder import RunFolder

        config = RunFolder(folder).config
        if not config.is_file():
            raise SingleLifeError(f"{folder} is not the folder of a run: it has no {config.name}.")
        run = parse_arguments(["--config", str(config)])
        assert run.life.life is not None  # as the config of every run has it
        life = resolve_life(
            run.life.life,
            videos=list(run.life.video) if run.life.video else None,
            cache_dir=self.cache_dir or run.life.cache_dir,
            strict=run.life.strict,
        )
        names = self.pairing or (run.pairs.pairing,)
        made = {name: pairings(life, replace(run.pairs, pairing=name))[0] for name in names}
        return life, made, run.train.seed


@dataclass(frozen=True)
class Make:
    """Draw a balanced pair set from lives, and store it in a folder.

    A pair set is a fixed set of pairs of views with their provenance and, where lives have depth and poses, their
    true matches. Each life gives the same number of pairs and, in each life, each bin of overlap (of the 3D points
    that the two frames see) or of gap (the time between them). The same arguments give the same set. Its hash says
    that two people score models on the same pairs. `singlelife push FOLDER ORG/NAME` shares it.

    Example: singlelife pairs make sim_1 sim_test --output pairs/sim --num-pairs 600 --image-size 64
    """

    lives: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="LIFE...")]
    """Names of lives, folders of prepared ones, ORG/NAME on the Hub, or LIFE/held-out for the stretches that training
    holds out."""

    output: Path
    """Folder to store the pair set in; it must not exist yet."""

    by: Literal["overlap", "gap", "none"] | None = None
    """What to balance by; none: pairs a moment apart (default: overlap where poses are known, else gap)."""

    bins: tuple[float, ...] | None = None
    """Edges of the bins, ascending; of gaps in seconds (default: 0.1 0.3 0.5 0.7 of overlap, 0.1 0.3 1 3 of gap)."""

    num_pairs: int = 600
    """Pairs in all."""

    views: Views = "plain"
    """plain: of each frame the middle square; zoomed: a square at a random place; shifted: two cuts of one frame."""

    image_size: int = 224
    """Side of the views in pixels."""

    seed: int = 0
    """Seed of the draw."""

    cache_dir: Path | None = None
    """Where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)."""

    def __post_init__(self) -> None:
        if not self.lives:
            raise PairSetError("Name at least one LIFE to draw pairs from.")
        for flag, value in (("--num-pairs", self.num_pairs), ("--image-size", self.image_size)):
            if value < 1:
                raise PairSetError(f"{flag} {value}: it should be at least 1.")
        if not 0 <= self.seed < _MOST_PAIRS:
            raise PairSetError(f"--seed {self.seed}: it should be from 0 to 2^63 - 1.")
        if self.output.exists():
            raise PairSetError(f"--output {self.output} exists already. Choose another folder, or delete it.")

    def run(self) -> int:
        from singlelife.alignment.pair_sets import make_balanced_pair_set
        from singlelife.alignment.pair_sets.resolve import resolve_stretch
        from singlelife.alignment.pair_sets.sheet import describe

        stretches = [resolve_stretch(life, cache_dir=self.cache_dir) for life in self.lives]
        pairs = make_balanced_pair_set(
            [life for life, _ in stretches],
            by=self.by,
            bins=self.bins,
            views=self.views,
            num_pairs=self.num_pairs,
            seed=self.seed,
            image_size=self.image_size,
            rows=[rows for _, rows in stretches],
            progress=True,
        )
        pairs.save(self.output, progress=True)
        print(describe(pairs))
        print(f"\nstored in {self.output}; compare models on it: singlelife cas A B --pairs {self.output}")
        return 0


COMMAND = Annotated[Show, tyro.conf.subcommand("show")] | Annotated[Make, tyro.conf.subcommand("make")]


def _check_output(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise SingleLifeError(f"--output {path}: there is no such folder to write into.")


def _geometry(life: "PreparedLife", explain: bool) -> "Geometry | None":
    from singlelife.lives.scene.store import life_geometry

    try:
        return life_geometry(life)
    except LifeError as error:
        if explain:
            print(f"overlaps are not known: {error}\n")
        return None


def _table(life: "PreparedLife", samples: "list[PairSample]") -> str:
    import numpy as np

    from singlelife.lives.pairs.sheet import gap_text, median

    rows = [("PAIRING", "PAIRS", "FRAMES AS TARGET", "MEDIAN GAP", "TWO VIDEOS", "MEDIAN OVERLAP")]
    for sample in samples:
        gap, overlap = median(sample.gaps), median(sample.overlaps)
        rows.append(
            (
                sample.name,
                f"{len(sample.pairing):,}",
                f"{len(sample.pairing.targets) / len(life):.1%}",
                "-" if np.isnan(gap) else gap_text(gap),
                f"{np.isnan(sample.gaps).mean():.0%}",
                "not known" if np.isnan(overlap) else f"{overlap:.2f}",
            )
        )
    return aligned(rows)
