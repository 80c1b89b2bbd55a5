"""`singlelife hub list`: the models of single lives on the Hub."""

import argparse
import json

from singlelife.commands.options import Commands, aligned


def add_command(commands: Commands) -> None:
    """Describe `singlelife hub` and what it has."""
    command = commands.add_parser("hub", help="the models that are on the Hub", description="Models on the Hub.")
    tasks = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = tasks.add_parser(
        "list",
        help="the models of lives that an organisation or user has",
        description="List the models that `singlelife push` has published under an organisation or user: the life, "
        "its hours, the steps made, and how far the model agrees with others where its card says so (CAS, "
        "position-free, adjusted for chance). Private ones are listed for those who may see them.",
        epilog='example: singlelife hub list --org my-lab --collection "Our lives"',
    )
    listing.add_argument("--org", metavar="ORG", required=True, help="the organisation or user")
    listing.add_argument(
        "--collection",
        metavar="TITLE",
        help="put all of them into the collection of that title, which is made if it is not there; private unless you "
        "say --public",
    )
    listing.add_argument("--public", action="store_true", help="let everybody see a collection that is made")
    listing.add_argument("--json", action="store_true", help="print all fields as JSON instead of the table")
    listing.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.hub.models import collect, models_of

    models = models_of(arguments.org)
    if arguments.json:
        print(json.dumps([model.to_dict() for model in models], indent=2))
    elif models:
        header = ("model", "life", "hours", "steps", "CAS", "updated", "seen by")
        print(aligned([header, *(model.row() for model in models)]))
    else:
        print(f"{arguments.org} has no model of a life that you may see on the Hub; `singlelife push RUN` adds one.")
    if arguments.collection and models:
        url, added = collect(models, arguments.org, arguments.collection, private=not arguments.public)
        if not arguments.json:
            print(f"\n{added} of {len(models)} models added to the collection {arguments.collection}: {url}")
    return 0
