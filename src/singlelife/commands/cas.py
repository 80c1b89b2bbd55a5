"""`singlelife cas`: how far two models agree about geometry."""

import argparse
import json
from pathlib import Path

from singlelife.commands.options import (
    MODEL_HELP,
    Commands,
    add_cache_dir,
    add_map_options,
    check_folder,
    check_json,
    configure_libraries,
    report,
)


def add_command(commands: Commands) -> None:
    """Describe `singlelife cas`."""
    command = commands.add_parser(
        "cas",
        help="how far two models agree about geometry",
        description="The Correspondence Alignment Score of two models: the share of their strongest matches, of "
        "cross-attention or of correlated features, that they have in common. Beside the raw score stands the "
        "position-free one, from which each model's habit of looking at the same place is taken away, and each "
        "model's score against plain position.",
        epilog="example: singlelife cas runs/sim_1 runs/sim_2 --pairs sim_test --views zoomed --k 5 1 10 20",
    )
    command.add_argument("model_a", metavar="A", help=MODEL_HELP)
    command.add_argument("model_b", metavar="B", help="the other")
    add_map_options(command)
    command.add_argument(
        "--heads",
        default="mean",
        choices=("mean", "each"),
        help="each: add the scores of each head of A with each head of B, at the first k (default: %(default)s)",
    )
    command.add_argument(
        "--save", type=Path, metavar="DIR", help="write result.json and both models' mean maps into this folder"
    )
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.alignment.api import cas

    configure_libraries(arguments.device)
    check_json(arguments.json)
    if arguments.save:
        check_folder("--save", arguments.save)
    comparison = cas(
        arguments.model_a,
        arguments.model_b,
        pairs=arguments.pairs,
        k=arguments.k,
        direction=arguments.direction,
        sinks=arguments.sinks,
        method=arguments.method,
        layers=arguments.layers,
        heads=arguments.heads,
        views=arguments.views,
        num_pairs=arguments.num_pairs,
        image_size=arguments.image_size,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        device=arguments.device,
        cache_dir=arguments.cache_dir,
    )
    if arguments.save:
        comparison.save(arguments.save)
    report(json.dumps(comparison.to_dict(), indent=2), arguments.json, comparison)
    return 0
