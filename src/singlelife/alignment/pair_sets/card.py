"""The dataset card of a pair set: what a visitor of its folder or repository reads, and how `datasets` opens it."""

from typing import Any

import numpy as np
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from singlelife.hub.licenses import license_fields
from singlelife.lives.hub.card import WARNING, size_category

_VIEWS = {
    "plain": "two frames, of each its middle square",
    "zoomed": "two frames, of each a square at a random place, of 30 to 70% of the area",
    "shifted": "two cuts of one frame, of 55% of its side",
}
_CARD = """\
# {name}

{count:,} pairs of views of {size} x {size} px, on which `singlelife` measures whether two vision models agree about
geometry (the Correspondence Alignment Score). Scores are comparable between people where the hash is the same:

    {hash}

{warning}## How it was made

| | |
|---|---|
| source | {source} |
| views | {views} |
| balanced by | {balanced} |
| time between the frames | {gap} |
| overlap of the frames | {overlap} |
| true matches | {matches} |
| made by | singlelife {version}, format {format} |

Each row has the views `target` and `source` (PNG), the life and the rows, videos and times of their frames, the boxes
(top, left, height, width in pixels) that they were cut out of, and, where it is known, what the true matches follow
from: the frames' depth, poses (camera to world, row by row) and intrinsics.

## How to use it

```sh
singlelife cas MODEL_A MODEL_B --pairs {where}
```

```python
from datasets import load_dataset

pairs = load_dataset("{where}", split="test")
```

## Licence

{license}
"""


def stated_licenses(provenance: dict[str, Any]) -> str:
    """The licences of the lives that a set was drawn from, as one text; empty where none is stated."""
    stated = {life.get("license", "") for life in provenance.get("lives", [])} - {"", "yours"}
    return "; ".join(sorted(stated))


def pair_set_card(
    pairs: Any, described: dict[str, Any], *, repo_id: str | None = None, license: str | None = None
) -> str:
    """The text of README.md.

    Args:
        pairs: the pair set.
        described: what its `pair_set.json` says.
        repo_id: where it is pushed to; None for a folder.
        license: of the views, as people write it; by default those of the lives.
    """
    provenance = pairs.provenance
    lives = provenance.get("lives", [])
    license = stated_licenses(provenance) if license is None else license
    body = _CARD.format(
        name=pairs.name,
        count=len(pairs),
        size=pairs.target.shape[-1],
        hash=pairs.hash,
        warning="" if lives and all("ViZDoom" in life.get("license", "") for life in lives) else WARNING,
        source=", ".join(f"{life['name']} (`{life['fingerprint'][:12]}`)" for life in lives) or "image files",
        views=_VIEWS.get(provenance.get("views", ""), "of each image, its middle square"),
        balanced=provenance.get("by", "none")
        + (f", bins {', '.join(f'{edge:g}' for edge in provenance['bins'])}" if "bins" in provenance else ""),
        gap=_range(pairs.gap, " s"),
        overlap=_range(pairs.overlap, ""),
        matches="known" if pairs.matches_known else "not known",
        version=described["version"],
        format=described["format_version"],
        where=repo_id or "FOLDER",
        license=f"The views are under the licence of their source: {license}."
        if license
        else "No licence is stated. Ask the owner before any use.",
    )
    data = DatasetCardData(
        pretty_name=pairs.name,
        task_categories=["image-feature-extraction", "keypoint-matching"],
        tags=["singlelife", "egocentric", "alignment", "correspondence"],
        size_categories=[size_category(len(pairs))],
        **license_fields(license),
    )
    MetadataConfigs(
        {"default": {"data_files": [{"split": "test", "path": "test/*.arrow"}], "default": True}}
    ).to_dataset_card_data(data)
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _range(values: np.ndarray | None, unit: str) -> str:
    if values is None or np.isnan(values).all():
        return "not known"
    least, median, most = np.nanquantile(values, [0, 0.5, 1])
    return f"{least:.2f} to {most:.2f}{unit}, median {median:.2f}{unit}"
