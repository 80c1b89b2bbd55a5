"""Compare two models on pairs of views: the scores of `singlelife.alignment`, and the logits that the page draws.

A `Bench` runs each model once on each pair set, keeps what it computed within bounds, and serves many visitors.
"""

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from limits import Limits, Request, VisitorError, memory_errors_for_visitors
from models import open_model

from singlelife.alignment.comparison import CasResult, coarser, compare_extractions
from singlelife.alignment.extraction import Extraction, check_ks, extract
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.null import FEW_PAIRS
from singlelife.alignment.pair_sets import PairSet, pair_set_of_images
from singlelife.alignment.score import agreement, centre, resample, select_top_k
from singlelife.alignment.settings import CasConfig
from singlelife.files import shipped_pair_set

BUILT_IN_PAIRS = ("simulated", "real_office")
REFERENCE = "simulated"  # pairs for the centred score where the visitor's own are too few
UNTRAINED = ("untrained:tiny@1", "untrained:tiny@2")  # architecture and seed
K = 5

_HERE = Path(__file__).resolve().parent
_OWN = "your own"  # the name of a visitor's pairs
_MOST_PATCHES = 1024  # of a view: the maps of a pair grow with its square
_KEPT_LOGITS = 16 << 20  # bytes of each model on each pair set
_KEPT_RUNS = 20
_KEPT_RESULTS = 64

Views = tuple[np.ndarray, np.ndarray]  # target and source, uint8 (H, W, 3), RGB


@dataclass(frozen=True, eq=False)
class Run:
    """A model on a pair set of P pairs."""

    extraction: Extraction
    """The model's top-k sets and mean map."""
    logits: np.ndarray
    """Logits of the first p pairs, float32 (p, N, N)."""


