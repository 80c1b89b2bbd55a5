"""The columns of a life's dataset of frames, and of the geometry kept beside it, as `datasets` types them."""

from datasets import Array2D, Features, Image, List, Value

# Every prepared life has these.
COLUMNS = Features(
    {
        "image": Image(),
        "timestamp": Value("float64"),
        "video": Value("string"),
        "frame_index": Value("int64"),
    }
)
# These are there where they are known.
OPTIONAL_COLUMNS = Features(
    {
        "pose": Array2D((4, 4), "float64"),
        "intrinsics": List(Value("float64"), length=4),
        "depth": Image(),
    }
)
# A row for each frame, in the folder `geometry`.
GEOMETRY_COLUMNS = Features(
    {
        "pose": Array2D((4, 4), "float64"),
        "intrinsics": List(Value("float64"), length=4),
        "component": Value("int64"),
        "point_ids": List(Value("int64")),
    }
)
