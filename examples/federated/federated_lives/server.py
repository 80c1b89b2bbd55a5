"""The server: it sends the global model out, averages what comes back, and keeps the model of every round.

Its folder has round-000 (the start), round-001 and so on, each a checkpoint as `from_pretrained` takes it with a
round.json. The same command goes on after the last round. pyproject.toml has the settings and says what they mean.
"""

import json
import time
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.common import ndarrays_to_parameters
from flwr.common.serde import message_to_proto
from flwr.server import LegacyContext, ServerConfig
from flwr.server import strategy as older
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, NeighboringRelation, PrivacyConfig, RdpAccountant, SamplingMethod, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedProx
from safetensors.torch import load_file, save_file

from federated_lives.home import SECURE_RANGE
from singlelife.croco import CroCoForPreTraining, CroCoImageProcessor
from singlelife.errors import RunError
from singlelife.files import atomic_dir
from singlelife.pretraining.arguments import ModelConfig
from singlelife.pretraining.checkpoints import load_weights, starting_config

FREE = ("folder", "min-clients", "round-timeout")  # settings that may change when a federation goes on
log = getLogger("flwr")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left.

    Raises:
        RunError: a setting cannot work or has changed, homes are missing, or a round has too few sound replies.
    """
    settings: Any = context.run_config
    check(settings)
    rounds = Rounds(settings)
    homes = Homes(grid, settings, rounds)
    strategy = strategy_of(settings, rounds)
    for number in range(rounds.done + 1, settings["num-rounds"] + 1):
        homes.begin()
        config = {"model": rounds.model.config.to_json_string(), "server-round": number}
        if settings["privacy"] == "secure":
            state = secure_round(homes, context, rounds, config)
        else:  # what `strategy.start` does, but from any round on
            arrays = ArrayRecord.from_torch_state_dict(rounds.model.state_dict())
            messages = strategy.configure_train(number, arrays, ConfigRecord(config), homes)
            replies = homes.send_and_receive(messages, timeout=settings["round-timeout"])
            averaged, _ = strategy.aggregate_train(number, replies)
            state = {name: torch.tensor(array.numpy(), dtype=torch.float32) for name, array in averaged.items()}
        rounds.save(number, state, homes.facts, strategy)


def check(settings: Any) -> None:
    """Make sure that the settings can work.

    Raises:
        RunError: they cannot.
    """
    strategy, privacy, clients = (settings[name] for name in ("strategy", "privacy", "clients"))
    strategies = {"none": ("fedavg", "fedprox", "fedadam"), "secure": ("fedavg",)}
    strategies |= {"local": strategies["none"], "central": ("fedavg", "fedprox")}
    if strategy not in strategies.get(privacy, ()):
        raise RunError(f"Strategies by privacy are {strategies}; {strategy} with privacy {privacy} is not among them.")
    most = clients - (privacy == "secure")  # the shares of the others give back a dead home's mask
    least = {"central": clients, "secure": 2}.get(privacy, 1)  # Flower's epsilon is of rounds with every home
    if not least <= settings["min-clients"] <= most:
        raise RunError(f"min-clients should be {least} to {most} of {clients} clients with privacy {privacy}.")


class Rounds:
    """The server's folder.

    Attributes:
        done: rounds that it has.
        model: of the last one.
    """

    def __init__(self, settings: Any):
        self.folder = Path(settings["folder"]).expanduser().absolute()
        fixed = {name: value for name, value in settings.items() if name not in FREE}
        about = self.folder / "federation.json"
        before = json.loads(about.read_text()) if about.exists() else fixed
        if changes := [f"{n} was {before.get(n)!r}, now {fixed[n]!r}" for n in fixed if before.get(n) != fixed[n]]:
            raise RunError(
                f"{self.folder} has a federation of other settings: {'; '.join(changes)}. Go on with those, or start "
                "another folder."
            )
        self.done = max((int(path.name[6:]) for path in self.folder.glob("round-*[0-9]")), default=-1)
        if self.done < 0:
            torch.manual_seed(settings["seed"])
            start, config = Path(settings["model"]), starting_config(ModelConfig(model=settings["model"]))
            self.model = load_weights(start, config) if start.is_dir() else CroCoForPreTraining(config)
            self.save(0, self.model.state_dict(), {}, None)
            about.write_text(json.dumps(fixed, indent=2) + "\n")
        self.model = CroCoForPreTraining.from_pretrained(self.last)

    @property
    def last(self) -> Path:
        return self.folder / f"round-{self.done:03d}"

    def save(self, number: int, state: dict[str, torch.Tensor], facts: dict[str, Any], strategy: Any) -> None:
        """Write a round, whole or not at all: the model, and what the strategy goes on with."""
        self.model.load_state_dict(state)
        side = self.model.config.image_size
        moments = {f"{m}.{n}": v for m in ("m_t", "v_t") for n, v in (getattr(strategy, m, None) or {}).items()}
        if accountant := getattr(strategy, "accountant", None):
            spent = accountant.get_privacy_spent()
            facts |= {"epsilon": spent.epsilon, "delta": spent.delta, "accountant": accountant.state_dict()}
        with atomic_dir(self.folder / f"round-{number:03d}") as aside:
            self.model.save_pretrained(aside)
            CroCoImageProcessor(size={"height": side, "width": side}).save_pretrained(aside)
            save_file(
                {n: torch.tensor(np.array(value)) for n, value in moments.items()}, aside / "moments.safetensors"
            )
            (aside / "round.json").write_text(json.dumps({"round": number, **facts}, indent=2) + "\n")
        self.done = number


def strategy_of(settings: Any, rounds: Rounds) -> Any:
    """Flower's strategy, as it was after the last round."""
    least = settings["min-clients"]
    common = {"fraction_evaluate": 0.0, "min_train_nodes": least, "min_available_nodes": least}
    strategy: Any = {
        "fedavg": lambda: FedAvg(**common),
        "fedprox": lambda: FedProx(**common, proximal_mu=settings["proximal-mu"]),
        "fedadam": lambda: FedAdam(**common, eta=settings["server-rate"]),
    }[settings["strategy"]]()
    for name, value in load_file(rounds.last / "moments.safetensors").items():  # FedAdam's
        moment, _, weight = name.partition(".")
        setattr(strategy, moment, (getattr(strategy, moment) or {}) | {weight: value.numpy()})
    if settings["privacy"] != "central":
        return strategy
    kind = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
    accountant = RdpAccountant(PrivacyConfig(settings["delta"], settings["clients"], *kind))
    if rounds.done:
        accountant.load_state_dict(json.loads((rounds.last / "round.json").read_text())["accountant"])
    noise = (settings[name] for name in ("noise-multiplier", "clipping-norm", "clients"))
    return DifferentialPrivacyServerSideFixedClipping(strategy, *noise, accountant=accountant)


