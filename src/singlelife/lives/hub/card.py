"""The dataset card of a prepared life: what a visitor of its repository reads, and what the Hub shows of it."""

from importlib.metadata import version
from textwrap import dedent
from typing import Any

from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from singlelife.hub.licenses import license_fields
from singlelife.lives.prepared import PreparedLife

_SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7))
_COLUMNS = {
    "image": "JPEG",
    "timestamp": "seconds since the start of its video",
    "video": "which recording it is of",
    "frame_index": "its number in that recording",
    "pose": "camera to world, 4 × 4; x right, y down, z forward",
    "intrinsics": "fx, fy, cx, cy in pixels of the image",
    "depth": "16-bit PNG along z, `depth_scale` of metadata.json to a level, 0 where unknown",
}


def dataset_card(life: PreparedLife, repo_id: str, license: str, download_size: int, geometry: dict[str, Any]) -> str:
    """The text of README.md.

    Args:
        life: what is pushed.
        repo_id: where to.
        license: of the frames, as people write it; empty where it is not stated.
        download_size: of the Parquet files, in bytes.
        geometry: what is said of the poses and points that are pushed along; empty if there are none.
    """
    about, simulated = life.metadata, life.metadata["simulation"] is not None
    minutes = sum(report["seconds"] for report in about["videos"]) / 60
    what = "video from the eyes of one person"
    if simulated:
        what = "a walk through the map of a game, rendered"
    elif about["dataset"] == "controls":
        what = "here a control, video that is no life"
    columns = "\n".join(f"| `{name}` | {_COLUMNS[name]} |" for name in life.dataset.column_names)
    body = dedent("""\
        # {name}

        A *life*: {what}, as {frames:,} frames in order of time. It was prepared with
        `singlelife`, which pretrains one vision model per life.

        {warning}## How it was made

        | | |
        |---|---|
        | source | {source} |
        | recordings | {videos} ({duration}) |
        | frames | {frame_rate:g} per second, shorter side {frame_size} px, JPEG |
        | made by | singlelife {version}, format {format} |
        | fingerprint | `{fingerprint}` |
        {lost}
        | column | |
        |---|---|
        {columns}

        {known}

        ## How to use it

        Pretrain a model on this life:

        ```sh
        accelerate launch train.py --life {repo_id}
        ```

        Look at it without downloading it, or open it as any other data set:

        ```sh
        singlelife peek {repo_id}
        ```

        ```python
        from datasets import load_dataset

        frames = load_dataset("{repo_id}", split="train")
        ```

        ## Licence

        {license}
        """).format(
        name=life.name,
        what=what,
        frames=len(life),
        warning="" if simulated else WARNING,
        source=about["dataset"],
        videos=len(about["videos"]),
        duration=f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min",
        frame_rate=about["frame_rate"],
        frame_size=about["frame_size"],
        version=version("singlelife"),
        format=about["format_version"],
        fingerprint=about["fingerprint"],
        lost="".join(
            f"| not whole | {report['video']}: {report.get('error') or report['damage']} |\n"
            for report in about["videos"] + about["left_out"]
            if report.get("error") or report.get("damage")
        ),
        columns=columns,
        known=_known(life, geometry),
        repo_id=repo_id,
        license=f"The frames are under the licence of their source: {license}."
        if license
        else "No licence is stated. Ask the owner before any use.",
    )  # fmt: skip
    return f"---\n{_header(life, license, download_size, geometry).to_yaml()}\n---\n\n{body}"


WARNING = """\
> **People may be in these frames.** This is what somebody saw in daily life: it may show faces, bystanders who were
> not asked, the insides of homes, screens and papers. Do not try to identify anyone, do not publish frames that show
> people, respect the licence of the source below, and delete your copy if the owner asks. Whoever makes this
> repository public answers for the consent of those who are seen.

"""


def _known(life: PreparedLife, geometry: dict[str, Any]) -> str:
    """A paragraph on poses and points."""
    if geometry:
        return (
            f"Camera poses and the 3D points that each frame sees (from {geometry.get('source', 'unnamed files')}, "
            f"{geometry.get('num_registered', len(life)):,} of {len(life):,} frames) are in "
            '`load_dataset(..., "geometry")`.'
        )
    if "pose" in life.dataset.column_names:
        return "The camera's pose is known for every frame."
    return "No camera poses come with it: pairs are drawn by time."


def _header(life: PreparedLife, license: str, download_size: int, geometry: dict[str, Any]) -> DatasetCardData:
    simulated, known = life.metadata["simulation"] is not None, life.dataset.column_names
    poses, num_bytes = "pose" in known or bool(geometry), life.dataset.data.nbytes
    data = DatasetCardData(
        pretty_name=life.name,
        task_categories=["image-feature-extraction", *(["depth-estimation"] if "depth" in known else [])],
        tags=[
            "singlelife",
            "egocentric",
            *(["simulated"] if simulated else []),
            *(["poses"] if poses else []),
        ],
        size_categories=[size_category(len(life))],
        **license_fields(license),
    )
    split = SplitInfo(name="train", num_bytes=num_bytes, num_examples=len(life))
    info = DatasetInfo(
        features=life.dataset.features,
        splits=SplitDict({"train": split}),
        download_size=download_size,
        dataset_size=num_bytes,
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    files = {"default": "data/train-*"} | ({"geometry": "geometry/train-*"} if geometry else {})
    configs: dict[str, Any] = {
        name: {"data_files": [{"split": "train", "path": path}]} for name, path in files.items()
    }
    configs["default"]["default"] = True
    MetadataConfigs(configs).to_dataset_card_data(data)
    return data


def size_category(num_rows: int) -> str:
    """A number of rows as the Hub sorts data sets by size."""
    return next((name for name, limit in _SIZES if num_rows < limit), "n>10M")
