"""Pictures and videos that visitors upload: of the few formats that are meant, within limits, and gone afterwards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from limits import Limits


def read_picture(path: str | Path, limits: Limits | None = None) -> np.ndarray:
    """A picture, uint8 (H, W, 3), RGB, upright.

    Args:
        path: of a JPEG, PNG or WebP file, by its content, whatever its name.
        limits: the defaults if left out.

    Raises:
        VisitorError: it is none of these, too large, or damaged.
    """
    raise NotImplementedError


def pairs_of_video(
    path: str | Path,
    *,
    gap_seconds: float,
    count: int,
    limits: Limits,
    cancelled: Callable[[], bool] | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of frames of a video, evenly spread over it, uint8 (H, W, 3) each, RGB, upright.

    Args:
        path: of an mp4, mov, webm, mkv or avi file, by its content, whatever its name.
        gap_seconds: from the first frame of a pair to the second.
        count: of pairs; fewer where the video is too short for so many different ones.
        cancelled: whether the visitor has given up; asked often.

    Raises:
        VisitorError: it is none of these, over a limit, too short for the gap, damaged all over, or was given up.
    """
    raise NotImplementedError


def delete_upload(path: str | Path | None) -> None:
    """Delete an uploaded file, and nothing that is not in the folder of uploads. What is gone already is no error."""
    raise NotImplementedError
