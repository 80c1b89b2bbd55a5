"""A federation in this process alone, without Flower's servers: for the table and for tests."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from federated_lives import home, server


class OneProcess:
    """Flower's grid, whose homes are apps in this process; None is a home that never answers."""

    run = SimpleNamespace(run_id=1)

    def __init__(self, apps: Sequence[Any], contexts: Sequence[Context]):
        self.apps, self.contexts = apps, contexts

    def get_node_ids(self) -> list[int]:
        return list(range(len(self.apps)))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = [(message.metadata.dst_node_id, copy.deepcopy(message)) for message in messages]  # as over a wire
        return [self.apps[node](message, self.contexts[node]) for node, message in sent if self.apps[node]]


def run(settings: Mapping[str, Any], homes: Sequence[Mapping[str, Any]], apps: Sequence[Any] = ()) -> None:
    """Run a federation to its end, by its run config, the node config of each home, and other apps than theirs."""
    TaskIdentity.task_id = TaskIdentity.run_id = 1
    TaskIdentity.node_id = 0
    contexts = [Context(1, 0, dict(own), RecordDict(), dict(settings)) for own in ({}, *homes)]
    grid: Any = OneProcess(apps or [home.app] * len(homes), contexts[1:])
    server.app(grid, contexts[0])
