"""From what a user names to frames with true depth.

What is named is, in this order: a folder with the labelled NYU Depth V2 (`nyu_depth_v2_labeled.mat`); a folder of
ScanNet scenes; a prepared life; a folder with a `datasets` data set; ORG/NAME of one on the Hub; the name of a life.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from singlelife.errors import EvaluationError
from singlelife.evaluation.depth_frames import DepthFrames, DepthOptions
from singlelife.evaluation.depth_protocols import PROTOCOLS
from singlelife.evaluation.depth_readers import SCENE, DatasetDepth, LifeDepth, NyuDepth, ScanNetDepth
from singlelife.evaluation.nyu import LABELED

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[^@]+)?", re.ASCII)


def open_depth(words: Sequence[str], role: str, options: DepthOptions | None = None) -> DepthFrames:
    """The frames that a user names.

    Args:
        words: see above; several are joined, each thinned out to its share.
        role: `"train"` or `"test"`: which split to take where there are several and none is named.
        options: see there.

    Raises:
        EvaluationError, LifeError: there are none, or they cannot be used.
    """
    options = options or DepthOptions()
    parts = []
    for number, word in enumerate(words):
        part = _open(word, role, options)
        if options.protocol:
            part.protocol = PROTOCOLS[options.protocol]
        if options.max_depth:
            part.protocol = replace(part.protocol, max_depth=options.max_depth)
        if options.limit is not None:
            part.thin_out(max(1, options.limit // len(words) + (number < options.limit % len(words))))
        part.check()
        parts.append(part)
    return parts[0] if len(parts) == 1 else _Joined(parts)


def _open(word: str, role: str, options: DepthOptions) -> DepthFrames:
    folder = Path(word).expanduser()
    if (folder / LABELED).is_file():
        return NyuDepth(word, folder, role, options)
    if folder.is_dir() and any(SCENE.fullmatch(path.name) for path in folder.iterdir()):
        return ScanNetDepth(word, folder, role, options)
    if (folder / "metadata.json").is_file():
        return LifeDepth(word, options)
    if folder.is_dir() or _HUB_ID.fullmatch(word):
        return DatasetDepth(word, role, options)
    if len(folder.parts) > 1:
        raise EvaluationError(f"There is nothing to evaluate depth on at {word}: no such folder.")
    return LifeDepth(word, options)


class _Joined(DepthFrames):
    """Several sources, one after the other."""

    def __init__(self, parts: list[DepthFrames]):
        protocols = {part.protocol for part in parts}
        if len(protocols) > 1:
            raise EvaluationError(
                f"{', '.join(part.name for part in parts)} have different protocols "
                f"({', '.join(sorted(protocol.name for protocol in protocols))}). Choose one with --protocol."
            )
        super().__init__(
            " + ".join(part.name for part in parts),
            " ".join(part.identity for part in parts),
            parts[0].protocol,
            sum(map(len, parts)),
        )
        self.note = "; ".join(dict.fromkeys(part.note for part in parts if part.note))
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])

    def _part(self, row: int) -> tuple[DepthFrames, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[number], row - int(self._starts[number])

    def image(self, row: int) -> torch.Tensor:
        part, index = self._part(row)
        return part.image(int(part.rows[index]))

    def stored_depth(self, row: int) -> np.ndarray:
        part, index = self._part(row)
        return part.stored_depth(int(part.rows[index])).astype(np.float32) * np.float32(part.depth_scale)
