"""One table for all scores and evaluations: `results.jsonl` has a row for each number.

Read it with pandas to compare models or to write CSV, Markdown or HTML:

    frame = read_results("results.jsonl")
    frame[frame.metric == "centred_excess"].pivot_table("value", "model", "reference")
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from singlelife.errors import SingleLifeError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One number. Only rows with the same protocol and data hash can be compared.

    Attributes:
        model, reference: as the user named them; the reference is the second model of a score between two.
        revision: the weights' version: a commit on the Hub or a hash of the files.
        task: `"cas"`, `"correspondence"` or `"depth"`.
        protocol: the task's name and version, such as `"depth/1"`.
        data: the data measured on, as the user named it.
        metric: such as `"centred_excess"`, `"aepe"`, `"delta1"`.
        value: finite, or NaN if it is undefined.
        low, high: the ends of its 95% interval, if it has one.
        seed: the measurement's random seed, if anything in it is random.
        settings: other settings that the number depends on, such as k or the direction.
        version: singlelife's version.
    """

    model: str
    revision: str
    task: str
    protocol: str
    data: str
    data_hash: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    seed: int | None = None
    reference: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    version: str = ""


_START = '{"model": '  # the start of every line; a line with it that is not JSON was cut short
COLUMNS = tuple(each.name for each in fields(ResultRow))
# Two rows that agree in these columns are the same measurement; the later one counts.
IDENTITY = tuple(name for name in COLUMNS if name not in ("value", "low", "high", "version"))


def append_results(path: str | Path, rows: Iterable[ResultRow]) -> None:
    """Append rows to a `results.jsonl`, and create the file if necessary. Several processes may append to one file.

    Raises:
        SingleLifeError: the file cannot be written.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise SingleLifeError(f"Cannot write the results {path}: there is no such folder.")
    lines = [json.dumps({**asdict(row), "value": _as_json(row.value)}, sort_keys=False) + "\n" for row in rows]
    try:
        with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a process was killed while it wrote
                    file.write(b"\n")
            file.write("".join(lines).encode())
    except OSError as error:
        raise SingleLifeError(f"Cannot write the results {path}: {error.strerror}.") from error


def read_results(*paths: str | Path) -> "pandas.DataFrame":
    """The rows of one or several `results.jsonl` as a frame with the columns of `ResultRow`.

    If something was measured several times, the latest row counts. A line cut short, because the process that wrote
    it was killed, is left out.

    Raises:
        SingleLifeError: a file is missing, or a line is not a result.
    """
    import pandas

    rows: dict[str, dict[str, Any]] = {}
    for path in map(Path, paths):
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise SingleLifeError(f"Cannot read the results {path}: {error.strerror}.") from error
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                row = ResultRow(**json.loads(line))
            except (ValueError, TypeError) as error:
                if isinstance(error, json.JSONDecodeError) and line.startswith(_START):
                    continue
                raise SingleLifeError(f"Line {number} of {path} is not a result: {error}.") from error
            values = asdict(row) | {"value": math.nan if row.value is None else row.value}
            identity = json.dumps([values[name] for name in IDENTITY], sort_keys=True)
            rows.pop(identity, None)
            rows[identity] = values
    return pandas.DataFrame(list(rows.values()), columns=list(COLUMNS))


def to_frame(rows: Iterable[ResultRow]) -> "pandas.DataFrame":
    """Rows as a frame with the columns of `ResultRow`."""
    import pandas

    return pandas.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))


def _as_json(value: float) -> float | None:
    return value if math.isfinite(value) else None
