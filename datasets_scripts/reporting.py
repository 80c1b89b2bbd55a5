"""What the scripts share: how they report what they find, and how they end."""

import argparse
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

from singlelife.errors import SingleLifeError

COMPLETE, INCOMPLETE, WRONG_USAGE = 0, 1, 2  # exit codes

_SHOWN = 5  # messages of each kind, at most


@dataclass
class Findings:
    """What a check found about a data set: facts, missing parts, faults and notes."""

    facts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, title: str, how_to_get: str) -> int:
        """Print them, and how to get what is missing; return the exit code."""
        print(title)
        for kind in ("facts", "missing", "wrong", "notes"):
            texts, prefix = getattr(self, kind), {"facts": "", "notes": "note: "}.get(kind, f"{kind}: ")
            more = [f"and {len(texts) - _SHOWN:,} more"] if len(texts) > _SHOWN else []
            for text in texts[:_SHOWN] + more:
                print(f"  {prefix}{text}")
        if not self.missing and not self.wrong:
            return COMPLETE
        text = f"how to get it: {how_to_get}"
        print(textwrap.fill(text, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
        return INCOMPLETE


def script_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser whose help has examples and exit codes."""
    codes = "exit codes: 0 all is here; 1 something is missing or wrong; 2 the command line is wrong"
    return argparse.ArgumentParser(
        prog=f"{name}.py",
        description=textwrap.fill(description, 100, break_long_words=False, break_on_hyphens=False),
        epilog=f"examples:\n{examples}\n\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_script(name: str, body: Callable[[], int]) -> int:
    """Run a script's body. Errors that the user can fix go to stderr, without a traceback."""
    try:
        return body()
    except SingleLifeError as error:
        print(f"{name}.py: {error}", file=sys.stderr)
        return WRONG_USAGE


def shown(count: int, what: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{count:,} {what}{'s' * (count != 1)}"
