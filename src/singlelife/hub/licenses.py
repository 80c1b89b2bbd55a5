"""Licences, as people write them and as the Hub does."""

import re
from typing import Any

_ON_THE_HUB = {
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


def license_fields(license: str) -> dict[str, Any]:
    """What the header of a card says of a licence, which may be any words, or none."""
    if license in _ON_THE_HUB:
        return {"license": _ON_THE_HUB[license]}
    name = re.sub(r"[^a-z0-9.]+", "-", license.lower()).strip("-")[:64]
    return {"license": "other", "license_name": name or "not-stated"}


def stated(license: str) -> str:
    """A licence as it is in a life's metadata; empty where that says only that the recording is the user's own."""
    return "" if license == "yours" else license
