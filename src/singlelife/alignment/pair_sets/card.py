"""The dataset card of a pair set: what a visitor of its folder or repository reads, and how `datasets` opens it."""

from typing import Any

import numpy as np

from singlelife.hub.cards import dataset_header, fill_card, stated


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
    lives = pairs.provenance.get("lives", [])
    if license is None:
        license = "; ".join(sorted({stated(life.get("license", "")) for life in lives} - {""}))
    header = dataset_header(
        pairs.name,
        len(pairs),
        license,
        tasks=["image-feature-extraction", "keypoint-matching"],
        tags=["egocentric", "alignment", "correspondence"],
        files={"default": ("test", "test/*.arrow")},
    )
    fields = {
        "pairs": pairs,
        "provenance": pairs.provenance,
        "lives": lives,
        "described": described,
        "gap": _range(pairs.gap, " s"),
        "overlap": _range(pairs.overlap, ""),
        "people": not (lives and all("ViZDoom" in life.get("license", "") for life in lives)),
        "where": repo_id or "FOLDER",
        "license": license,
    }
    return fill_card("pair_set", header, fields)


def _range(values: np.ndarray | None, unit: str) -> str:
    if values is None or np.isnan(values).all():
        return "not known"
    least, median, most = np.nanquantile(values, [0, 0.5, 1])
    return f"{least:.2f} to {most:.2f}{unit}, median {median:.2f}{unit}"
