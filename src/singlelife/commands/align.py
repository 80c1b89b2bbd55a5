"""`singlelife align`: how far many models agree, two by two."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from singlelife.commands.options import (
    MODEL_HELP,
    Commands,
    add_cache_dir,
    add_map_options,
    check_folder,
    check_json,
    comma_separated,
    configure_libraries,
    named_groups,
    report,
)
from singlelife.errors import SingleLifeError
from singlelife.lives.registry import registered_life

SOME_FAILED = 1  # exit code
_SETTINGS = ("pairs", "k", "direction", "sinks", "method", "layers", "views", "num_pairs", "image_size", "seed",
             "batch_size", "device", "cache_dir")  # fmt: skip


def add_command(commands: Commands) -> None:
    """Describe `singlelife align`."""
    command = commands.add_parser(
        "align",
        help="how far many models agree, two by two",
        description="The Correspondence Alignment Score of each two of n models, as `singlelife cas` has it, with "
        "intervals, the means within and across groups of models, and a test that groups matter. Each model is run "
        "once on a pair set; what it says is kept under the cache folder, so that one more model costs one more run. "
        "A model that fails is told at the end, the others are compared, and the exit code is 1.",
        epilog="examples: singlelife align runs/sim_1 runs/sim_2 runs/sim_still untrained:tiny --save alignment; "
        "singlelife align --lives wt_1,wt_2,hdepic_1 --org ORG --pairs sim_test; "
        "singlelife align --checkpoints runs/sim_1 --reference runs/sim_2 --controls runs/sim_still,untrained:tiny",
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help=f"each a {MODEL_HELP}")
    command.add_argument(
        "--lives",
        type=comma_separated,
        default=[],
        metavar="A,B,...",
        help="add the models of these lives that --org has on the Hub, such as ORG/singlelife-wt3 for wt_3",
    )
    command.add_argument("--org", help="user or organisation on the Hub that has the models of --lives")
    command.add_argument(
        "--groups",
        nargs="+",
        default=[],
        metavar="NAME=M1,M2",
        help="which models belong together (default: those of lives of one data set, which their names tell)",
    )
    command.add_argument(
        "--checkpoints",
        nargs="+",
        default=[],
        metavar="RUN",
        help="instead of MODELs: follow every saved checkpoint of a run, or the finished models of several runs that "
        "were trained on different --hours of life, against --reference",
    )
    command.add_argument("--reference", metavar="MODEL", help="with --checkpoints: what they are compared with")
    command.add_argument(
        "--controls",
        type=comma_separated,
        default=[],
        metavar="M1,M2",
        help="with --checkpoints: models that should not align with the reference, such as an untrained one; it is "
        "said which is the first checkpoint whose interval lies above theirs",
    )
    add_map_options(command)
    command.add_argument(
        "--contrast",
        action="store_true",
        help="also compare one vector per view, the mean of its patches' features, as is done elsewhere: linear CKA, "
        "mutual nearest neighbours, RSA",
    )
    command.add_argument("--by-layer", action="store_true", help="also score layer by layer: a run for each")
    command.add_argument(
        "--save",
        type=Path,
        metavar="DIR",
        help="write result.json, result.parquet (a row for each two models) and result.safetensors (mean maps, and "
        "scores of each pair of views), and pictures of them, into this folder; with --checkpoints, trajectory.json "
        "and trajectory.png",
    )
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    models = [*arguments.models, *_models_of_lives(arguments.lives, arguments.org)]
    _check(arguments, models)
    groups = named_groups(arguments.groups)
    from singlelife.alignment.api import cas_curve, cas_matrix

    configure_libraries(arguments.device)
    check_json(arguments.json)
    if arguments.save:
        check_folder("--save", arguments.save)
    settings = {name: getattr(arguments, name) for name in _SETTINGS}
    result: Any
    if arguments.checkpoints:
        result = cas_curve(arguments.checkpoints, arguments.reference, controls=arguments.controls, **settings)
    else:
        own = {"groups": groups, "by_layer": arguments.by_layer, "contrast": arguments.contrast}
        result = cas_matrix(models, **own, **settings)
    if arguments.save:
        result.save(arguments.save)
    report(json.dumps(result.to_dict(), indent=2, allow_nan=False), arguments.json, result)
    return SOME_FAILED if result.failed else 0


def _check(arguments: argparse.Namespace, models: Sequence[str]) -> None:
    """Make sure that the options belong together.

    Raises:
        SingleLifeError: they do not.
    """
    if arguments.layers and arguments.by_layer:
        raise SingleLifeError("--by-layer takes each layer by itself: leave out --layers.")
    if not arguments.checkpoints:
        if arguments.reference or arguments.controls:
            raise SingleLifeError("--reference and --controls belong to --checkpoints RUN; add it.")
        if not models:
            raise SingleLifeError("Which models? Name them, or give --lives and --org, or --checkpoints RUN.")
        return
    if not arguments.reference:
        raise SingleLifeError("What are the checkpoints compared with? Give --reference MODEL.")
    flags = {"MODELs": models, "--groups": arguments.groups, "--by-layer": arguments.by_layer}
    extra = [name for name, given in (flags | {"--contrast": arguments.contrast}).items() if given]
    if extra:
        raise SingleLifeError(f"--checkpoints goes without {' and '.join(extra)}; leave out one or the other.")


def _models_of_lives(lives: Sequence[str], org: str | None) -> list[str]:
    if lives and not org:
        raise SingleLifeError("Whose models of these lives? Give --org, the user or organisation on the Hub.")
    return [f"{org}/{registered_life(life).repository_name}" for life in lives]
