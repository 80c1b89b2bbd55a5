"""Options that several commands have."""

import argparse
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from singlelife.errors import SingleLifeError
from singlelife.files import atomic_write
from singlelife.text import aligned as aligned  # commands take it from here

MODEL_HELP = (
    "run folder, local checkpoint, ORG/NAME[@REVISION] on the Hub, or untrained:MODEL[@SEED]; a CroCo, or one of the "
    "vision transformers in docs/alignment.md"
)

# Those of alignment/attention.py and alignment/pair_sets, which import torch.
METHODS = ("cross-attention", "feature-correlation", "decoder-correlation")
VIEWS = ("plain", "zoomed", "shifted")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps the paragraphs of a description to the screen, and leaves indented lines, such as examples, alone."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = itertools.groupby(text.splitlines(), key=lambda line: line[:1] in ("", " "))
        return "\n".join("\n".join(lines) if kept else textwrap.fill(" ".join(lines), width) for kept, lines in parts)


def positive(word: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, not {number}")
    return number


def above_zero(word: str) -> float:
    """A finite number above 0, for argparse."""
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"should be above 0, not {word}")
    return number


def check_output(flag: str, path: Path) -> None:
    """Make sure, before any work, that a file can be written where a flag says.

    Raises:
        SingleLifeError: its folder is not there.
    """
    if not path.absolute().parent.is_dir():
        raise SingleLifeError(f"{flag} {path}: there is no such folder to write into.")


def add_map_options(command: argparse.ArgumentParser) -> None:
    """Add what `cas` and `align` have in common: the pairs, and what is done with the maps."""
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
        choices=VIEWS,
        help="plain: two frames a moment apart; zoomed: the same, each cut out at a random place; "
        "shifted: two cuts of one frame (default: %(default)s)",
    )
    command.add_argument(
        "--num-pairs", type=positive, default=384, metavar="N", help="pairs to draw from a life (default: %(default)s)"
    )
    command.add_argument(
        "--image-size", type=positive, metavar="PX", help="side of the views (default: the largest that a model takes)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the pairs and the bootstrap (default: %(default)s)")
    command.add_argument(
        "--k",
        type=int,
        nargs="+",
        default=[5],
        help="of the top k matches of each patch; of several, the first is the one that all is said of, and the "
        "scores at the others make a curve (default: 5)",
    )
    command.add_argument(
        "--direction",
        default="target-source",
        choices=("target-source", "source-target", "reciprocal"),
        help="target-source: where each target patch looks in the source; source-target: the views change roles; "
        "reciprocal: the mean of one and the transpose of the other (default: %(default)s)",
    )
    command.add_argument(
        "--sinks",
        default="keep",
        choices=("keep", "mask"),
        help="mask: leave out the source patches that a model looks at whatever the views show (default: %(default)s)",
    )
    command.add_argument(
        "--layers",
        type=int,
        nargs="+",
        metavar="L",
        help="blocks to take the maps of, from 0, or from -1 backwards (default: all of a decoder for "
        "cross-attention, the last for features)",
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        help="how the maps come about (default: cross-attention of a CroCo, feature correlation of other models)",
    )
    command.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="pairs at once (default: %(default)s)"
    )
    command.add_argument("--device", default="cpu", help="where the models run (default: %(default)s)")
    command.add_argument("--json", metavar="FILE", help="write all fields as JSON; - prints them instead of the table")


def quiet_transformers() -> None:
    """Without its progress bars and warnings; the commands have their own."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()


def configure_libraries(device: str) -> None:
    """Keep transformers quiet, and make sure that torch can use what `--device` says.

    Raises:
        SingleLifeError: it cannot.
    """
    import torch

    quiet_transformers()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SingleLifeError(f"--device {device} cannot be used here: {error}".splitlines()[0]) from error


def check_json(file: str | None) -> None:
    """Make sure, before any work, that `--json` can be written.

    Raises:
        SingleLifeError: its folder is not there.
    """
    if file is not None and file != "-":
        check_output("--json", Path(file))


def report(fields: str, json_file: str | None, text: object) -> None:
    """Print the text and write the fields where `--json` says; or print the fields instead."""
    if json_file == "-":
        print(fields)
        return
    print(text)
    if json_file:
        with atomic_write(Path(json_file)) as aside:
            aside.write_text(fields + "\n", encoding="utf-8")


def check_folder(flag: str, path: Path) -> None:
    """Make sure, before any work, that a folder can be made where a flag says, or is one.

    Raises:
        SingleLifeError: it cannot.
    """
    check_output(flag, path)
    if path.exists() and not path.is_dir():
        raise SingleLifeError(f"{flag} {path}: this is a file; give a folder.")


def add_cache_dir(command: argparse.ArgumentParser) -> None:
    """Add `--cache-dir`."""
    command.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)",
    )


def comma_separated(words: str) -> list[str]:
    """The words between commas, for argparse."""
    return [word for word in words.split(",") if word]


def named_groups(words: Sequence[str]) -> dict[str, list[str]]:
    """What `--groups NAME=MODEL,MODEL ...` says.

    Raises:
        SingleLifeError: it is not like that.
    """
    groups = {}
    for word in words:
        name, equals, members = word.partition("=")
        if not (name and equals and comma_separated(members)):
            raise SingleLifeError(f"--groups takes NAME=MODEL,MODEL, not {word!r}.")
        groups[name] = comma_separated(members)
    return groups
