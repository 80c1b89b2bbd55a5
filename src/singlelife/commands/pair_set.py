"""`singlelife pairs-set`: sets of test pairs, made once, stored, shown and shared."""

import argparse
from pathlib import Path

from singlelife.commands.options import VIEWS, Commands, add_cache_dir, check_output, positive
from singlelife.errors import PairSetError


def add_command(commands: Commands) -> None:
    """Describe `singlelife pairs-set`."""
    command = commands.add_parser(
        "pairs-set",
        help="make, show or share a set of pairs to compare models on",
        description="A pair set is a fixed set of pairs of views, with their provenance and, where it is known, their "
        "true matches. Its hash says that two people's scores are of the same pairs.",
    )
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_make(actions)
    _add_show(actions)
    _add_push(actions)


def _add_make(actions: Commands) -> None:
    make = actions.add_parser(
        "make",
        help="draw a balanced set from lives",
        description="Draw as many different pairs from each life and, in each, from each bin of overlap (of the 3D "
        "points that the two frames see) or of gap (the time between them), and store them with their provenance, and "
        "with their true matches where the lives have depth and poses. The same arguments give the same set.",
        epilog="example: singlelife pairs-set make sim_1 sim_test --output pairs/sim --num-pairs 600 --image-size 64",
    )
    make.add_argument("lives", nargs="+", metavar="LIFE", help="a life's name, the folder of a prepared one, ORG/NAME "
                      "on the Hub, or LIFE/held-out for the stretches that training holds out")  # fmt: skip
    make.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to store it")
    make.add_argument("--by", choices=("overlap", "gap", "none"), help="what to balance by; none: pairs a moment "
                      "apart (default: overlap where poses are known, else gap)")  # fmt: skip
    make.add_argument("--bins", nargs="+", type=float, metavar="EDGE", help="edges of the bins, ascending; of gaps in "
                      "seconds (default: 0.1 0.3 0.5 0.7 of overlap, 0.1 0.3 1 3 of gap)")  # fmt: skip
    make.add_argument("--num-pairs", type=positive, default=600, metavar="N", help="in all (default: %(default)s)")
    make.add_argument(
        "--views",
        default="plain",
        choices=VIEWS,
        help="plain: of each frame the middle square; zoomed: a square at a random place; shifted: two cuts of one "
        "frame (default: %(default)s)",
    )
    make.add_argument(
        "--image-size", type=positive, default=224, metavar="PX", help="side of the views (default: %(default)s)"
    )
    make.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the draw (default: %(default)s)")
    add_cache_dir(make)
    make.set_defaults(run=run_make)


def _add_show(actions: Commands) -> None:
    show = actions.add_parser(
        "show",
        help="say what a set is, and draw some of its pairs",
        description="Say what a pair set is, and draw some of its pairs, true matches as dots of one colour.",
        epilog="example: singlelife pairs-set show pairs/sim --output pairs.png",
    )
    show.add_argument("pairs", metavar="PAIRS", help="a stored pair set (its folder, or ORG/NAME[@REVISION] on the "
                      "Hub), or a folder of pairs of images")  # fmt: skip
    show.add_argument("--num", type=positive, default=12, metavar="N", help="pairs to draw (default: %(default)s)")
    show.add_argument("--output", type=Path, metavar="FILE", help="the picture (default: NAME.png)")
    show.set_defaults(run=run_show)


def _add_push(actions: Commands) -> None:
    push = actions.add_parser(
        "push",
        help="push a stored set to the Hub",
        description="Push a stored pair set to the Hub, with a dataset card, so that `--pairs ORG/NAME` and "
        "datasets.load_dataset open it. It is private unless you say --public: views of a life show people who were "
        "not asked. Needs `hf auth login`, or HF_TOKEN.",
        epilog="example: singlelife pairs-set push pairs/sim my-name/sim-pairs --public",
    )
    push.add_argument("folder", type=Path, help="the folder of a stored pair set")
    push.add_argument("repo", metavar="ORG/NAME", help="the data set's name on the Hub; made if it is not there")
    push.add_argument("--public", action="store_true", help="let everybody see it, if you may and those seen agree")
    push.add_argument("--license", metavar="NAME", help="of the views, such as 'CC BY 4.0' (default: the lives')")
    push.add_argument("--revision", metavar="BRANCH", help="commit to this branch (default: main)")
    push.set_defaults(run=run_push)


def run_make(arguments: argparse.Namespace) -> int:
    from singlelife.alignment.pair_sets import make_balanced_pair_set
    from singlelife.alignment.pair_sets.resolve import resolve_stretch
    from singlelife.alignment.pair_sets.sheet import describe

    if arguments.output.exists():
        raise PairSetError(f"{arguments.output} is there already. Choose another --output, or delete it.")
    stretches = [resolve_stretch(life, cache_dir=arguments.cache_dir) for life in arguments.lives]
    pairs = make_balanced_pair_set(
        [life for life, _ in stretches],
        by=arguments.by,
        bins=arguments.bins,
        views=arguments.views,
        num_pairs=arguments.num_pairs,
        seed=arguments.seed,
        image_size=arguments.image_size,
        rows=[rows for _, rows in stretches],
        progress=True,
    )
    pairs.save(arguments.output, progress=True)
    print(describe(pairs))
    print(f"\nstored in {arguments.output}; compare models on it: singlelife cas A B --pairs {arguments.output}")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    from singlelife.alignment.pair_sets.resolve import resolve_stored
    from singlelife.alignment.pair_sets.sheet import describe, draw_pairs

    name = Path(arguments.pairs.partition("@")[0]).absolute().name
    output = arguments.output or Path(f"{name}.png")
    check_output("--output", output)
    pairs = resolve_stored(arguments.pairs)
    print(describe(pairs))
    print(f"\n{draw_pairs(pairs, output, arguments.num)} pairs drawn in {output}")
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    from singlelife.alignment.pair_sets.hub import pair_set_publication
    from singlelife.hub.push import publish

    private = not arguments.public
    publication = pair_set_publication(arguments.folder, arguments.repo, license=arguments.license)
    url = publish(publication, private=private, revision=arguments.revision)
    print(f"{arguments.folder} is in {url} ({'private' if private else 'public'})")
    print(f"Compare models on it anywhere: singlelife cas A B --pairs {arguments.repo}")
    return 0


def _seed(word: str) -> int:
    number = int(word)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"should be 0 to 2^63 - 1, not {number}")
    return number
