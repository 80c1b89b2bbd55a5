"""What a run says: a progress bar, a report at the start and at the end."""

import statistics
import sys
import time
from collections import deque
from typing import Any

from tqdm.auto import tqdm

_ENOUGH_LOSSES = 20


class Progress:
    """The bar of a run on stderr, and the speed since the last line of the metrics.

    Time is that of the steps alone, without validation and saving; the data-wait share is the part of it spent
    waiting for the loader.
    """

    def __init__(self, first_step: int, max_steps: int, batch_size: int, show: bool):
        self.batch_size = batch_size
        self.bar = tqdm(
            initial=first_step,
            total=max_steps,
            unit="step",
            disable=not show,
            mininterval=0.5 if sys.stderr.isatty() else 30,  # a log file need not hold every move of the bar
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        self._recent_losses: deque[float] = deque(maxlen=100)

    def update(self, loss: float, seconds: float, waited: float) -> None:
        """Count a step that took `seconds`, `waited` of them for data."""
        self._steps += 1
        self._seconds += seconds
        self._waited += waited
        self._recent_losses.append(loss)
        speed = self.speed()
        self.bar.set_postfix_str(
            f"loss {sum(self._recent_losses) / len(self._recent_losses):.4f}, "
            f"{speed['pairs_per_second']:.0f} pairs/s, data wait {speed['data_wait']:.0%}",
            refresh=False,
        )
        self.bar.update()

    def skip(self) -> None:
        """Count a step that changed nothing."""
        self.bar.update()

    def usual_loss(self) -> float | None:
        """The median of the last losses, or None where there are too few to tell."""
        return statistics.median(self._recent_losses) if len(self._recent_losses) >= _ENOUGH_LOSSES else None

    def speed(self) -> dict[str, float]:
        """Pairs per second, and the share of the time spent waiting for data, since the last `restart`."""
        return {
            "pairs_per_second": round(self._steps * self.batch_size / max(self._seconds, 1e-9), 2),
            "data_wait": round(self._waited / max(self._seconds, 1e-9), 4),
        }

    def restart(self) -> None:
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def say(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if not self.bar.disable:
            tqdm.write(text)

    def close(self) -> None:
        self.bar.close()


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self._start


def table(rows: dict[str, Any]) -> str:
    """Names and values, aligned."""
    width = max(map(len, rows)) + 2
    return "\n".join(f"  {name:<{width}}{value}" for name, value in rows.items())