def secure_round(homes: Any, context: Context, rounds: Rounds, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A round of SecAgg+, which Flower has for its older strategies alone: the server sees only the sum.

    Raises:
        RunError: there is no sum.
    """
    settings: Any = context.run_config
    before, least, found = rounds.model.state_dict(), settings["min-clients"], {}

    def keep(_round: int, arrays: list[np.ndarray], _config: dict[str, Any]) -> None:
        found.update({n: torch.tensor(a, dtype=torch.float32) for n, a in zip(before, arrays, strict=True)})

    strategy = older.FedAvg(
        fraction_evaluate=0.0, min_fit_clients=least, min_available_clients=least, on_fit_config_fn=lambda _: config,
        evaluate_fn=keep, initial_parameters=ndarrays_to_parameters([tensor.numpy() for tensor in before.values()]),
    )  # fmt: skip
    masked = SecAggPlusWorkflow(
        num_shares=settings["clients"], reconstruction_threshold=least, max_weight=float(settings["local-steps"]),
        clipping_range=SECURE_RANGE, timeout=settings["round-timeout"],
    )  # fmt: skip
    DefaultWorkflow(masked)(homes, LegacyContext(context, config=ServerConfig(num_rounds=1), strategy=strategy))
    if all(torch.equal(found[name], tensor) for name, tensor in before.items()):
        raise RunError(f"Round {rounds.done + 1} changed no weight: Flower's log above says why there is no sum.")
    return found


class Homes:
    """Flower's grid, watched: it counts bytes, sorts out replies that cannot be averaged, and waits only so long.

    Attributes:
        facts: of the round so far.
    """

    def __init__(self, grid: Grid, settings: Any, rounds: Rounds):
        self._grid, self._settings, self._rounds = grid, settings, rounds
        self._shapes = [(name, tuple(tensor.shape)) for name, tensor in rounds.model.state_dict().items()]
        self.facts: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def begin(self) -> None:
        """Wait for the homes: all of them before the first round of this run, then as many as a round needs."""
        needed = self._settings["min-clients" if self.facts else "clients"]
        self.facts = {"bytes_sent": 0, "bytes_received": 0, "failures": []}
        end = time.monotonic() + self._settings["round-timeout"]
        while (there := len(list(self._grid.get_node_ids()))) < needed:
            if time.monotonic() > end:
                raise self._stopped(f"{there} of {needed} homes are connected")
            time.sleep(0.5)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The sound replies; why others are not is logged and kept.

        Raises:
            RunError: they are too few.
        """
        sent = {message.metadata.dst_node_id: message for message in messages}
        replies = {m.metadata.src_node_id: m for m in self._grid.send_and_receive(sent.values(), timeout=timeout)}
        self.facts["bytes_sent"] += sum(message_to_proto(message).ByteSize() for message in sent.values())
        self.facts["bytes_received"] += sum(message_to_proto(message).ByteSize() for message in replies.values())
        faults = {home: self._fault(replies[home]) if home in replies else "no reply in time" for home in sorted(sent)}
        for home, fault in faults.items():
            if fault:
                self.facts["failures"].append(f"home {home}: {fault}")
                log.warning("Round %d goes on without home %d: %s.", self._rounds.done + 1, home, fault)
        sound = [replies[home] for home, fault in faults.items() if not fault]
        if sent and len(sound) < self._settings["min-clients"]:
            raise self._stopped(f"{len(sound)} of {len(sent)} homes gave a sound reply")
        self.facts["homes"] = len(sound)
        return sound

    def _fault(self, reply: Message) -> str:
        """Why a reply cannot be averaged, or nothing. What is masked cannot be looked into."""
        if reply.has_error():
            return reply.error.reason
        if self._settings["privacy"] == "secure":
            return ""
        arrays = reply.content.array_records.get("arrays", {})
        shapes = [(name, tuple(array.shape)) for name, array in arrays.items()]  # Flower clips by their order
        steps = reply.content.metric_records.get("metrics", {}).get("num-examples")
        if shapes != self._shapes or steps != self._settings["local-steps"]:
            return "it has another configuration: other weights than the global model, or another number of steps"
        finite = all(np.isfinite(array.numpy()).all() for array in arrays.values())
        return "" if finite else "its weights are not finite"

    def _stopped(self, why: str) -> RunError:
        failures = "".join(f" {each[0].upper()}{each[1:]}." for each in self.facts["failures"])
        return RunError(
            f"Round {self._rounds.done + 1} stopped: {why}, and it takes {self._settings['min-clients']} "
            f"(min-clients).{failures} The last global model is {self._rounds.last}; the same command goes on from it."
        )
