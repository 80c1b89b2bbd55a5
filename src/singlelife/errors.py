"""Errors that a user can act on, and warnings.

Every message says what is wrong, where, and what to do next. The command line prints such an error without a
traceback and exits with its `exit_code`; anything else is a defect and keeps its traceback.
"""

import warnings
from typing import Any


class SingleLifeError(Exception):
    """Base of the errors a user can act on."""

    exit_code = 2


class LifeError(SingleLifeError):
    """A life is unknown, cannot be prepared, or its prepared form cannot be used."""


class RunError(SingleLifeError):
    """A training run cannot start, continue or be resumed."""


class CheckpointError(SingleLifeError):
    """A folder or Hub id does not hold a model that can be used here."""


class PairSetError(SingleLifeError):
    """Pairs of views cannot be drawn or read."""


class EvaluationError(SingleLifeError):
    """The data of an evaluation cannot be read, has nothing to measure, or cannot be used in this way."""


class HubError(SingleLifeError):
    """The Hub refused a request, could not be reached, or does not hold what was asked for."""


class SingleLifeWarning(UserWarning):
    """Something was wrong, and the work went on without it."""


_usual_format = warnings.formatwarning


def show_warnings_plainly() -> None:
    """Show our own warnings as one line, without their place in the code. For command lines; a library should leave
    the choice to its user."""
    warnings.formatwarning = _formatted


def _formatted(message: Any, category: type[Warning], *where: Any, **more: Any) -> str:
    if issubclass(category, SingleLifeWarning):
        return f"warning: {message}\n"
    return _usual_format(message, category, *where, **more)
