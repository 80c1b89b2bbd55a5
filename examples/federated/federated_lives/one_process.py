"""A federation in this process alone, without Flower's servers: for the table and for tests."""

import copy
from types import SimpleNamespace
from typing import Any

from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from federated_lives import home, server


def run(settings: dict[str, Any], homes: list[dict[str, Any]], apps: list[Any] | None = None) -> None:
    """Run a federation to its end, by its run config, the node config of each home, and other apps than theirs.
    An app that is None never answers."""
    TaskIdentity.task_id = TaskIdentity.run_id = 1
    TaskIdentity.node_id = 0
    server_context, *contexts = [Context(1, 0, dict(own), RecordDict(), dict(settings)) for own in ({}, *homes)]
    at_home = dict(enumerate(zip(apps or [home.app] * len(homes), contexts, strict=True)))

    def send_and_receive(messages: Any, timeout: float) -> list[Any]:
        sent = [
            (at_home[message.metadata.dst_node_id], copy.deepcopy(message)) for message in messages
        ]  # as on a wire
        return [app(message, context) for (app, context), message in sent if app]

    connected = {"get_node_ids": lambda: list(at_home), "run": SimpleNamespace(run_id=1)}
    grid: Any = SimpleNamespace(send_and_receive=send_and_receive, **connected)
    server.app(grid, server_context)
