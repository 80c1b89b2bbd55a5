"""`singlelife push`: publish a trained model, a prepared life or a pair set on the Hub."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from singlelife.commands import check_folders, no_folder
from singlelife.errors import RunError, SingleLifeError
from singlelife.lives.resolve import check_names, life_reference
from singlelife.text import aligned, in_bytes

if TYPE_CHECKING:
    from singlelife.hub.push import Publication


@dataclass(frozen=True)
class COMMAND:
    """Publish a trained model, a prepared life or a pair set on the Hub.

    A run becomes a model that AutoModel.from_pretrained opens, with a card, the settings, metrics and pictures; from
    an unfinished run, the latest checkpoint is pushed. A life or a pair set becomes a data set that `--life ORG/NAME`
    or `--pairs ORG/NAME` and datasets.load_dataset open. The repository is private unless you say --public. The same
    command continues an interrupted push and does not send files again. You need a token, from `hf auth login` or
    HF_TOKEN; --dry-run needs neither a token nor a network.

        singlelife push runs/wt_3 my-lab/singlelife-wt3
        singlelife push runs/wt_3 --dry-run --card card.md
    """

    what: Annotated[Positional[str], arg(metavar="WHAT")]
    """a run folder such as runs/wt_3, the folder of a pair set, or a life: its name or the folder of a prepared one"""

    repo: Annotated[Positional[str | None], arg(metavar="[REPO]")] = None
    """ORG/NAME, or NAME in your own namespace; created if it does not exist. By default: singlelife-wt3 for a model of
    the life wt_3, life-wt-3 for the life itself, pairs-FOLDER for a pair set"""

    public: Annotated[bool, FlagCreatePairsOff] = False
    """let everybody see it; check first that the licence and the people in it allow that"""

    license: str | None = None
    """the licence to publish under, such as 'CC BY 4.0' (default: the life's)"""

    results: tuple[Path, ...] = ()
    """results.jsonl files with scores of the model for its card, besides RUN/results.jsonl"""

    training_state: Annotated[bool, FlagCreatePairsOff] = False
    """also push the checkpoint to a separate branch, so that the run can continue on another machine; it is three
    times the model's size"""

    dry_run: Annotated[bool, FlagCreatePairsOff] = False
    """list the files and their sizes, and send nothing"""

    card: Path | None = None
    """with --dry-run: write the card to this file, so that you can read it"""

    cache_dir: Path | None = None
    """where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)"""

    def __post_init__(self) -> None:
        if self.card and not self.dry_run:
            raise SingleLifeError("--card FILE needs --dry-run. A push writes the card into the repository.")
        check_folders(card=self.card)

    def run(self) -> int:
        """Publish, and return the exit code."""
        if self._kind == "life":  # a missing life fails now, before imports and the token
            kind = life_reference(self.what).kind
            if kind == "hub":
                raise RunError(f"{no_folder(self.what)} WHAT must be a run, a pair set or a life on this machine.")
            if kind == "named":
                check_names([self.what], self.cache_dir)
        if self.dry_run:
            return self._list(self._publications()[0])
        from singlelife.hub.client import check_push
        from singlelife.hub.push import publish

        check_push(self.repo)  # before anything is prepared
        publications, use = self._publications()
        if self.public:
            what = publications[-1].what
            print(
                f"This makes {what} public. Check that its licence and the people in it allow that.",
                file=sys.stderr,
            )
        url = [publish(publication, private=not self.public) for publication in publications][-1]
        print(f"{url} ({'public' if self.public else 'private'})")
        print(use.format("/".join(url.rsplit("/", 2)[1:])))
        return 0

    def _list(self, publications: list["Publication"]) -> int:
        """Print what would be sent, and write the card."""
        name, card = publications[-1].repo_id, publications[-1].card
        sizes = [file for publication in publications for file in publication.sizes.items()]
        rows = [*sizes, ("in all", sum(size for _, size in sizes))]
        print(aligned([(file, in_bytes(size)) for file, size in rows]))
        print(f"These files and a card would go to {name}. Nothing was sent.")
        if self.card and card:
            self.card.write_text(card(name if "/" in name else f"YOUR-NAME/{name}"), encoding="utf-8")
            print(f"wrote {self.card}")
        return 0

    @property
    def _path(self) -> Path:
        return Path(self.what).expanduser()

    @property
    def _kind(self) -> str:
        """`"run"`, `"pair set"` or `"life"`, by the files that a folder has."""
        if (self._path / "config.yaml").is_file() or any(self._path.glob("checkpoint-*")):
            return "run"
        return "pair set" if (self._path / "pair_set.json").is_file() else "life"

    def _publications(self) -> tuple[list["Publication"], str]:
        """The publications, and how to use what is published."""
        path = self._path
        if self._kind == "run":
            from singlelife.pretraining.publishing import run_publications

            use = 'Load it anywhere: import singlelife; AutoModel.from_pretrained("{}")'
            return run_publications(
                path, self.repo, license=self.license, results=self.results, training_state=self.training_state
            ), use
        if self.results or self.training_state:
            raise RunError(f"--results and --training-state need a run, and {self.what} is not one.")
        if self._kind == "pair set":
            from singlelife.alignment.pair_sets.resolve import pair_set_publication

            repo = self.repo or f"pairs-{path.resolve().name}".replace("_", "-")
            use = "Compare models on it anywhere: singlelife cas A B --pairs {}"
            return [pair_set_publication(path, repo, license=self.license)], use
        from singlelife.lives.hub import life_publication
        from singlelife.lives.resolve import resolve_life

        life = resolve_life(self.what, cache_dir=self.cache_dir)
        repo = self.repo or f"life-{life.name}".replace("_", "-")
        use = "Train on it anywhere: accelerate launch train.py --life {}"
        return [life_publication(life, repo, license=self.license)], use
