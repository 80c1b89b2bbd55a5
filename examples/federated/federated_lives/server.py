"""The server: it sends the global model out, averages what comes back, and keeps the model of every round.

Its folder has round-000 (the start), round-001 and so on, each a checkpoint as `from_pretrained` takes it with a
round.json. The same command goes on after the last round.
"""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server import strategy as older
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, NeighboringRelation, PrivacyConfig, RdpAccountant, SamplingMethod, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedProx
from safetensors.torch import load_file, save_file

from federated_lives.home import SECURE_RANGE
from federated_lives.settings import Federation
from singlelife.croco import CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import RunError
from singlelife.files import atomic_dir
from singlelife.pretraining.arguments import ModelConfig
from singlelife.pretraining.checkpoints import load_weights, starting_config

FREE = ("folder", "min_clients", "round_timeout")  # what may change when a federation goes on
log = getLogger("flwr")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left.

    Raises:
        RunError: the settings changed, homes are missing, or a round has too few sound replies.
    """
    settings = Federation.of(context.run_config)
    rounds = Rounds(settings)
    watch = Watch(grid, settings, rounds)
    if settings.privacy == "secure":
        run_secure(watch, context, settings, rounds)
    else:
        run(watch, settings, rounds)


class Rounds:
    """The server's folder.

    Attributes:
        done: rounds that it has.
        model: of the last one.
    """

    def __init__(self, settings: Federation):
        self.folder = Path(settings.folder).expanduser().absolute()
        fixed = {name: value for name, value in asdict(settings).items() if name not in FREE}
        about = self.folder / "federation.json"
        if about.exists():
            before = json.loads(about.read_text())
            changes = [f"{n} was {before.get(n)!r}, now {fixed[n]!r}" for n in fixed if before.get(n) != fixed[n]]
            if changes:
                raise RunError(
                    f"{self.folder} has a federation of other settings: {'; '.join(changes)}. Go on with those, or "
                    "start another folder."
                )
        self.done = max((int(path.name[6:]) for path in self.folder.glob("round-*[0-9]")), default=-1)
        if self.done < 0:
            torch.manual_seed(settings.seed)
            start, config = Path(settings.model), starting_config(ModelConfig(model=settings.model))
            self.model = load_weights(start, config) if start.is_dir() else CroCoForPreTraining(config)
            self.save(0, self.model.state_dict(), {}, {})
            about.write_text(json.dumps(fixed, indent=2) + "\n")
        self.model = CroCoForPreTraining.from_pretrained(self.last)

    @property
    def last(self) -> Path:
        return self.folder / f"round-{self.done:03d}"

    def save(self, number: int, state: dict[str, torch.Tensor], facts: dict[str, Any], own: dict[str, Any]) -> None:
        """Write a round, whole or not at all; `own` are tensors of the strategy."""
        self.model.load_state_dict(state)
        side = self.model.config.image_size
        with atomic_dir(self.folder / f"round-{number:03d}") as aside:
            self.model.save_pretrained(aside)
            CroCoImageProcessor(size={"height": side, "width": side}).save_pretrained(aside)
            save_file(
                {name: torch.from_numpy(np.array(value)) for name, value in own.items()},
                aside / "strategy.safetensors",
            )
            (aside / "round.json").write_text(json.dumps({"round": number, **facts}, indent=2) + "\n")
        self.done = number


class Watch:
    """The grid, watched: it counts bytes, sorts out replies that cannot be averaged, and gives up on homes in time.

    Attributes:
        facts: of the round so far.
    """

    def __init__(self, grid: Grid, settings: Federation, rounds: Rounds):
        self._grid, self._settings, self._rounds = grid, settings, rounds
        self._shapes = {name: tuple(tensor.shape) for name, tensor in rounds.model.state_dict().items()}
        self.facts: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def begin(self) -> None:
        """Wait for the homes: all of them before the first round of this run, then as many as a round needs."""
        needed = self._settings.min_clients if self.facts else self._settings.clients
        self.facts = {"bytes_sent": 0, "bytes_received": 0, "failures": []}
        end = time.monotonic() + self._settings.round_timeout
        while (there := len(list(self._grid.get_node_ids()))) < needed:
            if time.monotonic() > end:
                raise self._stopped(f"{there} of {needed} homes are connected")
            time.sleep(0.5)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The sound replies; why others are not is logged and kept.

        Raises:
            RunError: they are too few.
        """
        messages = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        if not messages:
            return []
        replies = {m.metadata.src_node_id: m for m in self._grid.send_and_receive(messages, timeout=timeout)}
        sound: list[Message] = []
        for sent in messages:
            home = sent.metadata.dst_node_id
            self.facts["bytes_sent"] += _size(sent)
            if (reply := replies.get(home)) is None:
                fault = f"no reply within {timeout:g} s"
            else:
                self.facts["bytes_received"] += _size(reply)
                fault = self._fault(reply)
            if reply is None or fault:
                self.facts["failures"].append(f"home {home}: {fault}")
                log.warning("Round %d goes on without home %d: %s.", self._rounds.done + 1, home, fault)
            else:
                sound.append(reply)
        if len(sound) < self._settings.min_clients:
            raise self._stopped(f"{len(sound)} of {len(messages)} homes gave a sound reply")
        self.facts["homes"] = len(sound)
        losses = [r.content["metrics"].get("loss") for r in sound if "metrics" in r.content]
        if losses and None not in losses:
            self.facts["loss"] = math.fsum(losses) / len(losses)
        return sound

    def _fault(self, reply: Message) -> str:
        """Why a reply cannot be averaged, or nothing. What is masked cannot be looked into."""
        if reply.has_error():
            return reply.error.reason
        if self._settings.privacy == "secure":
            return ""
        records = reply.content
        arrays, metrics = records.array_records.get("arrays", {}), records.metric_records.get("metrics", {})
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        if differing := sorted(shapes.items() ^ self._shapes.items()):
            return f"it has another configuration: its {differing[0][0]} is not of the global model"
        if (steps := metrics.get("num-examples")) != self._settings.local_steps:
            return f"it has another configuration: it made {steps} steps, not {self._settings.local_steps}"
        bad = [name for name, array in arrays.items() if not np.isfinite(array.numpy()).all()]
        return f"its weights are not finite ({bad[0]})" if bad else ""

    def _stopped(self, why: str) -> RunError:
        failures = "".join(f" {each[0].upper()}{each[1:]}." for each in self.facts["failures"])
        return RunError(
            f"Round {self._rounds.done + 1} stopped: {why}, and it takes {self._settings.min_clients} "
            f"(min-clients).{failures} The last global model is {self._rounds.last}; the same command goes on from it."
        )


