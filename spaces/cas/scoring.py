"""What is computed: two models on pairs of views, each once, and kept for whoever asks for the same.

The scores are those of `singlelife.alignment`. This adds how far the work is, how it is stopped, how long its results
are kept, and what the pictures need beside the scores: the logits of the pairs that can be looked at.
"""

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limits import Cancelled, Limits, VisitorError, deadline, memory_guard
from models import embedded_models, open_model
from PIL import Image
from reading import reading

from singlelife.alignment.comparison import CasResult, coarser, compare_extractions
from singlelife.alignment.extraction import Extraction, agreement, extract, position_sets
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.pair_sets import PairSet, pair_set_of_images
from singlelife.alignment.score import common_per_pair, holds, resample, select_top_k

_HERE = Path(__file__).parent

BUILT_IN_PAIRS = ("simulated", "motorway")
REFERENCE = "simulated"  # on whose pairs the position-free score is taken where the visitor's own are too few
UNTRAINED = ("untrained:tiny@1", "untrained:tiny@2")  # architecture and seed; what a model scores that knows nothing
K = 5

_MOST_PATCHES = 1024  # of a view: the maps of a pair grow with the square of it
_LONGEST_SIDE = 2048  # pixels
_KEPT_LOGITS = 16 << 20  # bytes of each model on each pair set
_KEPT_RUNS = 512 << 20  # bytes
_KEPT_RESULTS = 64
_KEPT_FOR = 30 * 60.0  # seconds

closing = threading.Event()  # the app ends: comparisons stop at their next step

Report = Callable[[str, float | None], None]  # what is being done, and the share of it that is
Check = Callable[[], None]  # raises what should stop the work
View = tuple[torch.Tensor, torch.Tensor]  # target and source, uint8 (3, H, W)


@dataclass(frozen=True)
class Named:
    """A model as a visitor names it: of this Space, on the Hub, or a folder where those are open."""

    name: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


@dataclass(frozen=True, eq=False)
class Run:
    """A model on a pair set of P pairs.

    Attributes:
        extraction: its top-k sets and its mean map.
        logits: of the first pairs, as many as are kept, float32 (p, N, N).
    """

    extraction: Extraction
    logits: np.ndarray

    @property
    def size(self) -> int:
        sets = self.extraction
        return self.logits.nbytes + sets.raw.nbytes + sets.position_free.nbytes + sets.mean_map.nbytes


