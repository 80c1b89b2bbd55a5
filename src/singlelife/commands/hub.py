"""`singlelife hub`: the models of single lives that are on the Hub, and the page that compares them, put there."""

import argparse
import json

from singlelife.commands.options import Commands, aligned


def add_command(commands: Commands) -> None:
    """Describe `singlelife hub` and what it has."""
    command = commands.add_parser(
        "hub",
        help="the models that are on the Hub, and a page there that compares them",
        description="Models on the Hub, and a page there that compares them.",
    )
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
    deploying = tasks.add_parser(
        "deploy-space",
        help="put the page of `singlelife demo` on the Hub",
        description="Upload spaces/cas as a Gradio Space, which the Hub builds and starts: a page on which anybody "
        "who sees it compares two models. The package goes along as it is here, beside the page; what else it needs, "
        "the Space installs. It is private unless you say --public. Run it again after an update. What a visitor may "
        "ask of it is limited by the variables SINGLELIFE_SPACE_... in the Space's settings (docs/space.md). Needs "
        "`hf auth login`, or HF_TOKEN.",
        epilog="example: singlelife hub deploy-space my-lab/cas --public",
    )
    deploying.add_argument("repo", metavar="ORG/NAME", help="the Space, made if it is not there")
    deploying.add_argument("--public", action="store_true", help="let everybody see and use it")
    deploying.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    deploying.set_defaults(run=run_deploy)


def run_deploy(arguments: argparse.Namespace) -> int:
    from singlelife.hub.spaces import deploy_space, space_files
    from singlelife.text import in_bytes

    if arguments.dry_run:
        sizes = {
            name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in space_files().items()
        }
        print(aligned([(name, in_bytes(size)) for name, size in sizes.items()]))
        print(f"\n{len(sizes)} files, {in_bytes(sum(sizes.values()))}, would be in the Space {arguments.repo}.")
        return 0
    url = deploy_space(arguments.repo, private=not arguments.public)
    print(f"{url}\nThe Hub builds it now, which takes some minutes.")
    return 0


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