def _size(message: Message) -> int:
    """Bytes of what a message says; Flower's own count fails on the lists of secure aggregation."""

    def length(value: Any) -> int:
        if isinstance(value, list):
            return sum(map(length, value))
        value = value.data if isinstance(value, Array) else value
        return len(value) if isinstance(value, bytes | str) else 8

    return sum(length(v) for r in message.content.values() for v in r.values()) if message.has_content() else 0


def keep_round(watch: Watch, rounds: Rounds, arrays: dict[str, np.ndarray], strategy: Any) -> None:
    """Save the model that a round ended with, and what the strategy goes on with.

    Raises:
        RunError: it is the model that the round began with.
    """
    state = {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in arrays.items()}
    if all(torch.equal(state[name], tensor) for name, tensor in rounds.model.state_dict().items()):
        raise RunError(f"Round {rounds.done + 1} changed no weight: Flower's log above says why it has no average.")
    own = {f"{m}.{n}": v for m in ("m_t", "v_t") for n, v in (getattr(strategy, m, None) or {}).items()}
    facts = dict(watch.facts)
    if accountant := getattr(strategy, "accountant", None):
        spent = accountant.get_privacy_spent()
        facts |= {"epsilon": spent.epsilon, "delta": spent.delta, "accountant": accountant.state_dict()}
    rounds.save(rounds.done + 1, state, facts, own)


