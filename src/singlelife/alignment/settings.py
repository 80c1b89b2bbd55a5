"""The settings of an alignment score, defined once for the command line, Python and YAML."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from singlelife.errors import CheckpointError, PairSetError, SingleLifeError

Views = Literal["plain", "zoomed", "shifted", "even"]
Direction = Literal["target-source", "source-target", "reciprocal", "transposed"]
Maps = Literal["logits", "softmax"]
Sinks = Literal["keep", "mask", "zeroco"]
Patches = Literal["all", "co-visible"]
Method = Literal["cross-attention", "feature-correlation", "decoder-correlation"]
Search = Literal["none", "blocks", "heads"]
BalancedBy = Literal["overlap", "gap", "none"]

ONE_FRAME = ("shifted", "even")  # views that are two cuts of one frame
UNTRAINED = "untrained:"  # starts the name of a model with random weights


def untrained_model(name: str) -> tuple[str, int] | None:
    """The architecture and the seed in `untrained:MODEL[@SEED]`; None for the name of any other model.

    Raises:
        CheckpointError: the seed is not a whole number.
    """
    if not name.startswith(UNTRAINED):
        return None
    model, _, seed = name.removeprefix(UNTRAINED).rpartition("@")
    if not model:
        return seed, 0
    if not seed.isdigit():
        raise CheckpointError(f"{name}: the seed after '@' should be a whole number, not {seed!r}.")
    return model, int(seed)


@dataclass(frozen=True)
class CasConfig:
    """What a CAS is measured on, and how.

    Raises:
        SingleLifeError: a value is not allowed; the message names its flag.
    """

    pairs: str = "sim_test"
    """The test pairs: a stored pair set (its folder, or ORG/NAME[@REVISION] on the Hub), a folder of images
    NAME_target.png and NAME_source.png, or a life to draw pairs from: its name, its folder, ORG/NAME on the Hub, or
    LIFE/held-out for the stretches that training holds out. real_office (24 pairs from a headset in an office) comes
    with the package."""

    views: Views = "plain"
    """How to cut views from the frames of a life. plain: two frames a moment apart; zoomed: the same, each cut out at
    a random place; shifted: two cuts of one frame; even: the same, with shifts that do not depend on the place. On
    even views, only the patches of the middle half count."""

    num_pairs: int = 384
    """Pairs to draw from a life."""

    image_size: int | None = None
    """Side of the views in pixels. The default is the largest input size of the models."""

    seed: int = 0
    """Seed of the pairs and of the bootstrap."""

    k: tuple[int, ...] = (5,)
    """Strongest matches per patch, from 1 to the number of patches. With several values, the first is the primary k,
    and the scores at the others make a curve."""

    direction: Direction = "target-source"
    """target-source: where each target patch looks in the source; source-target: the views swap roles; reciprocal: the
    mean of the first map and the transpose of the second; transposed: the first map, read down its columns."""

    maps: Maps = "logits"
    """logits: average the logits of the heads; softmax: average the heads after their softmax."""

    sinks: Sinks = "keep"
    """mask: leave out the source patches that a model looks at whatever the views show; zeroco: set the first source
    patch to the minimum of the map in each block, as ZeroCo does."""

    patches: Patches = "all"
    """co-visible: count only patches whose true match is known, which means that the other view shows it."""

    layers: tuple[int, ...] | None = None
    """Blocks to take the maps from, counted from 0, or from -1 backwards. The default is all decoder blocks for
    cross-attention, and the last block for features."""

    method: Method | None = None
    """How to make the maps. The default is the cross-attention of a CroCo, and the feature correlation of any other
    model."""

    search: Search = "none"
    """blocks, heads: for two models, also score each block or head of A against each of B, at the primary k."""

    batch_size: int = 64
    """Pairs per batch."""

    device: str = "auto"
    """Where the models run; auto takes a GPU if there is one."""

    cache_dir: Path | None = None
    """Where prepared lives and extractions are kept. The default is $SINGLELIFE_CACHE or ~/.cache/singlelife."""

    progress: bool = True
    """Show progress bars on stderr."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", str(self.pairs))
        for name in ("k", "layers"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, int) else tuple(value))
        choices: dict[str, Any] = {"views": Views, "direction": Direction, "maps": Maps, "sinks": Sinks}
        choices |= {"patches": Patches, "method": Method, "search": Search}
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


@dataclass(frozen=True)
class PairSetConfig:
    """How a pair set is drawn from lives.

    Raises:
        PairSetError: a value is not allowed; the message names its flag.
    """

    by: BalancedBy | None = None
    """What to balance the pairs by. overlap: the share of 3D points that both frames see, at any gap; gap: the time
    between the frames; none: pairs a moment apart (default: overlap if poses are known, otherwise gap)."""

    bins: tuple[float, ...] | None = None
    """Edges of the bins, ascending; gaps are in seconds (default: 0.1 0.3 0.5 0.7 of overlap, 0.1 0.3 1 3 of gap)."""

    num_pairs: int = 600
    """Pairs in all, shared evenly among lives and bins. The first ones get the remainder."""

    views: Views = "plain"
    """plain: the middle square of each frame; zoomed: a square with 0.3 to 0.7 of its area, at a random place;
    shifted: two cuts of one frame, with 0.55 of its side, so that true matches lie far apart and are known exactly;
    even: the same, but the second cut is at most a quarter of its side away, and true matches are known only in the
    middle half of the target. All shifts are equally likely for each of these patches, so a patch's place says nothing
    about its shift. In a wide frame, both cuts lie in one square."""

    image_size: int = 224
    """Side of the views in pixels."""

    seed: int = 0
    """Seed of the draw."""

    min_baseline: float = 1 / 16
    """If depth is known: the minimum distance between the two cameras, as a share of the median depth that the target
    sees, so that it means the same in metres and in game units. A pair whose camera turns by 4 degrees or more is
    taken at any distance. 0 takes all pairs."""

    def __post_init__(self) -> None:
        for name, choice in (("views", Views), ("by", BalancedBy)):
            if (value := getattr(self, name)) not in (*get_args(choice), *([None] if name == "by" else [])):
                raise PairSetError(f"--{name} {value}: it should be one of {', '.join(get_args(choice))}.")
        for name in ("num_pairs", "image_size"):
            if getattr(self, name) < 1:
                raise PairSetError(f"--{name.replace('_', '-')} {getattr(self, name)}: it should be at least 1.")
        if not 0 <= self.seed < 2**63:
            raise PairSetError(f"--seed {self.seed}: it should be from 0 to 2^63 - 1.")
        if not 0 <= self.min_baseline < float("inf"):
            raise PairSetError(f"--min-baseline {self.min_baseline:g}: it should be 0 or above.")
        if self.views in ONE_FRAME and self.by not in (None, "none"):
            raise PairSetError(f"--by {self.by}: leave it out, since {self.views} views are cut from one frame.")
        if self.bins is None:
            return
        object.__setattr__(self, "bins", tuple(map(float, self.bins)))
        if self.views in ONE_FRAME or self.by == "none":
            raise PairSetError("--bins: these pairs are not balanced. Choose --by overlap or --by gap.")
        most, edges = 1.0 if self.by == "overlap" else float("inf"), self.bins
        if len(edges) < 2 or edges[0] <= 0 or edges[-1] > most or list(edges) != sorted(set(edges)):
            limits = "above 0; at most 1 for overlap, in seconds for gaps"
            raise PairSetError(f"--bins {' '.join(map(str, edges))}: give two or more ascending edges {limits}.")
