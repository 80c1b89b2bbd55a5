"""Model and dataset cards: Markdown templates, filled by the card classes of `huggingface_hub`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CardData, DatasetCard, ModelCard

TAG = "singlelife"  # in the header of every card, by which the Hub finds them
CARD = "README.md"
WRITTEN = f"<!-- Written by {TAG}. Delete this line to keep a text of your own. -->"

_TEMPLATES = Path(__file__).with_name("templates")
_LICENSES = {
    "CC0": "cc0-1.0",
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC BY-NC-ND 4.0": "cc-by-nc-nd-4.0",
    "CC BY-ND 4.0": "cc-by-nd-4.0",
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
}
_SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7))


def fill_card(name: Literal["model", "life", "pair_set"], header: CardData, fields: Mapping[str, Any]) -> str:
    """The text of a card, its YAML header first.

    Args:
        name: of the template.
        header: what the Hub reads.
        fields: the template's variables; `written` is there for all.
    """
    card = ModelCard if name == "model" else DatasetCard
    template = _TEMPLATES / f"{name}_card.md"
    return card.from_template(header, template_path=str(template), written=WRITTEN, **fields).content  # type: ignore


def license_fields(license: str) -> dict[str, Any]:
    """The fields of a card's header for a licence as people write it; it may be any words, or empty."""
    if license in _LICENSES:
        return {"license": _LICENSES[license]}
    name = re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-")[:64]
    return {"license": "other", "license_name": name or "not-stated"}


def stated(license: str) -> str:
    """A licence as a life's metadata has it; empty where that only says that the recording is the user's own."""
    return "" if license == "yours" else license


def size_category(num_rows: int) -> str:
    """The Hub's name for a data set of so many rows."""
    return next((name for name, limit in _SIZES if num_rows < limit), "n>10M")


def table(rows: Mapping[str, str]) -> str:
    """A Markdown table of two columns, without the rows that are empty."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)])
