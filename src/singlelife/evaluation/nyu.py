"""The owners' two files of NYU Depth V2."""

from pathlib import Path
from typing import Any

import numpy as np

from singlelife.errors import EvaluationError

LABELED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"


def open_labeled(path: Path) -> Any:
    """The labelled frames, an HDF5 file. MATLAB stores the last axis first: images (n, 3, w, h), depths (n, w, h).

    Raises:
        OSError: it is no such file, or cut off.
        EvaluationError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py") from error
    return h5py.File(path, "r")


def read_splits(path: Path, num_frames: int) -> dict[str, list[int]]:
    """The frames of `train` and `test`, from 0, of the official split's file.

    Raises:
        EvaluationError: it cannot be read, or names frames that do not exist, or one in both; or scipy is missing.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise _missing("scipy") from error
    try:
        content = loadmat(path, variable_names=["trainNdxs", "testNdxs"])
        splits = {name: np.sort(content[f"{name}Ndxs"].astype(np.int64).ravel() - 1) for name in ("train", "test")}
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise EvaluationError(f"{path}: cannot be read as the official split ({error})") from error
    both = np.concatenate(list(splits.values()))
    if len(np.unique(both)) < len(both) or (both < 0).any() or (both >= num_frames).any():
        raise EvaluationError(f"{path}: its frames should be 1 to {num_frames}, each once")
    return {name: indices.tolist() for name, indices in splits.items()}


def _missing(package: str) -> EvaluationError:
    return EvaluationError(f"This needs {package}, which is not installed: pip install 'singlelife[evaluation]'.")
