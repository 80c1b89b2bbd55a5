"""`singlelife push`: publish a trained model, a prepared life or a pair set on the Hub."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from singlelife.errors import RunError
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

    results: tuple[Path, ...] = ()
    """results.jsonl files with scores of the model for its card, besides RUN/results.jsonl"""

    training_state: bool = False
    """push also what `train --resume-from hub` needs, three times the model's size, to a branch of its own"""

    dry_run: bool = False
    """print the card and what would be sent, and send nothing"""

    cache_dir: Path | None = None
    """where prepared lives are kept (default: $SINGLELIFE_CACHE or ~/.cache/singlelife)"""

    def run(self) -> int:
        """Publish, and return the exit code."""
        from singlelife.hub.client import check_push
        from singlelife.hub.push import publish

        if not self.dry_run:
            check_push(self.repo)  # before anything is prepared
        publications, use = self._publications()
        if self.dry_run:
            name, card = publications[-1].repo_id, publications[-1].card
            print(card(name if "/" in name else f"YOUR-NAME/{name}") if card else "")
            sizes = [(file, size) for publication in publications for file, size in publication.sizes.items()]
            print(aligned([(file, in_bytes(size)) for file, size in sizes]), file=sys.stderr)
            total = in_bytes(sum(size for _, size in sizes))
            print(
                f"{total} and this card would go to {name}, unless they are there. Nothing was sent.", file=sys.stderr
            )
            return 0
        if self.public:
            what = publications[-1].what
            print(
                f"This makes {what} public. Make sure that its licence and the people in it allow that.",
                file=sys.stderr,
            )
        url = [publish(publication, private=not self.public) for publication in publications][-1]
        print(f"{url} ({'public' if self.public else 'private'})")
        print(use.format("/".join(url.rsplit("/", 2)[1:])))
        return 0

    def _publications(self) -> tuple[list["Publication"], str]:
        """What to publish, and how to use it then."""
        path = Path(self.what).expanduser()
        if (path / "config.yaml").is_file() or (path.is_dir() and any(path.glob("checkpoint-*"))):
            from singlelife.pretraining.publishing import run_publications

            use = 'Load it anywhere: import singlelife; AutoModel.from_pretrained("{}")'
            return run_publications(
                path, self.repo, license=self.license, results=self.results, training_state=self.training_state
            ), use
        if self.results or self.training_state:
            raise RunError(f"--results and --training-state go with a run, and {self.what} is none.")
        if (path / "pair_set.json").is_file():
            from singlelife.alignment.pair_sets.hub import pair_set_publication

            repo = self.repo or f"pairs-{path.resolve().name}".replace("_", "-")
            use = "Compare models on it anywhere: singlelife cas A B --pairs {}"
            return [pair_set_publication(path, repo, license=self.license)], use
        from singlelife.lives.publishing import life_publication
        from singlelife.lives.resolve import resolve_life

        life = resolve_life(self.what, cache_dir=self.cache_dir)
        repo = self.repo or f"life-{life.name}".replace("_", "-")
        use = "Train on it anywhere: accelerate launch train.py --life {}"
        return [life_publication(life, repo, license=self.license)], use
