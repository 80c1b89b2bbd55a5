"""A prepared life: its frames on disk as a `datasets` dataset, read a batch at a time."""

import io
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg
import torch
from datasets import Array2D, Dataset, Features, List, Value, load_from_disk
from datasets import Image as ImageFeature
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.registry import METADATA as METADATA

FORMAT_VERSION = 1
GEOMETRY, GEOMETRY_METADATA = "geometry", "geometry.json"  # poses and visible points: a folder beside the frames

# Every prepared life has these columns.
COLUMNS = Features(
    {"image": ImageFeature(), "timestamp": Value("float64"), "video": Value("string"), "frame_index": Value("int64")}
)
# Some lives also have these.
_CAMERA = {"pose": Array2D((4, 4), "float64"), "intrinsics": List(Value("float64"), length=4)}
OPTIONAL_COLUMNS = Features(_CAMERA | {"depth": ImageFeature()})
# The geometry has a row for each frame.
GEOMETRY_COLUMNS = Features(_CAMERA | {"component": Value("int64"), "point_ids": List(Value("int64"))})

_AGAIN = "Delete the folder and prepare the life again."
_MOST_PIXELS = 1 << 26  # a larger frame must be damaged, and is not worth the memory


class PreparedLife:
    """The frames of one life, ordered by video and time.

    Arrow files are memory-mapped, so a life of any length costs no memory, with any number of loader workers.

    Attributes:
        path: its folder, which `datasets.load_from_disk` opens too.
        metadata: how it was made: `name`, `fingerprint`, `frame_rate`, `frame_size`, `pairs_within_video` (False if
            missing, in old lives), `videos` and their `damage`, videos `left_out`, and for simulated lives
            `simulation`, `depth_scale` (length units per level of the stored depth) and `depth_error` (in length
            units; at least 95% of the depths are within it).
        dataset: columns `image` (JPEG), `timestamp` (seconds since the start of its video), `video`, `frame_index`,
            and, if they are known, `pose`, `intrinsics` and `depth` (16-bit PNG).
    """

    def __init__(self, path: Path, metadata: dict[str, Any], dataset: Dataset):
        self.path, self.metadata, self.dataset = path, metadata, dataset
        self._views: dict[str, Dataset] = {}

    @classmethod
    def load(cls, path: str | Path) -> "PreparedLife":
        """Open the folder of a prepared life.

        Raises:
            LifeError: it is not a prepared life, is incomplete, or has another version of the format.
        """
        path = Path(path)
        try:
            metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LifeError(f"{path} is not a prepared life: its {METADATA} cannot be read ({error}).") from error
        version = metadata.get("format_version")
        if version != FORMAT_VERSION:
            raise LifeError(f"{path} was prepared in format {version}; this version reads {FORMAT_VERSION}. {_AGAIN}")
        try:
            dataset = load_from_disk(str(path))
        except Exception as error:  # several libraries raise errors of their own
            raise LifeError(f"{path} cannot be read ({error}). {_AGAIN}") from error
        if len(dataset) != metadata["num_frames"]:
            raise LifeError(f"{path} holds {len(dataset)} frames instead of {metadata['num_frames']}. {_AGAIN}")
        return cls(path, metadata, dataset)

    @property
    def name(self) -> str:
        return self.metadata["name"]

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def timestamps(self) -> np.ndarray:
        """Seconds since the start of each frame's video, float64 (n,)."""
        return self.dataset.data.column("timestamp").to_numpy()

    @cached_property
    def _video_column(self) -> pa.DictionaryArray:
        return self.dataset.data.column("video").combine_chunks().dictionary_encode()

    @cached_property
    def video_index(self) -> np.ndarray:
        """The index in `videos` of each frame's video, int64 (n,)."""
        return self._video_column.indices.to_numpy().astype(np.int64)

    @cached_property
    def videos(self) -> list[str]:
        """Names of the videos, in the order of the frames."""
        return self._video_column.dictionary.to_pylist()

    @cached_property
    def frame_index(self) -> np.ndarray:
        """Number of each frame in its video, int64 (n,)."""
        return self.dataset.data.column("frame_index").to_numpy()

    def encoded(self, indices: Sequence[int] | np.ndarray) -> list[pa.Buffer | None]:
        """Frames as stored, each a whole JPEG file. They are views of the memory-mapped files, not copies."""
        images = self.dataset.data.column("image")
        return [images[row]["bytes"].as_buffer() for row in np.asarray(indices).tolist()]

    def iter_decode(self, indices: Sequence[int] | np.ndarray) -> Iterator[torch.Tensor]:
        """Frames one by one, each uint8 (3, height, width) in its video's size.

        Raises:
            LifeError: a stored image is damaged; the message names the row.
        """
        for row, content in zip(np.asarray(indices).tolist(), self.encoded(indices), strict=True):
            try:
                image = decode_jpeg(content)
            except ValueError as error:
                raise LifeError(f"The image in row {row} of {self.path} is damaged. {_AGAIN}") from error
            yield image

    def decode(self, indices: Sequence[int] | np.ndarray) -> list[torch.Tensor]:
        """All frames of `iter_decode` at once."""
        return list(self.iter_decode(indices))

    def frames(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Frames of one size as a batch, uint8 (k, 3, height, width)."""
        return torch.stack(self.decode(indices))

    def poses(self, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Camera-to-world matrices, float64 (k, 4, 4), axes x right, y down, z forward; or None."""
        return self._array("pose", (4, 4), indices)

    def intrinsics(self, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """fx, fy, cx, cy in pixels of the stored image (its top left corner is 0, 0), float64 (k, 4), or None."""
        return self._array("intrinsics", (4,), indices)

    def depth(self, indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Depth along the camera's axis, float32 (k, height, width), in the poses' unit, 0 where unknown; or None."""
        if "depth" not in self.dataset.column_names:
            return None
        try:
            levels = np.stack([decode_depth(content) for content in self.encoded_depth(indices) or ()])
        except ValueError as error:
            raise LifeError(f"The depth in one of the rows {indices} of {self.path} is damaged. {_AGAIN}") from error
        return levels.astype(np.float32) * np.float32(self.metadata["depth_scale"])

    def encoded_depth(self, indices: Sequence[int] | np.ndarray) -> list[bytes] | None:
        """Depth as stored, each a whole PNG file of 16-bit levels; None if the life has no depth."""
        if "depth" not in self.dataset.column_names:
            return None
        return pc.struct_field(self._rows("depth", indices), "bytes").to_pylist()

    def _array(self, column: str, shape: tuple[int, ...], indices: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """Numbers of one column. (The numpy format of `datasets` would round them to float32.)"""
        if column not in self.dataset.column_names:
            return None
        values = self._rows(column, indices).combine_chunks()
        values = values.storage if isinstance(values, pa.ExtensionArray) else values
        for _ in shape:
            values = values.flatten()
        return values.to_numpy().reshape(-1, *shape)

    def _rows(self, column: str, indices: Sequence[int] | np.ndarray) -> pa.ChunkedArray:
        view = self._views.get(column)
        if view is None:  # making a view takes longer than reading a batch
            view = self._views[column] = self.dataset.select_columns(column).with_format("arrow")
        return view[np.asarray(indices).tolist()][column]


def decode_jpeg(content: pa.Buffer | bytes | None) -> torch.Tensor:
    """The pixels of a JPEG file, as Pillow gives them: uint8 (3, height, width), stored with the channels last.

    Raises:
        ValueError: the file is damaged, larger than any frame, or not a JPEG.
    """
    if content is None:
        raise ValueError("There is no image.")
    encoded = np.frombuffer(content, dtype=np.uint8)
    height, width = simplejpeg.decode_jpeg_header(encoded)[:2]
    if height * width > _MOST_PIXELS:
        raise ValueError(f"An image of {width} x {height} pixels cannot be a frame of a prepared life.")
    return torch.from_numpy(simplejpeg.decode_jpeg(encoded)).permute(2, 0, 1)


def decode_depth(content: bytes) -> np.ndarray:
    """The levels in a 16-bit PNG file, uint16 (height, width).

    Raises:
        ValueError: the file is damaged.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height <= _MOST_PIXELS:
            return np.array(image.convert("I;16"))
    except Exception as error:  # damaged bytes make Pillow raise nearly anything
        raise ValueError("The depth is damaged.") from error
    raise ValueError("The depth is larger than any frame.")
