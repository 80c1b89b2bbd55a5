"""`singlelife push`: publish a trained model on the Hub."""

import argparse
from pathlib import Path

from singlelife.commands.options import Commands, aligned


def add_command(commands: Commands) -> None:
    """Describe `singlelife push`."""
    command = commands.add_parser(
        "push",
        help="push a run's model to the Hub",
        description="Push the model of a run to the Hub, with its image processor, its code, the run's settings, "
        "metrics and pictures, and a model card, so that AutoModel.from_pretrained opens it. Of a run that is not "
        "finished the latest checkpoint is pushed. The repository is private unless you say --public. A push that was "
        "interrupted goes on with the same command; what is there already is not sent again. Needs `hf auth login`, "
        "or HF_TOKEN.",
        epilog="example: singlelife push runs/wt_3 --org my-lab --results cas.json    (to my-lab/singlelife-wt3)",
    )
    command.add_argument("folder", metavar="RUN", help="the run folder, such as runs/wt_3")
    command.add_argument(
        "repo",
        metavar="REPO",
        nargs="?",
        help="ORG/NAME on the Hub, made if it is not there (default: the life's, such as singlelife-wt3 for wt_3, in "
        "your own namespace)",
    )
    command.add_argument("--org", metavar="ORG", help="the organisation to push to, where REPO does not say it")
    command.add_argument(
        "--public", action="store_true", help="let everybody see it, if the licence and those seen do"
    )
    command.add_argument("--license", metavar="NAME", help="of the weights, such as 'CC BY 4.0' (default: the life's)")
    command.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="FILE",
        help="what `singlelife cas --json FILE` or `singlelife evaluate all` wrote of this model, for the card; kept "
        "in RUN/results, whose files every push has in its card",
    )
    command.add_argument(
        "--training-state",
        action="store_true",
        help="push also what it takes to go on with the run (train.py --resume hub), three times as much, to a branch "
        "of its own",
    )
    command.add_argument("--dry-run", action="store_true", help="only list what would be sent")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.pretraining.hub.push import push_run
    from singlelife.text import in_bytes

    done = push_run(
        Path(arguments.folder),
        arguments.repo,
        org=arguments.org,
        private=not arguments.public,
        license=arguments.license,
        results=arguments.results,
        training_state=arguments.training_state,
        dry_run=arguments.dry_run,
    )
    size, count = in_bytes(sum(change.size for change in done.changes)), len(done.changes)
    if arguments.dry_run and done.changes:
        rows = [(each.branch, each.what, in_bytes(each.size) if each.size else "", each.name) for each in done.changes]
        print(aligned(rows))
    for note in done.notes:
        print(note)
    there = f"; {done.unchanged} are there already" if done.unchanged else ""
    if arguments.dry_run:
        print(f"{count} files, {size}, would go to {done.url}{there}. Nothing was sent.")
        return 0
    visible = "public" if arguments.public else "private"
    print(f"{f'{count} files, {size}, pushed' if count else 'Nothing new'}{there}.\n{done.url} ({visible})")
    print(f'Load it anywhere: import singlelife; AutoModel.from_pretrained("{done.repo_id}")')
    return 0