def going_on(base: type) -> type:
    """A strategy that counts rounds from the last one of an earlier run, and stays in float32."""

    class GoingOn(base):  # type: ignore[misc, valid-type]
        before = 0

        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
        ) -> Iterable[Message]:
            grid.begin()
            return super().configure_train(self.before + server_round, arrays, config, grid)

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            arrays, metrics = super().aggregate_train(self.before + server_round, replies)
            if arrays is not None:
                arrays = ArrayRecord({n: Array(array.numpy().astype(np.float32)) for n, array in arrays.items()})
            return arrays, metrics

    GoingOn.__name__ = base.__name__
    return GoingOn


def run(watch: Watch, settings: Federation, rounds: Rounds) -> None:
    """The rounds, by Flower's strategies; central privacy is Flower's wrapper with its accountant."""
    kinds: dict[str, tuple[type, dict[str, Any]]] = {
        "fedavg": (FedAvg, {}),
        "fedprox": (FedProx, {"proximal_mu": settings.proximal_mu}),
        "fedadam": (FedAdam, {"eta": settings.server_rate}),
    }
    kind, own = kinds[settings.strategy]
    least = settings.min_clients
    common = {"fraction_evaluate": 0.0, "min_train_nodes": least, "min_available_nodes": least, **own}
    if settings.privacy == "central":
        accountant = RdpAccountant(
            PrivacyConfig(
                settings.delta,
                settings.clients,
                NeighboringRelation.ADD_OR_REMOVE_ONE,
                SamplingMethod.NO_AMPLIFICATION,
            )
        )
        if rounds.done:
            accountant.load_state_dict(json.loads((rounds.last / "round.json").read_text())["accountant"])
        strategy = going_on(DifferentialPrivacyServerSideFixedClipping)(
            kind(**common), settings.noise_multiplier, settings.clipping_norm, settings.clients, accountant=accountant
        )
    else:
        strategy = going_on(kind)(**common)
    strategy.before = rounds.done
    for name, value in load_file(rounds.last / "strategy.safetensors").items():  # FedAdam's moments
        moment, _, weight = name.partition(".")
        setattr(strategy, moment, (getattr(strategy, moment) or {}) | {weight: value.numpy()})

    def keep(server_round: int, arrays: ArrayRecord) -> None:
        if server_round:
            keep_round(watch, rounds, {name: array.numpy() for name, array in arrays.items()}, strategy)

    strategy.start(
        grid=watch,
        initial_arrays=ArrayRecord.from_torch_state_dict(rounds.model.state_dict()),
        num_rounds=settings.num_rounds - rounds.done,
        timeout=settings.round_timeout,
        train_config=ConfigRecord({"model": rounds.model.config.to_json_string()}),
        evaluate_fn=keep,
    )


def run_secure(watch: Watch, context: Context, settings: Federation, rounds: Rounds) -> None:
    """The rounds by SecAgg+, which Flower has for its older strategies alone: the server sees only the sum."""
    before, config = rounds.done, rounds.model.config.to_json_string()

    def configure(server_round: int) -> dict[str, Any]:
        watch.begin()
        return {"server-round": before + server_round, "model": config}

    def keep(server_round: int, arrays: list[np.ndarray], _config: dict[str, Any]) -> None:
        if server_round:
            keep_round(watch, rounds, dict(zip(rounds.model.state_dict(), arrays, strict=True)), None)

    strategy = older.FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=settings.min_clients,
        min_available_clients=settings.min_clients,
        on_fit_config_fn=configure,
        evaluate_fn=keep,
        initial_parameters=ndarrays_to_parameters([t.numpy() for t in rounds.model.state_dict().values()]),
    )
    workflow = DefaultWorkflow(
        fit_workflow=SecAggPlusWorkflow(
            num_shares=settings.clients,
            reconstruction_threshold=settings.min_clients,
            max_weight=float(settings.local_steps),
            clipping_range=SECURE_RANGE,
            timeout=settings.round_timeout,
        )
    )
    rounds_left = ServerConfig(num_rounds=settings.num_rounds - before, round_timeout=settings.round_timeout)
    workflow(watch, LegacyContext(context, config=rounds_left, strategy=strategy))
