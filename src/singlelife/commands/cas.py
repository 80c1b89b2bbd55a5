"""`singlelife cas`: how far two models agree about geometry."""

import argparse
import json
from pathlib import Path

from singlelife.commands.options import Commands, add_cache_dir, check_output, positive
from singlelife.errors import SingleLifeError


def add_command(commands: Commands) -> None:
    """Describe `singlelife cas`."""
    command = commands.add_parser(
        "cas",
        help="how far two models agree about geometry",
        description="The Correspondence Alignment Score of two models: the share of their strongest matches, of "
        "cross-attention or of correlated features, that they have in common. Beside the raw score stands the "
        "position-free one, from which each model's habit of looking at the same place is taken away, and each "
        "model's score against plain position.",
        epilog="example: singlelife cas runs/sim_1 runs/sim_2 --pairs sim_test --views zoomed",
    )
    command.add_argument(
        "model_a",
        metavar="A",
        help="run folder, local checkpoint, ORG/NAME[@REVISION] on the Hub, or untrained:MODEL[@SEED]; a CroCo, or "
        "one of the vision transformers in docs/alignment.md",
    )
    command.add_argument("model_b", metavar="B", help="the other")
    command.add_argument(
        "--pairs",
        default="sim_test",
        help="a stored pair set (its folder, or ORG/NAME[@REVISION] on the Hub), a folder of images NAME_target.png "
        "and NAME_source.png, or a life to draw pairs from: its name, its folder, ORG/NAME on the Hub, or "
        "LIFE/held-out for the stretches that training holds out (default: %(default)s)",
    )
    command.add_argument(
        "--views",
        default="plain",
        choices=("plain", "zoomed", "shifted"),
        help="plain: two frames a moment apart; zoomed: the same, each cut out at a random place; "
        "shifted: two cuts of one frame (default: %(default)s)",
    )
    command.add_argument(
        "--method",
        choices=("cross-attention", "feature-correlation"),
        help="how the maps come about (default: cross-attention of a CroCo, feature correlation of other models)",
    )
    command.add_argument(
        "--layers", type=int, nargs="+", metavar="L", help="blocks to take the maps of, from 0, or from -1 backwards "
        "(default: all of a decoder for cross-attention, the last for features)"
    )  # fmt: skip
    command.add_argument("--k", type=int, default=5, help="of the top k matches of each patch (default: %(default)s)")
    command.add_argument(
        "--num-pairs", type=positive, default=384, metavar="N", help="pairs to draw from a life (default: %(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the pairs and the bootstrap (default: %(default)s)")
    command.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="pairs at once (default: %(default)s)"
    )
    command.add_argument("--device", default="cpu", help="where the models run (default: %(default)s)")
    command.add_argument("--json", metavar="FILE", help="write all fields as JSON; - prints them instead of the table")
    add_cache_dir(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from singlelife.alignment.attention import load_model
    from singlelife.alignment.compare import compare
    from singlelife.alignment.pair_sets import resolve_pair_set

    disable_progress_bar()
    set_verbosity_error()
    try:
        torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        raise SingleLifeError(f"--device {arguments.device} cannot be used here: {error}".splitlines()[0]) from error
    if arguments.json not in (None, "-"):
        check_output("--json", Path(arguments.json))
    model_a, model_b = (
        load_model(model, arguments.device, method=arguments.method, layers=arguments.layers)
        for model in (arguments.model_a, arguments.model_b)
    )
    pairs = resolve_pair_set(
        arguments.pairs,
        views=arguments.views,
        num_pairs=arguments.num_pairs,
        seed=arguments.seed,
        image_size=max(model_a.image_size, model_b.image_size),
        cache_dir=arguments.cache_dir,
    )
    comparison = compare(model_a, model_b, pairs, k=arguments.k, batch_size=arguments.batch_size, seed=arguments.seed)
    fields = json.dumps(comparison.to_dict(), indent=2)
    if arguments.json == "-":
        print(fields)
        return 0
    print(comparison)
    if arguments.json:
        aside = Path(f"{arguments.json}.tmp")
        aside.write_text(fields + "\n", encoding="utf-8")
        aside.replace(arguments.json)
    return 0