@dataclass(frozen=True, eq=False)
class Result:
    """Two models on one pair set."""

    models: tuple[str, str]
    """As the visitor named them."""
    pairs: PairSet
    comparison: CasResult
    """The scores on the pairs."""
    reference: CasResult
    """The scores on enough pairs to centre each model's maps; the same object where the pairs are enough."""
    runs: tuple[Run, Run]
    """Of A and B on the pairs."""

    def per_pair(self) -> np.ndarray:
        """The raw CAS of each pair, float64 (P,); NaN where no patch has a top k."""
        return agreement(self.runs[0].extraction.raw, self.runs[1].extraction.raw, self.comparison.k)

    def look(self, pair: int, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """The logits of A and B in one pair, float32 (2, N, N), and their top-k sets, uint64 (2, N, words). In rows
        that are not scored, the first of equal logits win."""
        logits, k = np.stack([run.logits[pair] for run in self.runs]), self.comparison.k
        if centred:
            both = zip(logits, self.reference.centring, strict=True)
            logits = np.stack([centre(each, *of_model) for each, of_model in both])
        drawn = select_top_k(logits, [k], ties="first")[k]
        if centred and self.reference is not self.comparison:
            return logits, drawn
        sets = np.stack([getattr(run.extraction, "centred" if centred else "raw")[pair] for run in self.runs])
        return logits, np.where(sets.any(axis=-1, keepdims=True), sets, drawn)

    @cached_property
    def true_match(self) -> np.ndarray:
        """The true match of each target patch, int64 (P, N); -1 if unknown."""
        return self.pairs.true_match(self.comparison.grid).numpy()


class Bench:
    """Compares models for many visitors at once, and keeps a limited number of results.

    Args:
        limits: what a visitor may ask for.
        local: folders of this machine can be named as models.
    """

    def __init__(self, limits: Limits, *, local: bool = False):
        self.limits, self.local = limits, local
        self._runs: OrderedDict[tuple[Any, ...], Run] = OrderedDict()
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()
        self._built_in = threading.Lock()  # visitors who come at the same time wait for one run

    def example(self, a: str, b: str, pairs: str = REFERENCE, k: int = K) -> tuple[str, Result]:
        """The result of two built-in models on built-in pairs, and the name to find it by, which never changes.

        Raises:
            VisitorError: there is no such model or pair set.
        """
        for name in (a, b):
            if not is_built_in(name):
                raise VisitorError(f"{name} does not come with this page. Choose from {', '.join(built_in_models())}.")
        token = f"{a}|{b}|{pairs}|{k}"
        with self._built_in:
            found = self.find(token) or self.compare(a, b, built_in_pairs(pairs), k=k)
            return self.keep(found, token), found

    def compare(
        self, a: str, b: str, pairs: PairSet | Sequence[Views], *, k: int = K, request: Request | None = None
    ) -> Result:
        """Compare two models.

        Args:
            pairs: built-in ones, or a visitor's own.
            request: the request that asks for it, checked between steps.

        Raises:
            Cancelled: the visitor has given up.
            VisitorError, SingleLifeError: a model or the pairs cannot be used.
        """
        a, b = (a or "").strip(), (b or "").strip()
        if not (a and b):
            raise VisitorError("Name two models: each from the list, or ORG/NAME on the Hub.")
        request = request or Request(self.limits)
        with memory_errors_for_visitors():
            request.check()
            models = [self._open(each, request) for each in (a, b)]
            grid = coarser([model.grid for model in models])
            if (count := grid[0] * grid[1]) > _MOST_PATCHES:
                raise VisitorError(
                    f"These models split a view into {count:,} patches; the limit here is {_MOST_PATCHES:,}."
                )
            check_ks([k], grid)
            reference = built_in_pairs(REFERENCE)
            if not isinstance(pairs, PairSet):
                views = [(_channels_first(target), _channels_first(source)) for target, source in pairs]
                pairs = pair_set_of_images(_OWN, views, len(views), max(model.image_size for model in models))

            def compared(on: PairSet) -> tuple[CasResult, tuple[Run, Run]]:
                first, second = (
                    self._run(model, name, on, k, grid, request) for model, name in zip(models, (a, b), strict=True)
                )
                config = CasConfig(k=(k,))
                scores = compare_extractions({k: [first.extraction, second.extraction]}, on, config)
                return scores, (first, second)

            comparison, runs = compared(pairs)
            enough = pairs.hash == reference.hash or len(pairs) >= FEW_PAIRS
            return Result((a, b), pairs, comparison, comparison if enough else compared(reference)[0], runs)

    def keep(self, result: Result, token: str | None = None) -> str:
        """Keep a result until many others have come. Returns the name to find it by, by default a random one."""
        token = token or uuid.uuid4().hex
        with self._lock:
            self._results[token] = result
            while len(self._results) > _KEPT_RESULTS:
                self._results.popitem(last=False)
        return token

    def find(self, token: str | None) -> Result | None:
        """The result with a name, if it is still here."""
        with self._lock:
            return self._results.get(token or "")

    def forget(self, token: str | None) -> None:
        """Drop a result. Examples stay, since they show nothing of a visitor."""
        with self._lock:
            if "|" not in (token or ""):
                self._results.pop(token or "", None)

    def _open(self, name: str, request: Request) -> AttentionMapProvider:
        if is_built_in(name):
            return _shipped(name)
        request.tell(f"Opening {name}")
        return open_model(name, request, local=self.local)

    def _run(
        self, model: AttentionMapProvider, name: str, pairs: PairSet, k: int, grid: tuple[int, int], request: Request
    ) -> Run:
        key = (model.revision, model.method, model.layers, pairs.hash, k, grid)
        with self._lock:
            found = self._runs.get(key)
            if found:
                self._runs.move_to_end(key)
        if found is None:
            watched = _Watched(model, grid, lambda done: request.tell(f"Running {name}", done / len(pairs)))
            batch = 64 if model.image_size <= 64 else 8
            extraction = extract(watched, pairs, [k], grid=grid, batch_size=batch, progress=False)[k]
            found = Run(extraction, np.concatenate(watched.kept))
            if pairs.name != _OWN:
                with self._lock:
                    self._runs[key] = found
                    while len(self._runs) > _KEPT_RUNS:
                        self._runs.popitem(last=False)
        return replace(found, extraction=replace(found.extraction, model=name))


class _Watched:
    """A model that reports how many pairs are done and keeps the logits of the first pairs."""

    def __init__(self, model: AttentionMapProvider, grid: tuple[int, int], report: Callable[[int], None]):
        self._model, self._grid, self._report, self._done = model, grid, report, 0
        self._room = max(1, _KEPT_LOGITS // ((grid[0] * grid[1]) ** 2 * 4))  # pairs
        self.kept: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        self._report(self._done)
        logits = self._model.logits(target, source)
        if self._done < self._room:
            first = logits[: self._room - self._done]
            self.kept.append(resample(first, self._model.grid, self._grid).float().numpy())
        self._done += len(logits)
        return logits


def built_in_models() -> list[str]:
    """The names of the models of this Space, trained and untrained."""
    return [*sorted(path.parent.name for path in _HERE.glob("models/*/config.json")), *UNTRAINED]


def is_built_in(*names: str) -> bool:
    """Whether all models come with this Space, so nothing has to be downloaded."""
    return set(names) <= set(built_in_models())


@cache
def built_in_pairs(name: str) -> PairSet:
    """A pair set that comes with this Space.

    Raises:
        VisitorError: there is none with that name.
    """
    if name not in BUILT_IN_PAIRS:
        raise VisitorError(f"There are no pairs {name!r}. Choose {' or '.join(BUILT_IN_PAIRS)}.")
    return PairSet.load(shipped_pair_set(name) or _HERE / "pairs" / name)


def _channels_first(picture: np.ndarray) -> torch.Tensor:
    return torch.tensor(picture).permute(2, 0, 1)


@cache
def _shipped(name: str) -> AttentionMapProvider:
    return load_model(name if name in UNTRAINED else str(_HERE / "models" / name))