@dataclass(frozen=True, eq=False)
class Result:
    """What a visitor sees of two models.

    Attributes:
        models: as they were named.
        pairs: the views.
        comparison: the scores on them.
        reference: the scores on the built-in pairs, of which there are enough to take each model's habits away; the
            same object where these are the pairs.
        runs: of A and B on the pairs.
        habits: each model's mean map over the reference, float32 (N, N).
    """

    models: tuple[Named, Named]
    pairs: PairSet
    comparison: CasResult
    reference: CasResult
    runs: tuple[Run, Run]
    habits: tuple[np.ndarray, np.ndarray]

    @cached_property
    def per_pair(self) -> np.ndarray:
        """The CAS of each pair, float64 (P,)."""
        return agreement(self.runs[0].extraction, self.runs[1].extraction, "raw")

    @cached_property
    def per_pair_position_free(self) -> np.ndarray | None:
        """The position-free CAS of each pair; None where the pairs are too few to know the models' habits by."""
        if self.reference is not self.comparison:
            return None
        return agreement(self.runs[0].extraction, self.runs[1].extraction, "position_free")

    @cached_property
    def same_place(self) -> float | None:
        """Of the matches that A and B share, those which a model that looks at the same place has too, 0 to 1; None
        where they share none."""
        a, b = (run.extraction for run in self.runs)
        shared = int(common_per_pair(a.raw, b.raw).sum())
        placed = int(common_per_pair(a.raw & b.raw, position_sets(a.grid, a.k)).sum())
        return placed / shared if shared else None

    @property
    def num_looks(self) -> int:
        """How many of the pairs can be looked at."""
        return len(self.runs[0].logits)

    def look(self, pair: int, position_free: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where A and B look in one pair, float32 (2, N, N), and the sets that are scored, uint64 (2, N, words)."""
        logits = np.stack([run.logits[pair] for run in self.runs])
        if not position_free:
            return logits, np.stack([run.extraction.raw[pair] for run in self.runs])
        logits = logits - np.stack(self.habits)
        if self.reference is self.comparison:
            return logits, np.stack([run.extraction.position_free[pair] for run in self.runs])
        return logits, select_top_k(logits, [self.comparison.k])[self.comparison.k]

    @cached_property
    def true_match(self) -> np.ndarray:
        """The source patch that shows what each target patch shows, int64 (P, N); -1 where not known."""
        return self.pairs.true_match(self.comparison.grid).numpy()

    def truth_of_pair(self, pair: int) -> tuple[float, float] | None:
        """How often A and B have the true match in one pair; None where none is known."""
        match = self.true_match[pair]
        (known,) = np.nonzero(match >= 0)
        if not len(known):
            return None
        shares = [
            holds(run.extraction.raw, np.full_like(known, pair), known, match[known]).mean() for run in self.runs
        ]
        return float(shares[0]), float(shares[1])

    def table(self) -> list[dict[str, Any]]:
        """A row for each pair."""
        rows = []
        for pair, cas in enumerate(self.per_pair):
            truth = self.truth_of_pair(pair)
            row = {"pair": pair + 1, "cas": float(cas)}
            if self.per_pair_position_free is not None:
                row["position_free"] = float(self.per_pair_position_free[pair])
            for name, values in (("gap", self.pairs.gap), ("overlap", self.pairs.overlap)):
                if values is not None and not np.isnan(values[pair]):
                    row[name] = float(values[pair])
            if truth:
                row |= {"true_match_a": truth[0], "true_match_b": truth[1]}
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it: the fields of `singlelife cas --json`, and what this page adds to them."""
        own = self.reference is self.comparison
        return self.comparison.to_dict() | {
            "reading": reading(self),
            "same_place": self.same_place,
            "per_pair": self.table(),
            "position_free_reference": None if own else self.reference.to_dict(),
        }


class Bench:
    """Where models are compared: it keeps what was computed for a while, within bounds, and is used by many at once.

    Args:
        limits: what a visitor may ask for.
        local: whether folders of this machine can be named.
    """

    def __init__(self, limits: Limits, *, local: bool = False):
        self.limits, self.local = limits, local
        self._runs: OrderedDict[tuple[Any, ...], Run] = OrderedDict()
        self._results: OrderedDict[str, tuple[float, Result]] = OrderedDict()
        self._lock = threading.Lock()
        self._built_in = threading.Lock()  # so that many who come at once wait for one run instead of making many

    def example(self, a: str, b: str, pairs: str = REFERENCE, k: int = K) -> tuple[str, Result]:
        """The result of two models of this Space on pairs of it, under a name that does not change.

        Raises:
            VisitorError: there are no such models or pairs.
        """
        known = [*embedded_models(), *UNTRAINED]
        for name in (a, b):
            if name not in known:
                raise VisitorError(f"{name} is not one of the models of this page: {', '.join(known)}.")
        token = f"{a}|{b}|{pairs}|{k}"
        with self._built_in:
            found = self.find(token)
            if found is None:
                found = self.compare(Named(a), Named(b), built_in_pairs(pairs), k=k)
                self._keep(token, found)
        return token, found

    def is_example(self, *models: Named) -> bool:
        """Whether all models are of this Space, so that nothing needs to be fetched."""
        return all(not each.revision and each.name in (*embedded_models(), *UNTRAINED) for each in models)

    def compare(
        self,
        a: Named,
        b: Named,
        pairs: PairSet | Sequence[View],
        *,
        k: int = K,
        report: Report = lambda what, share: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Result:
        """Compare two models.

        Args:
            pairs: built-in ones, or a visitor's own.
            k: of the top k.
            report: is told what is being done.
            cancelled: is asked between steps.

        Raises:
            Cancelled: it said so.
            VisitorError, SingleLifeError: a model or the pairs cannot be used.
        """
        if not (a.name and b.name):
            raise VisitorError("Which two models? Name one of this page, or ORG/NAME on the Hub, for A and for B.")
        with deadline(self.limits.request_seconds) as clock, memory_guard(self.limits) as memory:

            def check() -> None:
                if cancelled() or closing.is_set():
                    raise Cancelled("Cancelled.")
                clock.check()
                memory.check()

            return self._compare(a, b, pairs, k, report, check, cancelled)

    def _compare(
        self,
        a: Named,
        b: Named,
        pairs: PairSet | Sequence[View],
        k: int,
        report: Report,
        check: Check,
        cancelled: Callable[[], bool],
    ) -> Result:
        models = [self._open(each, report, check, cancelled) for each in (a, b)]
        grid = coarser([model.grid for model in models])
        count = grid[0] * grid[1]
        if count > _MOST_PATCHES:
            raise VisitorError(
                f"These models cut a view into {count:,} patches, and this page compares up to {_MOST_PATCHES:,}. "
                "Choose a model of larger patches or smaller images, or run singlelife cas on your own machine."
            )
        if not 1 <= k <= count:
            raise VisitorError(f"k should be from 1 to the number of patches, {count}; not {k}.")
        reference = built_in_pairs(REFERENCE)
        if not isinstance(pairs, PairSet):
            size = max(model.image_size for model in models)
            pairs = pair_set_of_images("your pairs", pairs, len(pairs), size)

        def compared(on: PairSet) -> tuple[CasResult, tuple[Run, Run]]:
            first, second = (
                self._run(model, str(named), on, k, grid, report, check)
                for model, named in zip(models, (a, b), strict=True)
            )
            comparison = compare_extractions({k: first.extraction}, {k: second.extraction}, on, ks=[k])
            return comparison, (first, second)

        comparison, runs = compared(pairs)
        enough = pairs.hash == reference.hash or len(pairs) >= len(reference)
        of_reference = (comparison, runs) if enough else compared(reference)
        habits = tuple(run.extraction.mean_map for run in of_reference[1])
        return Result((a, b), pairs, comparison, of_reference[0], runs, (habits[0], habits[1]))

    def keep(self, result: Result) -> str:
        """Keep a result for half an hour, if not too many others come. Returns the name to find it by."""
        token = uuid.uuid4().hex
        self._keep(token, result)
        return token

    def find(self, token: str | None) -> Result | None:
        """The result of a name, if it is still here."""
        with self._lock:
            since, found = self._results.get(token or "", (0.0, None))
            return found if self.is_of_all(token) or time.monotonic() - since < _KEPT_FOR else None

    def forget(self, token: str | None) -> None:
        """Drop a result of a visitor's own pairs."""
        with self._lock:
            if token and not self.is_of_all(token):
                self._results.pop(token, None)

    @staticmethod
    def is_of_all(token: str | None) -> bool:
        """Whether a result is an example, which shows nothing of any visitor."""
        return "|" in (token or "")

    def _keep(self, token: str, result: Result) -> None:
        with self._lock:
            self._results[token] = (time.monotonic(), result)
            while len(self._results) > _KEPT_RESULTS:
                self._results.popitem(last=False)

    def _open(self, named: Named, report: Report, check: Check, cancelled: Callable[[], bool]) -> AttentionMapProvider:
        check()
        if self.is_example(named):
            return _shipped(named.name)
        report(f"Opening {named}", None)
        return open_model(
            named.name,
            named.revision or None,
            limits=self.limits,
            progress=report,
            cancelled=cancelled,
            local=self.local,
        )

    def _run(
        self,
        model: AttentionMapProvider,
        name: str,
        pairs: PairSet,
        k: int,
        grid: tuple[int, int],
        report: Report,
        check: Check,
    ) -> Run:
        key = (model.revision, model.method, model.layers, pairs.hash, k, grid)
        with self._lock:
            found = self._runs.get(key)
            if found:
                self._runs.move_to_end(key)
        if found is None:
            watched = _Watched(model, grid, len(pairs), lambda share: report(f"Running {name}", share), check)
            batch = 64 if model.image_size <= 64 else 8
            extraction = extract(watched, pairs, [k], grid=grid, batch_size=batch, progress=False)[k]
            found = Run(extraction, watched.kept())
            if pairs.name != "your pairs":
                self._keep_run(key, found)
        return replace(found, extraction=replace(found.extraction, model=name))

    def _keep_run(self, key: tuple[Any, ...], run: Run) -> None:
        with self._lock:
            self._runs[key] = run
            while sum(each.size for each in self._runs.values()) > _KEPT_RUNS:
                self._runs.popitem(last=False)


@cache
def built_in_pairs(name: str) -> PairSet:
    """One of the pair sets of this Space.

    Raises:
        VisitorError: there is none of that name.
    """
    if name not in BUILT_IN_PAIRS:
        raise VisitorError(f"There are the pairs {' and '.join(BUILT_IN_PAIRS)}, not {name!r}.")
    return PairSet.load(_HERE / "pairs" / name)


@cache
def _shipped(name: str) -> AttentionMapProvider:
    return load_model(name if name in UNTRAINED else str(embedded_models()[name]))


class _Watched:
    """A model that tells how far it is, stops when it should, and keeps the first of its logits."""

    def __init__(
        self,
        model: AttentionMapProvider,
        grid: tuple[int, int],
        num_pairs: int,
        report: Callable[[float], None],
        check: Check,
    ):
        self._model, self._num_pairs, self._report, self._check = model, num_pairs, report, check
        self._grid, self._done = grid, 0
        self._kept: list[np.ndarray] = []
        self._room = max(1, _KEPT_LOGITS // ((grid[0] * grid[1]) ** 2 * 4))  # pairs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        self._check()
        self._report(self._done / self._num_pairs)
        logits = self._model.logits(target, source)
        if self._done < self._room:
            first = logits[: self._room - self._done]
            self._kept.append(resample(first, self._model.grid, self._grid).float().numpy())
        self._done += len(logits)
        return logits

    def kept(self) -> np.ndarray:
        return np.concatenate(self._kept)


def as_view(picture: np.ndarray) -> torch.Tensor:
    """A picture, uint8 (H, W, 3), as a view, uint8 (3, H, W), no longer than models look at."""
    image = Image.fromarray(picture)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
