"""`singlelife evaluate`: what a model's features are worth. A file for each task."""

from singlelife.commands import evaluate_correspondence
from singlelife.commands.options import Commands


def add_command(commands: Commands) -> None:
    """Describe `singlelife evaluate` and its tasks."""
    command = commands.add_parser(
        "evaluate",
        help="what a model's features are worth: zero-shot correspondence",
        description="What a model has learnt, by tasks that it was not trained for.",
    )
    tasks = command.add_subparsers(title="tasks", metavar="TASK", required=True)
    evaluate_correspondence.add_command(tasks)
