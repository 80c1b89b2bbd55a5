"""The scores of this Space's models two by two, which `singlelife align` wrote into `results`."""

import json
from functools import cache
from pathlib import Path
from typing import Any

_RESULT = Path(__file__).parent / "results" / "simulated.json"


@cache
def models() -> tuple[str, ...]:
    """The models, in the order of the matrix."""
    return tuple(_read()["models"])


def cells(variant: str) -> dict[str, Any]:
    """The matrix as the element `matrix` takes it.

    Args:
        variant: `"raw"` or `"position_free"`.
    """
    result = _read()
    matrix = result["at_k"][str(result["k"])][variant]
    count = len(result["models"])
    between = [matrix["cas"][i][j] for i in range(count) for j in range(count) if i != j]
    chance = max(matrix["chance"][i][j] for i in range(count) for j in range(count) if i != j)
    return {
        "models": result["models"],
        "scores": matrix["cas"],
        "low": matrix["low"],
        "high": matrix["high"],
        "chance": chance,
        "highest": max(*between, chance + 0.02),
        "caption": f"{'CAS' if variant == 'raw' else 'Position-free CAS'} on {result['num_pairs']} simulated pairs; "
        f"chance {chance:.3f}. Choose a cell to open that pair of models.",
    }


@cache
def _read() -> dict[str, Any]:
    return json.loads(_RESULT.read_text(encoding="utf-8"))
