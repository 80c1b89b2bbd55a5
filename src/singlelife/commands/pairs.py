"""`singlelife pairs`: what the training pairs of a life look like."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singlelife.commands.options import Commands, add_cache_dir, aligned, check_output, positive
from singlelife.errors import LifeError, SingleLifeError
from singlelife.files import hub_configs, read_yaml
from singlelife.lives.pairs.pairing import PAIRINGS, PairSettings

if TYPE_CHECKING:
    from singlelife.lives.pairs.sheet import PairSample
    from singlelife.lives.pairs.pairing import Pairing
    from singlelife.lives.prepared import PreparedLife
    from singlelife.lives.scene.geometry import Geometry

_SETTINGS = {
    "min_gap": "shortest time between the frames of a temporal pair, in seconds",
    "max_gap": "longest time between the frames of a temporal pair, in seconds",
    "min_overlap": "least overlap of the frames of a spatial pair",
    "max_overlap": "largest overlap of the frames of a spatial pair",
    "max_neighbours": "sources to keep of each target of spatial pairs",
    "spatial_rate": "frames per second among which spatial pairs are looked for; 0 for all",
    "spatial_weight": "share of spatial pairs in the pairing union",
}


def add_command(commands: Commands) -> None:
    """Describe `singlelife pairs`."""
    command = commands.add_parser(
        "pairs",
        help="look at the training pairs of a life",
        description="Draw pairs of a life, as training sees them before it crops: a row for each way to make pairs, "
        "target and source side by side with the time between them, their overlap and the pair's index, then "
        "histograms. A table says how many pairs there are of each kind. The overlap of two frames is the number of "
        "3D points that both see over the number that either sees; it is known where a life has poses.",
        epilog="examples: singlelife pairs sim_1 --pairing spatial temporal --num 12; the pairs that a run saw at its "
        "step 700, of 32 each: singlelife pairs --run runs/sim_1 --index $(seq 22400 22431)",
    )
    command.add_argument("life", nargs="?", metavar="NAME", help="a name that `singlelife lives` lists, or a new one "
                         "with --video, or the folder of a prepared life")  # fmt: skip
    command.add_argument("--video", nargs="+", metavar="PATH", help="files, folders or globs of your recording")
    command.add_argument(
        "--run", dest="run_folder", type=Path, metavar="FOLDER",
        help="the pairs that this run trains on: its life, settings, seed, and frames that are not held out",
    )  # fmt: skip
    command.add_argument(
        "--pairing", nargs="+", choices=tuple(PAIRINGS), help="only these (default: all that the life can have, or "
        "the run's)"
    )  # fmt: skip
    command.add_argument("--num", type=positive, default=6, metavar="N", help="pairs of each (default: %(default)s)")
    command.add_argument(
        "--index", nargs="+", type=_index, metavar="I", help="show the pairs of these indices, instead of the first"
    )
    command.add_argument("--seed", type=_index, metavar="N", help="of the pairs (default: 0, or the run's)")
    command.add_argument("--output", type=Path, metavar="FILE", help="the PNG to write (default: NAME-pairs.png)")
    settings = command.add_argument_group("settings of the pairings")
    for field in fields(PairSettings):
        settings.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.type if callable(field.type) else str,
            metavar="N" if field.type is int else "X",
            help=f"{_SETTINGS[field.name]} (default: that of the life's recipe, or {field.default})",
        )
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import numpy as np

    from singlelife.lives.pairs.sheet import draw_sheet, sample_pairs

    life, pairings, seed = _of_a_run(arguments) if arguments.run_folder else _of_a_life(arguments)
    output = arguments.output or Path(f"{life.name}-pairs.png")
    check_output("--output", output)
    geometry = _geometry(life, explain=bool(arguments.pairing))  # else it was said of spatial pairs already
    sampled = [sample_pairs(life, name, pairing, seed, geometry=geometry) for name, pairing in pairings.items()]
    chosen = np.array(arguments.index or range(arguments.num), dtype=np.int64)
    shown = [sample_pairs(life, name, pairing, seed, chosen, geometry) for name, pairing in pairings.items()]
    print(_table(life, sampled))
    of_run = f" of {arguments.run_folder}" if arguments.run_folder else ""
    draw_sheet(output, life, shown, sampled, f"Pairs of {life.name}{of_run}, seed {seed}: target left, source right")
    print(f"\ndrawn in {output}")
    return 0


def _of_a_life(arguments: argparse.Namespace) -> "tuple[PreparedLife, dict[str, Pairing], int]":
    """The life, and those of the pairings that it can have."""
    from singlelife.lives.pairs.pairing import PairingContext, make_pairing
    from singlelife.lives.resolve import resolve_life, training_recipe

    if not arguments.life:
        raise SingleLifeError("Whose pairs? Name a life that `singlelife lives` lists, or a run with --run FOLDER.")
    life = resolve_life(arguments.life, videos=arguments.video, cache_dir=arguments.cache_dir)
    recipe = read_yaml(hub_configs() / "train" / f"{training_recipe(arguments.life, arguments.video)}.yaml")
    known = {field.name for field in fields(PairSettings)}
    settings = {name: value for name, value in recipe.items() if name in known} | _given_settings(arguments)
    context = PairingContext.of_life(life, PairSettings(**settings))
    pairings: dict[str, Pairing] = {}
    missing: dict[str, list[str]] = {}  # why: which
    for name in arguments.pairing or PAIRINGS:
        try:
            pairings[name] = make_pairing(name, context)
        except LifeError as error:
            if arguments.pairing:
                raise
            missing.setdefault(str(error), []).append(name)
    for why, names in missing.items():
        print(f"no {' or '.join(names)} pairs: {why}\n")
    if not pairings:
        raise LifeError(f"The life {life.name} has no pairs of any kind.")
    return life, pairings, arguments.seed or 0


def _of_a_run(arguments: argparse.Namespace) -> "tuple[PreparedLife, dict[str, Pairing], int]":
    """The life of a run and its training pairs."""
    from singlelife.lives.resolve import resolve_life
    from singlelife.pretraining.arguments import parse_arguments
    from singlelife.pretraining.batches import pairings
    from singlelife.pretraining.run_folder import RunFolder

    refused = [
        *_given_settings(arguments),
        *(n for n in ("life", "video", "seed") if getattr(arguments, n) is not None),
    ]
    if refused:
        raise SingleLifeError(
            f"--run takes all settings from the run: leave out {', '.join(refused).replace('_', '-')}."
        )
    config = RunFolder(arguments.run_folder).config
    if not config.is_file():
        raise SingleLifeError(f"{arguments.run_folder} is not the folder of a run: it has no {config.name}.")
    run = parse_arguments(["--config", str(config)])
    assert run.life.life is not None  # as the config of every run has it
    life = resolve_life(
        run.life.life,
        videos=run.life.video,
        cache_dir=arguments.cache_dir or run.life.cache_dir,
        strict=run.life.strict,
    )
    made = {
        name: pairings(life, replace(run.pairs, pairing=name))[0] for name in arguments.pairing or [run.pairs.pairing]
    }
    return life, made, run.train.seed


def _given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {field.name: getattr(arguments, field.name) for field in fields(PairSettings)}
    return {name: value for name, value in given.items() if value is not None}


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

    rows = [("PAIRING", "PAIRS", "FRAMES AS TARGET", "MEDIAN GAP", "OF TWO VIDEOS", "MEDIAN OVERLAP")]
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


def _index(word: str) -> int:
    number = int(word)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"should be 0 to 2^63 - 1, not {number}")
    return number
