"""The lives of Walking Tours: print the address of each film."""

import re
import sys
from pathlib import Path

from reporting import COMPLETE, run_script, script_parser

from singlelife.errors import LifeError
from singlelife.lives.registry import life_names, registered_life

NAME = "walking_tours"
REPOSITORY, LIST = "shawshankvkt/Walking_Tours", "WTour.txt"
DESCRIPTION = (
    "Walking Tours (CC BY 4.0, https://huggingface.co/datasets/shawshankvkt/Walking_Tours): films of walks through "
    "cities; eight of them are lives. The Hub has the list of the films and the owners' script, not the films; that "
    "script puts each into a folder with its city's name. This one prints the address of each life's film."
)
EXAMPLES = """\
  python datasets_scripts/walking_tours.py                      where the films are
  singlelife prepare wt_3 --video chiang_mai.mp4 --dry-run      whether a film can be used"""


def main(words: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = script_parser(NAME, DESCRIPTION, EXAMPLES)
    names = [name for name in life_names() if registered_life(name).script == NAME]
    parser.add_argument("life", nargs="*", default=names, metavar="NAME", help="which lives (default: all eight)")
    return run_script(NAME, lambda: _run(parser.parse_args(words).life))


def _run(names: list[str]) -> int:
    lives = [registered_life(name) for name in names]
    films = parse_list(_list_from_hub().read_text(encoding="utf-8"))
    for life in lives:
        print(f"{life.name}  {life.part:<12}  {films.get(_plain(life.part), 'not in the list')}")
    return COMPLETE


def parse_list(text: str) -> dict[str, str]:
    """Addresses by city, from a list with an address and a city on each line; some lines lack the comma between."""
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


if __name__ == "__main__":
    sys.exit(main())
