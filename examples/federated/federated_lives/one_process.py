"""A federation in this process alone, without Flower's servers: for the table and for tests."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from federated_lives import home, server


class OneProcess:
    """A grid whose homes are apps in this process; None is a home that never answers."""

    run = SimpleNamespace(run_id=1)

    def __init__(self, settings: Mapping[str, Any], homes: Sequence[Mapping[str, Any]], apps: Sequence[Any]):
        self.apps, self.contexts = apps, [_context(settings, own) for own in homes]

    def get_node_ids(self) -> list[int]:
        return list(range(len(self.apps)))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = [(message.metadata.dst_node_id, copy.deepcopy(message)) for message in messages]  # as over a wire
        return [self.apps[node](message, self.contexts[node]) for node, message in sent if self.apps[node]]


def _context(settings: Mapping[str, Any], own: Mapping[str, Any]) -> Context:
    return Context(run_id=1, node_id=0, node_config=dict(own), state=RecordDict(), run_config=dict(settings))


def run(settings: Mapping[str, Any], homes: Sequence[Mapping[str, Any]], apps: Sequence[Any] = ()) -> None:
    """Run a federation to its end.

    Args:
        settings: the run config.
        homes: the node config of each.
        apps: what each runs, if not the app of homes.
    """
    TaskIdentity.task_id = TaskIdentity.run_id = 1
    TaskIdentity.node_id = 0
    grid: Any = OneProcess(settings, homes, apps or [home.app] * len(homes))
    server.app(grid, _context(settings, {}))
