"""The settings of an alignment score, written once: the command line, Python and YAML share them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from singlelife.errors import SingleLifeError

Views = Literal["plain", "zoomed", "shifted"]
Direction = Literal["target-source", "source-target", "reciprocal"]
Sinks = Literal["keep", "mask"]
Method = Literal["cross-attention", "feature-correlation", "decoder-correlation"]
Heads = Literal["mean", "each"]


@dataclass(frozen=True)
class CasConfig:
    """What a CAS is measured on, and how.

    Raises:
        SingleLifeError: a value is not allowed; the message names its flag.
    """

    pairs: str = "sim_test"
    """The test pairs: a stored pair set (its folder, or ORG/NAME[@REVISION] on the Hub), a folder of images
    NAME_target.png and NAME_source.png, or a life to draw pairs from: its name, its folder, ORG/NAME on the Hub, or
    LIFE/held-out for the stretches that training holds out."""

    views: Views = "plain"
    """How to cut views from the frames of a life. plain: two frames a moment apart; zoomed: the same, each cut out at
    a random place; shifted: two cuts of one frame."""

    num_pairs: int = 384
    """Pairs to draw from a life."""

    image_size: int | None = None
    """Side of the views in pixels. The default is the largest that a model takes."""

    seed: int = 0
    """Seed of the pairs and of the bootstrap."""

    k: tuple[int, ...] = (5,)
    """Strongest matches per patch, from 1 to the number of patches. With several values, the first is the primary k,
    and the scores at the others make a curve."""

    direction: Direction = "target-source"
    """target-source: where each target patch looks in the source; source-target: the views change roles;
    reciprocal: the mean of the first map and the transpose of the second."""

    sinks: Sinks = "keep"
    """mask: leave out the source patches that a model looks at whatever the views show."""

    layers: tuple[int, ...] | None = None
    """Blocks to take the maps from, counted from 0, or from -1 backwards. The default is all decoder blocks for
    cross-attention, and the last block for features."""

    method: Method | None = None
    """How to make the maps. The default is the cross-attention of a CroCo, and the feature correlation of any other
    model."""

    heads: Heads = "mean"
    """each: also score each head of A against each head of B, at the primary k. For two models."""

    batch_size: int = 64
    """Pairs at once."""

    device: str = "auto"
    """Where the models run: auto takes a GPU where there is one."""

    cache_dir: Path | None = None
    """Where prepared lives and extractions are kept. The default is $SINGLELIFE_CACHE or ~/.cache/singlelife."""

    progress: bool = True
    """Show progress bars on stderr."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", str(self.pairs))
        for name in ("k", "layers"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, int) else tuple(value))
        choices = {"views": Views, "direction": Direction, "sinks": Sinks, "method": Method, "heads": Heads}
        for name, choice in choices.items():
            value, allowed = getattr(self, name), get_args(choice)
            if value not in allowed and not (name == "method" and value is None):
                raise SingleLifeError(f"--{name} {value}: it should be one of {', '.join(allowed)}.")
        for name, least in (("num_pairs", 1), ("image_size", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SingleLifeError(f"--{name.replace('_', '-')} {value}: it should be at least {least}.")
        if not self.k or min(self.k) < 1:
            given = " ".join(map(str, self.k))
            raise SingleLifeError(f"--k {given}: k should be from 1 to the number of patches of a view.")
        if self.layers == ():
            raise SingleLifeError("--layers: name at least one block.")
