"""Make command-line flags from data classes of settings."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from inspect import cleandoc
from typing import Any, get_args

from singlelife.errors import SingleLifeError
from singlelife.text import did_you_mean

_DEFAULTS = {"None": "", "": "", "False": "", "True": "(default: yes)"}  # how help shows these


def parse_flags(
    settings: Any, program: str, words: Sequence[str], default: Any = None, about: str | None = None
) -> Any:
    """Read a command line into a data class.

    Args:
        settings: the data class, or a union of data classes, one per subcommand. Its fields become flags, and the
            docstrings under them become help; nested data classes add their fields without a prefix.
        program: the name that --help shows.
        default: an instance whose values replace the class's defaults.
        about: text that --help shows first, instead of the class's docstring.

    Raises:
        SingleLifeError: there is no such subcommand.
        SystemExit: --help was given (0), or the words do not fit the settings (2).
    """
    import tyro  # 60 ms, which `singlelife --help` does not need

    names = [part.__metadata__[0].name for part in get_args(settings)]
    if names and words and words[0] not in names and not words[0].startswith("-"):
        raise SingleLifeError(f"{program} takes no {words[0]!r}.{did_you_mean(words[0], names)}")
    _make_help_plain()
    conf = tyro.conf
    plain = [conf.OmitArgPrefixes, conf.OmitSubcommandPrefixes, conf.CascadeSubcommandArgs, conf.DisallowNone]
    plain += [conf.PositionalMetavarFromFieldName]
    more = {} if default is None else {"default": default}
    return tyro.cli(settings, prog=program, description=about, args=list(words), config=plain, **more)


def _make_help_plain() -> None:
    """Make tyro's --help join and wrap paragraphs, keep indented lines, give each subcommand one sentence, list
    required flags first, and leave out uninformative defaults.

    This patches tyro's internals, which may change between versions; `tests/test_cli.py` reads every page.
    """
    arguments: Any = import_module("tyro._arguments")
    strings: Any = import_module("tyro._strings")
    pages: Any = import_module("tyro._backends._tyro_help_formatting")
    if strings.remove_single_line_breaks is _joined:
        return
    strings.remove_single_line_breaks = _joined
    usual_help, usual_page = arguments.generate_argument_helptext, pages.format_help

    def argument_help(argument: Any, lowered: Any, compact: bool = False) -> Any:
        conf = replace(
            argument.field.argconf, help_behavior_hint=lambda label: _DEFAULTS.get(label, f"(default: {label})")
        )
        return usual_help(replace(argument, field=replace(argument.field, argconf=conf)), lowered, compact)

    def page(
        prog: str, parser_spec: Any, args: list[Any], subparser_frontier: Any, verbose: bool = False
    ) -> list[str]:
        width = min(shutil.get_terminal_size().columns, 100)
        for each in args:
            if (each.arg.lowered.metavar or "").startswith("{["):  # a tuple that may be None
                each.arg.lowered.metavar = each.arg.lowered.metavar[1:-1]
        for group in subparser_frontier.values():
            for command in group.parser_from_name.values():
                command.description = command.description.partition("\n")[0]
        paragraphs = parser_spec.description.split("\n")
        wrapped = (each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs)
        args = sorted(args, key=lambda each: not each.arg.lowered.required)
        return usual_page(
            prog, replace(parser_spec, description="\n".join(wrapped)), args, subparser_frontier, verbose
        )

    arguments.generate_argument_helptext, pages.format_help = argument_help, page


def _joined(text: str) -> str:
    """A docstring with each paragraph on one line; indented lines stay as they are."""
    paragraphs: list[str] = []
    last = ""
    for line in cleandoc(text).splitlines():
        if paragraphs and line.strip() and last.strip() and not line.startswith(" ") and not last.startswith(" "):
            paragraphs[-1] += f" {line.strip()}"
        else:
            paragraphs.append(line.rstrip())
        last = line
    return "\n".join(paragraphs)
