"""README and guides: short, in plain words, and their commands are ones that the real parsers take."""

import re
import shlex
import tomllib
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

from singlelife.cli import COMMANDS
from singlelife.flags import parse_flags
from singlelife.pretraining.arguments import parse_arguments

ROOT = Path(__file__).parents[1]
GUIDES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md")])
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
         *sorted(ROOT.glob("experiments/*/*.md")), *GUIDES]  # fmt: skip
OLD_STYLE = re.compile(
    r"\b(is|are) (told|said)\b|\bstands? (beside|in|for)\b|\bwhat is compared\b|\bof which\b|\btold apart\b"
    r"|\bof several, the\b|\bas ever\b|\bis no life\b|\bcomes? to nothing\b"
)
BLOCK = re.compile(r"(<!-- needs: [\w, ]+ -->\n)?```(?:sh|bash)\n(.*?)```", re.DOTALL)
OURS = ("runs/", "models/", "pairs/", "study/")  # what commands take for folders of this machine


def commands(page: Path) -> list[tuple[bool, list[str]]]:
    """The words of each command of a page, and whether its block says what it needs."""
    found = [(False, line) for line in re.findall(r"`(python [\w/]+\.py[^`]*)`", page.read_text())]
    for needs, block in BLOCK.findall(page.read_text()):
        found += [(bool(needs), line) for line in block.replace("\\\n", " ").splitlines()]
    return [(needs, words) for needs, line in found for words in parts(line)]


def parts(line: str) -> list[list[str]]:
    """The commands of a line of shell, also those that another one passes on to `bash -c`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", ";"):
            found.append([])
        elif word != "do":
            found[-1].append(word)
    found += [part for words in found if "-c" in words for part in parts(words[-1])]
    return [words for words in found if words and words[0] not in ("for", "done")]


def check(words: list[str], marked: bool) -> None:
    """Parse a command as the program does that it starts; other programs need a mark."""
    words = [word.replace("$hours", "0.1") for word in words]
    for before, word in pairwise(words):
        if word.startswith(OURS):
            folder = Path(word).parent if "." in word or before == "--output" else Path(word)
            folder.mkdir(parents=True, exist_ok=True)
    if words[:2] == ["accelerate", "launch"]:
        launcher, words = words[2 : words.index("train.py")], ["train", *words[words.index("train.py") + 1 :]]
        assert all((ROOT / word).is_file() for word in launcher if word.endswith(".yaml"))
        words = ["singlelife", *words]
    if words[0] == "singlelife" and words[1] == "train":
        life = words[words.index("--life") + 1]
        for folder in ("drive", "recordings", "day", *([] if "/" in life else [f"lives/{life}"])):
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, "1.mp4").touch()
        parse_arguments(words[2:])
    elif words[0] == "singlelife":
        assert words[1] in COMMANDS
        parse_flags(import_module(f"singlelife.commands.{words[1]}").COMMAND, f"singlelife {words[1]}", words[2:])
    elif words[0] == "python" and words[1].endswith(".py"):
        script = ROOT / words[1]
        script = script if script.is_file() else ROOT / "experiments" / "shared_world" / words[1]
        known = script.read_text().replace("-", "_")
        flags = [word[2:].replace("-", "_") for word in words[2:] if word.startswith("--")]
        assert all(flag in known for flag in flags)
    elif words[0] == "pip":
        extras = {name for word in words for part in re.findall(r"\[(.*)\]", word) for name in part.split(",")}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert extras <= project["optional-dependencies"].keys()
    else:
        assert marked or words[0] in ("python", "source", "pytest")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_valid_and_its_words_are_plain(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for marked, words in commands(page):
        try:
            check(words, marked)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{shlex.join(words)}: {error!r}. If it needs more than a CPU, say <!-- needs: ... -->.")
    assert not [line for line in page.read_text().splitlines() if OLD_STYLE.search(line)]


def test_readme_and_guides_stay_short_and_the_site_has_every_page():
    assert len((ROOT / "README.md").read_text().split()) <= 900
    words = [word for page in GUIDES for word in page.read_text().split() if any(map(str.isalnum, word))]
    assert len(words) <= 11_000
    nav = (ROOT / "mkdocs.yml").read_text()
    assert not [page for page in GUIDES if f": {page.relative_to(ROOT / 'docs')}\n" not in nav]
