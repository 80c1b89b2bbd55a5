"""Model and dataset cards: Markdown templates, filled by the card classes of `huggingface_hub`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import CardData, DatasetCard, DatasetCardData, ModelCard

TAG = "singlelife"  # in the header of every card, so that a search on the Hub finds it
CARD = "README.md"
WRITTEN = f"<!-- Written by {TAG}. Delete this line to keep a text of your own. -->"

_TEMPLATES = Path(__file__).with_name("templates")
_LICENSES = {
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0"),
    *("mit", "apache-2.0", "bsd-3-clause"),
}
_SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7))


def fill_card(name: Literal["model", "life", "pair_set"], header: CardData, fields: Mapping[str, Any]) -> str:
    """The text of a card, beginning with its YAML header; `fields` are the template's variables."""
    card = ModelCard if name == "model" else DatasetCard
    path = str(_TEMPLATES / f"{name}_card.md")
    return card.from_template(header, template_path=path, written=WRITTEN, **fields).content  # type: ignore


def dataset_header(
    name: str, num_rows: int, license: str, *, tasks: list[str], tags: list[str], files: Mapping[str, tuple[str, str]]
) -> DatasetCardData:
    """The header of a dataset card.

    Args:
        name: the title that people see.
        num_rows: the number of rows in the data set.
        license: as people write it, such as "CC BY 4.0".
        tasks: the Hub's names of the tasks it serves.
        tags: tags to add to this package's own.
        files: the split and its files for each configuration, the default configuration first.
    """
    header = DatasetCardData(
        pretty_name=name,
        task_categories=tasks,
        tags=[TAG, *tags],
        size_categories=[next((size for size, limit in _SIZES if num_rows < limit), "n>10M")],
        **license_fields(license),
    )
    configs = {key: {"data_files": [{"split": split, "path": path}]} for key, (split, path) in files.items()}
    configs["default"]["default"] = True  # type: ignore[assignment]
    MetadataConfigs(configs).to_dataset_card_data(header)
    return header


def license_fields(license: str) -> dict[str, Any]:
    """The fields of a card's header for a licence in any words, or none."""
    name = "cc0-1.0" if license == "CC0" else re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-")[:64]
    return {"license": name} if name in _LICENSES else {"license": "other", "license_name": name or "not-stated"}


def stated(license: str) -> str:
    """The licence in a life's metadata; empty if that only says that the recording is the user's own."""
    return "" if license == "yours" else license
