"""Settings of the evaluations, shared by Python and the command line, where each field is a flag. Imports no torch."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from singlelife.alignment.settings import Method
from singlelife.errors import EvaluationError

# Fields that no number depends on, and fields that name the data.
_NO_SETTINGS = {"baselines", "device", "cache_dir", "progress", "train", "test", "data"}


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The settings that all evaluations share."""

    baselines: bool = True
    """also measure an untrained model of each architecture, and baselines that need no model"""
    device: str = "auto"
    """where the models run: auto, cpu, cuda, cuda:1, mps"""
    cache_dir: Path | None = None
    """where prepared lives and features are kept, instead of $SINGLELIFE_CACHE or ~/.cache/singlelife"""
    progress: bool = True
    """show progress bars"""

    def settings(self, *left_out: str) -> dict[str, Any]:
        """The fields that numbers depend on, as JSON values, without those that are None or `left_out`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None and name not in _NO_SETTINGS | set(left_out)
        }

    def _check_above_zero(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise EvaluationError(f"--{name.replace('_', '-')} {value}: it should be above 0.")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(EvaluationConfig):
    """How probes are trained: AdamW (betas 0.9, 0.999), warm-up for a twentieth of the steps, then a half cosine to 0.

    Raises:
        EvaluationError: a number is not above 0.
    """

    probe: Literal["attentive", "wide", "small", "linear"] = "attentive"
    """attentive: learned queries and one cross-attention block, wide for encoders with 768 channels or more and small
    for others; wide: 1024 channels, 16 heads, a query for each 8 px; small: half the encoder's width, a query for each
    patch; linear: one layer on each token"""
    seeds: int = 3
    """number of probes to train, with the seeds 0, 1, …"""
    epochs: int = 20
    """passes over the training data"""
    learning_rate: float = 1e-3
    """peak learning rate"""
    batch_size: int = 32
    """images per training step, and per batch of the encoder"""

    def __post_init__(self) -> None:
        self._check_above_zero("seeds", "epochs", "learning_rate", "batch_size")


@dataclass(frozen=True, kw_only=True)
class DepthConfig(ProbeConfig):
    """Depth from a probe on a frozen encoder.

    Data can be a life (its name or prepared folder); a folder with `nyu_depth_v2_labeled.mat` and `splits.mat`, with
    scenes of ScanNet, or with a `datasets` data set; or ORG/NAME of a data set on the Hub.

    Raises:
        EvaluationError: a number is not above 0.
    """

    train: tuple[str, ...]
    """frames to train the probe on: lives, NYU Depth V2, ScanNet, or a data set with the columns image and depth"""
    test: tuple[str, ...]
    """frames of other places to test the probe on"""
    train_split: str | None = None
    """split to train on, usually train; for ScanNet a file that lists scenes"""
    test_split: str | None = None
    """split to test on, usually test; for ScanNet a file that lists scenes"""
    num_train: int | None = None
    """train on this many frames, evenly spread, instead of all"""
    num_test: int | None = None
    """test on this many frames, evenly spread, instead of all"""
    depth_scale: float | None = None
    """metres per unit of the stored depth, if the data do not say"""
    depth_column: str | None = None
    """depth column of a data set (default: raw_depth, depth or depth_map)"""
    protocol: Literal["nyu", "scannet", "metric", "simulated"] | None = None
    """which pixels count (default: as usual for the data); nyu has the Eigen crop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_above_zero("num_train", "num_test", "depth_scale")


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig(EvaluationConfig):
    """Zero-shot correspondence.

    Raises:
        EvaluationError: a number is not above 0.
    """

    data: str = "sim_test"
    """the folder of HPatches' sequences, or a life or pair set with known matches"""
    split: Literal["viewpoint", "illumination"] = "viewpoint"
    """which of HPatches' sequences"""
    views: Literal["plain", "zoomed", "shifted"] = "plain"
    """how pairs are cut from a life, see singlelife cas"""
    num_pairs: int = 384
    """pairs to draw from a life"""
    method: Method | None = None
    """what matches are read from (default: the cross-attention of a CroCo, the features of any other model)"""
    layers: tuple[int, ...] | None = None
    """blocks to use, from 0, or from -1 backwards (default: all for cross-attention, otherwise the last)"""
    reciprocal: bool = True
    """average the maps of both directions, so that a match has to hold in both"""
    sinks: Literal["mask", "keep"] | None = None
    """mask: no patch can match the other view's first patch, a sink (default for cross-attention); keep: any can"""
    temperature: float = 1e-4
    """temperature of the soft-argmax"""
    seed: int = 0
    """seed of the drawn pairs and the bootstrap"""
    batch_size: int = 8
    """pairs per batch; memory holds one batch"""

    def __post_init__(self) -> None:
        self._check_above_zero("num_pairs", "temperature", "batch_size")
