"""Flags of the command line from data classes of settings."""

from collections.abc import Sequence
from inspect import cleandoc
from typing import Any


def parse_flags(
    settings: Any, program: str, words: Sequence[str], default: Any = None, about: str | None = None
) -> Any:
    """Read a command line into a data class.

    Args:
        settings: the data class, or a union of data classes, each of which is then a subcommand. Its fields are the
            flags, and the docstrings under them their help; nested data classes add theirs without a prefix.
        program: the name that --help shows.
        words: of the command line.
        default: an instance whose values are the defaults, instead of those of the class.
        about: what --help says first, instead of the docstring of the class.

    Raises:
        SystemExit: --help (0), or the words are not what the settings take (2).
    """
    import tyro  # 60 ms, which `singlelife --help` does not need

    _join_lines_of_help()
    conf = tyro.conf
    plain = (conf.OmitArgPrefixes, conf.OmitSubcommandPrefixes, conf.CascadeSubcommandArgs, conf.DisallowNone)
    more = {} if default is None else {"default": default}
    return tyro.cli(settings, prog=program, description=about, args=list(words), config=plain, **more)


def _join_lines_of_help() -> None:
    """Have tyro take the indentation out of a field's docstring, so that its lines join to one paragraph."""
    from tyro import _strings

    join = getattr(_strings, "remove_single_line_breaks", None)
    if join is not None and not hasattr(join, "cleaned"):  # another version may do it by itself

        def cleaned(helptext: str) -> str:
            return join(cleandoc(helptext))

        cleaned.cleaned = True  # type: ignore[attr-defined]
        _strings.remove_single_line_breaks = cleaned
