"""The lives of Walking Tours: what is here of each, where its film is, and the dataset of frames."""

import argparse
import re
import sys
from pathlib import Path

from singlelife.errors import LifeError
from singlelife.lives.dataset_cli import COMPLETE, LifeScript

REPOSITORY, LIST = "shawshankvkt/Walking_Tours", "WTour.txt"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--films", action="store_true", help="print the owners' list of the films (from the Hub)")


def first(arguments: argparse.Namespace) -> int | None:
    """Print where the films of the lives are, if asked to."""
    if not arguments.films:
        return None
    films = parse_list(_list_from_hub().read_text(encoding="utf-8"))
    for life in SCRIPT.lives():
        if life.name in arguments.life:
            print(f"{life.name}  {life.part:<12}  {films.get(_plain(life.part), 'not in the list')}")
    return COMPLETE


def parse_list(text: str) -> dict[str, str]:
    """Addresses by city, of a list with an address and a city in each line; some lines lack the comma between them."""
    lines = re.findall(r"^\s*(https?://[^\s,]+)\s*,?\s*(\S.*?)\s*$", text, flags=re.MULTILINE)
    return {_plain(city): address for address, city in lines}


def _plain(city: str) -> str:
    return city.replace("_", " ").lower()


def _list_from_hub() -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(REPOSITORY, LIST, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise LifeError(
            f"The list {LIST} of https://huggingface.co/datasets/{REPOSITORY} cannot be fetched: "
            f"{str(error).splitlines()[0]}"
        ) from error


SCRIPT = LifeScript(
    name="walking_tours",
    description="Walking Tours (CC BY 4.0, https://huggingface.co/datasets/shawshankvkt/Walking_Tours): films of "
    "walks through cities, of which eight are lives. The Hub has the list of the films and the owners' script, not "
    "the films; that script puts each into a folder of its city's name, which --root looks for.",
    examples="""\
  python datasets_scripts/walking_tours.py --films              where the films are
  python datasets_scripts/walking_tours.py --root videos        which of them are here
  python datasets_scripts/walking_tours.py wt_3 --videos chiang_mai.mp4 --prepare""",
    add_options=add_options,
    first=first,
)

if __name__ == "__main__":
    sys.exit(SCRIPT.run())
