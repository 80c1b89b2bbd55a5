"""Extractions on disk, so that a model is run once on a pair set, whoever asks.

The name of a file is the SHA-256 of all that its content follows from: the weights, the method, the blocks, the pair
set, the settings and the format. So nothing in the cache is ever out of date, and any of it may be deleted. Files are
written aside and renamed: two processes that extract the same leave one of two equal files.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from singlelife.alignment.attention import AttentionMapProvider
from singlelife.alignment.extraction import EXTRACTION_FORMAT, Extraction, extract
from singlelife.alignment.pair_sets import PairSet
from singlelife.files import atomic_write
from singlelife.lives.prepare import default_cache_dir


class Weights(Protocol):
    """What of a model its extractions follow from; see [`AttentionMapProvider`]."""

    @property
    def revision(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def layers(self) -> tuple[int, ...]: ...


class ExtractionCache:
    """The extractions of any models on one pair set, at one setting.

    Args:
        pairs: the pair set.
        grid, direction, sinks: see `extract`.
        cache_dir: `$SINGLELIFE_CACHE` or `~/.cache/singlelife` by default; they are in its folder `alignment`.
    """

    def __init__(
        self,
        pairs: PairSet,
        *,
        grid: tuple[int, int],
        direction: str = "target-source",
        sinks: str = "keep",
        cache_dir: Path | None = None,
    ):
        self.folder = Path(cache_dir or default_cache_dir()) / "alignment"
        self._pairs, self._pairs_hash = pairs, pairs.hash
        self._grid, self._direction, self._sinks = grid, direction, sinks

    def path(self, model: Weights, k: int) -> Path:
        """Where a model's extraction is or will be."""
        key = {
            "format": EXTRACTION_FORMAT,
            "revision": model.revision,
            "method": model.method,
            "layers": model.layers,
            "pairs": self._pairs_hash,
            "k": k,
            "grid": self._grid,
            "direction": self._direction,
            "sinks": self._sinks,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest}.safetensors"

    def missing(self, model: Weights, ks: Sequence[int]) -> list[int]:
        """The ks at which a model has no extraction that can be read. A damaged one counts as none."""

        def is_whole(k: int) -> bool:
            try:
                Extraction.load(self.path(model, k))
            except ValueError:
                return False
            return True

        return [k for k in ks if not is_whole(k)]

    def fill(
        self, model: AttentionMapProvider, ks: Sequence[int], *, batch_size: int = 64, progress: bool = True
    ) -> None:
        """Run a model, once, and keep its extractions.

        Raises:
            CheckpointError, PairSetError, LifeError: see `extract`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        found = extract(
            model,
            self._pairs,
            ks,
            grid=self._grid,
            direction=self._direction,
            sinks=self._sinks,
            batch_size=batch_size,
            progress=progress,
            folder=self.folder,
        )
        for k, extraction in found.items():
            with atomic_write(self.path(model, k)) as aside:
                extraction.save(aside)

    def load(self, model: Weights, k: int) -> Extraction:
        """An extraction that is here.

        Raises:
            ValueError: it is not.
        """
        return Extraction.load(self.path(model, k))
