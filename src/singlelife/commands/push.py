"""`singlelife push`: publish a trained model, a prepared life or a pair set on the Hub."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from singlelife.errors import RunError, SingleLifeError
from singlelife.text import aligned, in_bytes

if TYPE_CHECKING:
    from singlelife.hub.push import Publication


@dataclass(frozen=True)
class COMMAND:
    """Publish a trained model, a prepared life or a pair set on the Hub, by what WHAT is.

    A run becomes a model that AutoModel.from_pretrained opens, with a card, the settings, metrics and pictures; of an
    unfinished run, the latest checkpoint is pushed. A life or a pair set becomes a data set that `--life ORG/NAME` or
    `--pairs ORG/NAME` and datasets.load_dataset open. The repository is private unless you say --public. The same
    command goes on with an interrupted push; what is there already is not sent again. Needs `hf auth login`, or
    HF_TOKEN.
    """

    what: Annotated[Positional[str], arg(metavar="WHAT")]
    """a run folder such as runs/wt_3, the folder of a pair set, or a life: its name or the folder of a prepared one"""

    repo: Annotated[Positional[str | None], arg(metavar="[REPO]")] = None
    """ORG/NAME, or NAME in your own namespace; made if it is not there. Without it: singlelife-wt3 for a model of the
    life wt_3, life-wt-3 for the life itself, pairs-FOLDER for a pair set"""

    public: bool = False
    """let everybody see it, if the licence and the people in it allow it"""

    license: str | None = None
    """of what is pushed, such as 'CC BY 4.0' (default: that of the life)"""

    revision: str | None = None
    """the branch to commit to (default: main)"""

    results: tuple[Path, ...] = ()
    """results.jsonl files with scores of the model for its card, besides RUN/results.jsonl"""

    training_state: bool = False
    """push also what `train --resume-from hub` needs, three times the model's size, to a branch of its own"""

    dry_run: bool = False
    """list what would be sent, and send nothing"""

    card: Path | None = None
    """write the card to this file, to look at, and send nothing"""

    cache_dir: Path | None = None
    """where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)"""

    def __post_init__(self) -> None:
        if self.card is not None and not self.card.absolute().parent.is_dir():
            raise SingleLifeError(f"--card {self.card}: there is no such folder to write into.")

    def run(self) -> int:
        """Publish, and return the exit code."""
        sending = not (self.dry_run or self.card)
        if sending:
            from singlelife.hub.client import check_push, check_token

            check_token()  # before anything is prepared
            if self.repo is not None and "/" in self.repo:
                check_push(self.repo, kind="repository")
        publication, use, push = self._publication()
        if self.card is not None:
            if publication.card is not None:
                name = publication.repo_id
                self.card.write_text(publication.card(name if "/" in name else f"YOUR-NAME/{name}"), encoding="utf-8")
            print(f"The card is in {self.card}. Nothing was sent.")
        if self.dry_run:
            print(aligned([(name, in_bytes(size)) for name, size in publication.sizes.items()]))
            total = in_bytes(sum(publication.sizes.values()))
            print(f"{total} and a card would go to {publication.repo_id}, unless they are there. Nothing was sent.")
        if not sending:
            return 0
        if self.public:
            print(
                f"This makes {publication.what} public. Make sure that its licence and the people in it allow that.",
                file=sys.stderr,
            )
        url = push()
        print(f"{url} ({'public' if self.public else 'private'})")
        print(use.format("/".join(url.rsplit("/", 2)[1:])))
        return 0

    def _publication(self) -> tuple["Publication", str, Any]:
        """What to publish, how to use it then, and what pushes it."""
        path = Path(self.what).expanduser()
        if (path / "config.yaml").is_file() or (path.is_dir() and any(path.glob("checkpoint-*"))):
            return self._model(path)
        if self.results or self.training_state:
            raise RunError(f"--results and --training-state go with a run, and {self.what} is none.")
        from singlelife.hub.push import publish

        if (path / "pair_set.json").is_file():
            from singlelife.alignment.pair_sets.hub import pair_set_publication

            repo = self.repo or f"pairs-{path.resolve().name}".replace("_", "-")
            publication = pair_set_publication(path, repo, license=self.license)
            use = "Compare models on it anywhere: singlelife cas A B --pairs {}"
        else:
            from singlelife.lives.publishing import life_publication
            from singlelife.lives.resolve import resolve_life

            life = resolve_life(self.what, cache_dir=self.cache_dir)
            repo = self.repo or f"life-{life.name}".replace("_", "-")
            publication = life_publication(life, repo, license=self.license)
            use = "Train on it anywhere: accelerate launch train.py --life {}"
        return publication, use, partial(publish, publication, private=not self.public, revision=self.revision)

    def _model(self, path: Path) -> tuple["Publication", str, Any]:
        from singlelife.pretraining.card import read_run
        from singlelife.pretraining.publishing import push_run, run_publication

        if self.revision is not None:
            raise RunError("--revision goes with a life or a pair set; a model goes to main.")
        publication = run_publication(read_run(path), self.repo, license=self.license, results=self.results)
        use = 'Load it anywhere: import singlelife; AutoModel.from_pretrained("{}")'
        push = partial(
            push_run,
            path,
            self.repo,
            private=not self.public,
            license=self.license,
            results=self.results,
            training_state=self.training_state,
        )
        return publication, use, push
