"""The command `singlelife`. Each subcommand imports what it needs when it runs, so that `--help` is quick."""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from singlelife import __version__
from singlelife.errors import SingleLifeError

if TYPE_CHECKING:
    from singlelife.lives.registry import Life

_EXAMPLES = """\
from one person's video to two aligned models:
  singlelife lives                                    the lives known by name
  singlelife train --life sim_1                       pretrain a model on one life
  singlelife train --life my_day --video day/*.mp4    the same on a recording of your own
  singlelife cas runs/sim_1 runs/sim_2 --pairs sim_test
                                                      how far two models agree about geometry

training on several processes or GPUs: accelerate launch train.py --life NAME"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 2 for an error that the user can act on, told on stderr; 130 if interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["train"]:  # has its own parser: every field of its configs is a flag
            return _train(words[1:])
        parsed = _parser().parse_args(words)
        return parsed.run(parsed)
    except SingleLifeError as error:
        print(f"singlelife: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("singlelife: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="singlelife",
        description="Pretrain one CroCo model per life, and measure whether models that never shared a frame agree.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"singlelife {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "lives",
        help="list the lives known by name, or explain one",
        description="List the lives known by name, with what is here of each; `singlelife lives show NAME` explains "
        "one: where it comes from, how to get it, where to put it, what will be made of it.",
    )
    command.add_argument("show", nargs="?", choices=("show",), help="explain the life NAME")
    command.add_argument("life", nargs="?", metavar="NAME", help="a name that `singlelife lives` lists")
    _add_cache_dir(command)
    command.set_defaults(run=_lives)

    command = commands.add_parser(
        "prepare",
        help="prepare a life without training on it",
        description="Turn a life's video, or its simulation, into a dataset of frames. Training does it by itself.",
    )
    command.add_argument("life", help="a name that `singlelife lives` lists, or a new one with --video")
    command.add_argument("--video", nargs="+", metavar="PATH", help="files, folders or globs of your recording")
    command.add_argument("--strict", action="store_true", help="stop at a video that cannot be read")
    command.add_argument(
        "--workers", type=_positive, metavar="N", help="processes, one video each (default: all cores)"
    )
    _add_cache_dir(command)
    command.set_defaults(run=_prepare)

    commands.add_parser("train", help="pretrain a model on one life; the same as train.py (see train --help)")

    command = commands.add_parser(
        "cas",
        help="how far two models agree about geometry",
        description="The Correspondence Alignment Score of two models: the share of their strongest cross-attention "
        "matches that they have in common. Beside the raw score stands the position-free one, from which each model's "
        "habit of looking at the same place is taken away, and each model's score against plain position.",
        epilog="example: singlelife cas runs/sim_1 runs/sim_2 --pairs sim_test --views zoomed",
    )
    command.add_argument(
        "model_a", metavar="A", help="run folder, local checkpoint, Hub id, or untrained:PRESET[@SEED]"
    )
    command.add_argument("model_b", metavar="B", help="the other")
    command.add_argument("--pairs", default="sim_test", help="a life to draw pairs from: its name, or the folder of a "
                         "prepared life (default: %(default)s)")  # fmt: skip
    command.add_argument(
        "--views",
        default="plain",
        choices=("plain", "zoomed", "shifted"),
        help="plain: two frames a moment apart; zoomed: the same, each cut out at a random place; "
        "shifted: two cuts of one frame (default: %(default)s)",
    )
    command.add_argument("--k", type=int, default=5, help="of the top k matches of each patch (default: %(default)s)")
    command.add_argument(
        "--num-pairs", type=_positive, default=384, metavar="N", help="pairs to draw (default: %(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the pairs and the bootstrap (default: %(default)s)")
    command.add_argument(
        "--batch-size", type=_positive, default=64, metavar="N", help="pairs at once (default: %(default)s)"
    )
    command.add_argument("--device", default="cpu", help="where the models run (default: %(default)s)")
    command.add_argument("--json", metavar="FILE", help="write all fields as JSON; - prints them instead of the table")
    _add_cache_dir(command)
    command.set_defaults(run=_cas)
    return parser


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, not {number}")
    return number


def _add_cache_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)",
    )


def _lives(arguments: argparse.Namespace) -> int:
    from singlelife.lives.registry import life_names, registered_life

    if arguments.show and not arguments.life:
        raise SingleLifeError("`singlelife lives show` needs the name of a life; `singlelife lives` lists them.")
    if arguments.show:
        print(_explained(registered_life(arguments.life), arguments.cache_dir))
        return 0
    columns = ("NAME", "DATA SET", "KIND", "HOURS", "PLACE", "POSES", "ACCESS", "HERE")
    rows = [
        (life.name, life.dataset, life.kind, f"{life.hours:.3g}" if life.hours else "?", life.place, life.poses,
         life.access, _state(life, arguments.cache_dir))
        for life in map(registered_life, life_names())
    ]  # fmt: skip
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\n`singlelife lives show NAME` explains one. A recording of your own is a life too:")
    print("`singlelife train --life NAME --video PATH …`.")
    return 0


def _state(life: "Life", cache_dir: Path | None) -> str:
    from singlelife.lives.prepare import prepared_folders

    if prepared_folders(life, cache_dir):
        return "prepared"
    if life.kind == "simulated":
        return "rendered when needed"
    return "videos" if life.folder.is_dir() else "-"


def _explained(life: "Life", cache_dir: Path | None) -> str:
    from singlelife.lives.prepare import prepared_folders

    frames = round(life.hours * 3600 * life.frame_rate)
    made = f"frames at {life.frame_rate:g} Hz, {life.frame_size} px on the shorter side"
    lines = {
        "data set": f"{life.dataset} ({life.access})",
        "licence": life.license,
        "how to get it": life.source or "It is rendered here when it is needed.",
        "where to put it": "" if life.kind == "simulated" else f"{life.folder} (or name the files with --video)",
        "will be made": made + (f": about {frames:,}" if frames else ""),
        "poses": life.poses or "none",
        "recipe": f"hub_configs/train/{life.train}.yaml",
        "repository": f"ORGANISATION/{life.repository_name}",
        "here": ", ".join(map(str, prepared_folders(life, cache_dir))) or _state(life, cache_dir),
    }
    table = [_filled(f"  {name + ':':<17}", text) for name, text in lines.items() if text]
    return "\n".join(
        [f"{life.name}: {life.description}", *table, "", f"  accelerate launch train.py --life {life.name}"]
    )


def _filled(title: str, text: str) -> str:
    return textwrap.fill(
        title + text, 110, subsequent_indent=" " * len(title), break_long_words=False, break_on_hyphens=False
    )


def _prepare(arguments: argparse.Namespace) -> int:
    from singlelife.lives.prepare import prepare_life
    from singlelife.lives.registry import get_life

    life = prepare_life(
        get_life(arguments.life, arguments.video),
        cache_dir=arguments.cache_dir,
        num_workers=arguments.workers,
        strict=arguments.strict,
    )
    print(f"{life.name}: {len(life):,} frames of {len(life.videos)} video(s) in {life.path}")
    return 0


def _train(words: list[str]) -> int:
    from singlelife.cpu import settle_cpu
    from singlelife.pretraining.arguments import parse_arguments

    arguments = parse_arguments(words)
    settle_cpu()
    from singlelife.pretraining.pretrain import pretrain  # torch is imported only once the settings are right

    return pretrain(arguments)


def _cas(arguments: argparse.Namespace) -> int:
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
    if arguments.json not in (None, "-") and not Path(arguments.json).absolute().parent.is_dir():
        raise SingleLifeError(f"--json {arguments.json}: there is no such folder to write into.")
    model_a = load_model(arguments.model_a, arguments.device)
    model_b = load_model(arguments.model_b, arguments.device)
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


if __name__ == "__main__":
    sys.exit(main())
