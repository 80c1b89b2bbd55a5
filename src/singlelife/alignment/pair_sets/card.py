"""The dataset card of a pair set: what a visitor of its folder or repository reads, and how `datasets` opens it."""

from typing import Any

import numpy as np
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from singlelife.hub.cards import TAG, fill_card, license_fields, size_category, stated, table

_VIEWS = {
    "plain": "two frames, of each its middle square",
    "zoomed": "two frames, of each a square at a random place, of 30 to 70% of the area",
    "shifted": "two cuts of one frame, of 55% of its side",
}


def stated_licenses(provenance: dict[str, Any]) -> str:
    """The licences of the lives that a set was drawn from, as one text; empty where none is stated."""
    return "; ".join(sorted({stated(life.get("license", "")) for life in provenance.get("lives", [])} - {""}))


def pair_set_card(
    pairs: Any, described: dict[str, Any], *, repo_id: str | None = None, license: str | None = None
) -> str:
    """The text of README.md.

    Args:
        pairs: the [`PairSet`], which this file cannot import, since a set is stored with its card.
        described: what its `pair_set.json` says.
        repo_id: where it is pushed to; None for a folder.
        license: of the views, as people write it; by default those of the lives.
    """
    provenance = pairs.provenance
    lives = provenance.get("lives", [])
    license = stated_licenses(provenance) if license is None else license
    bins = f", bins {', '.join(f'{edge:g}' for edge in provenance['bins'])}" if "bins" in provenance else ""
    made = {
        "source": ", ".join(f"{life['name']} (`{life['fingerprint'][:12]}`)" for life in lives) or "image files",
        "views": _VIEWS.get(provenance.get("views", ""), "of each image, its middle square"),
        "balanced by": provenance.get("by", "none") + bins,
        "time between the frames": _range(pairs.gap, " s"),
        "overlap of the frames": _range(pairs.overlap, ""),
        "true matches": "known" if pairs.matches_known else "not known",
        "made by": f"singlelife {described['version']}, format {described['format_version']}",
    }
    header = DatasetCardData(
        pretty_name=pairs.name,
        task_categories=["image-feature-extraction", "keypoint-matching"],
        tags=[TAG, "egocentric", "alignment", "correspondence"],
        size_categories=[size_category(len(pairs))],
        **license_fields(license),
    )
    files = {"data_files": [{"split": "test", "path": "test/*.arrow"}], "default": True}
    MetadataConfigs({"default": files}).to_dataset_card_data(header)
    fields = {
        "name": pairs.name,
        "count": f"{len(pairs):,}",
        "size": pairs.target.shape[-1],
        "hash": pairs.hash,
        "people": not (lives and all("ViZDoom" in life.get("license", "") for life in lives)),
        "made": table(made),
        "where": repo_id or "FOLDER",
        "license": license,
    }
    return fill_card("pair_set", header, fields)


def _range(values: np.ndarray | None, unit: str) -> str:
    if values is None or np.isnan(values).all():
        return "not known"
    least, median, most = np.nanquantile(values, [0, 0.5, 1])
    return f"{least:.2f} to {most:.2f}{unit}, median {median:.2f}{unit}"
