"""The server: it sends the global model out, averages what comes back, and keeps the model of every round.

Its folder has round-000 (the start), round-001 and so on, each a checkpoint as `from_pretrained` takes it with a
round.json. The same command goes on after the last round. pyproject.toml has the settings and says what they mean.
What stops a run is a RunError: a setting, homes that are missing, or too few sound replies.
"""

import json
import time
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr import server as older
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.common import ndarrays_to_parameters
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid, NeighboringRelation, PrivacyConfig, RdpAccountant, SamplingMethod, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedProx
from safetensors.numpy import load_file, save_file

from federated_lives.home import SECURE_RANGE
from singlelife import CroCoForPreTraining
from singlelife.errors import RunError
from singlelife.files import atomic_dir
from singlelife.pretraining.arguments import ModelConfig
from singlelife.pretraining.checkpoints import load_weights, starting_config
from singlelife.pretraining.networks import image_processor, new_network

STRATEGIES = {"fedavg": FedAvg, "fedprox": FedProx, "fedadam": FedAdam}
TAKES = {"none": [*STRATEGIES], "local": [*STRATEGIES], "central": ["fedavg", "fedprox"], "secure": ["fedavg"]}
FREE = ("folder", "min-clients", "round-timeout")  # settings that may change when a federation goes on
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left."""
    settings: Any = context.run_config
    check(settings)
    federation: Any = Federation(grid, settings)
    strategy = strategy_of(federation)
    for number in range(federation.done + 1, settings["num-rounds"] + 1):
        federation.begin()
        config = {"model": federation.model.config.to_json_string(), "server-round": number}
        if settings["privacy"] == "secure":
            state = secure_round(federation, context, config)
        else:  # what `strategy.start` does, but from any round on
            arrays = ArrayRecord.from_torch_state_dict(federation.model.state_dict())
            messages = strategy.configure_train(number, arrays, ConfigRecord(config), federation)
            replies = federation.send_and_receive(messages, timeout=settings["round-timeout"])
            averaged, _ = strategy.aggregate_train(number, replies)
            state = averaged.to_torch_state_dict()
        federation.save(state, strategy)


def check(settings: Any) -> None:
    """Make sure that the settings can work."""
    strategy, privacy, clients = (settings[name] for name in ("strategy", "privacy", "clients"))
    if strategy not in TAKES.get(privacy, ()):
        raise RunError(f"Strategies by privacy are {TAKES}; {strategy} with privacy {privacy} is not among them.")
    most = clients - (privacy == "secure")  # the shares of the others give back a dead home's mask
    least = {"central": clients, "secure": 2}.get(privacy, 1)  # Flower's epsilon is of rounds with every home
    if not least <= settings["min-clients"] <= most:
        raise RunError(f"min-clients should be {least} to {most} of {clients} clients with privacy {privacy}.")


class Federation:
    """Flower's grid of homes, which counts bytes here, leaves out what cannot be averaged, and waits only so long; and
    the server's folder: the number of rounds `done`, the `last` one's folder and `model`, and `facts` of the next."""

    def __init__(self, grid: Grid, settings: Any):
        self.grid, self.settings = grid, settings
        self.facts: dict[str, Any] = {}
        self.folder = Path(settings["folder"]).expanduser().absolute()
        fixed = {name: value for name, value in settings.items() if name not in FREE}
        about = self.folder / "federation.json"
        before = json.loads(about.read_text()) if about.exists() else fixed
        if changes := [f"{n} was {before.get(n)!r}, now {fixed[n]!r}" for n in fixed if before.get(n) != fixed[n]]:
            where = f"{self.folder} has a federation of other settings"
            raise RunError(f"{where}: {'; '.join(changes)}. Go on with those, or start another folder.")
        self.done = max((int(path.name[6:]) for path in self.folder.glob("round-*[0-9]")), default=-1)
        if self.done < 0:
            torch.manual_seed(settings["seed"])
            start, config = Path(settings["model"]), starting_config(ModelConfig(model=settings["model"]))
            self.model: Any = load_weights(start, config) if start.is_dir() else new_network(config)
            self.save(self.model.state_dict())
            about.write_text(json.dumps(fixed, indent=2) + "\n")
        self.last = self.folder / f"round-{self.done:03d}"
        self.model = CroCoForPreTraining.from_pretrained(self.last)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.grid, name)

    def begin(self) -> None:
        """Wait for the homes: all of them before the first round of this run, then as many as a round needs."""
        needed = self.settings["min-clients" if self.facts else "clients"]
        self.facts = {"bytes_sent": 0, "bytes_received": 0, "failures": []}
        end = time.monotonic() + self.settings["round-timeout"]
        while (there := len(list(self.grid.get_node_ids()))) < needed:
            if time.monotonic() > end:
                self.stop(f"{there} of {needed} homes are connected")
            time.sleep(0.5)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The sound replies; the log and `facts` say why others are not."""
        sent = {message.metadata.dst_node_id: message for message in messages}
        replies = {m.metadata.src_node_id: m for m in self.grid.send_and_receive(sent.values(), timeout=timeout)}
        self.facts["bytes_sent"] += sum(message_to_proto(message).ByteSize() for message in sent.values())
        self.facts["bytes_received"] += sum(message_to_proto(message).ByteSize() for message in replies.values())
        faults = {home: self.fault(replies.get(home)) for home in sorted(sent)}
        sound = [replies[home] for home, fault in faults.items() if not fault]
        for failure in [f"home {home}: {fault}" for home, fault in faults.items() if fault]:
            self.facts["failures"].append(failure)
            getLogger("flwr").warning("Round %d goes on without %s.", self.done + 1, failure)
        self.facts["homes"] = len(sound)
        if sent and len(sound) < self.settings["min-clients"]:
            self.stop(f"{len(sound)} of {len(sent)} homes gave a sound reply")
        return sound

    def fault(self, reply: Message | None) -> str:
        """Why a reply cannot be averaged, or nothing. What is masked cannot be looked into."""
        if reply is None or reply.has_error():
            return reply.error.reason if reply else "no reply in time"
        if self.settings["privacy"] == "secure":
            return ""
        arrays = reply.content.array_records.get("arrays", {})
        shapes = [(name, tuple(array.shape)) for name, array in arrays.items()]  # Flower clips by their order
        expected = [(name, tuple(tensor.shape)) for name, tensor in self.model.state_dict().items()]
        steps = reply.content.metric_records.get("metrics", {}).get("num-examples")
        if shapes != expected or steps != self.settings["local-steps"]:
            return "it has another configuration: other weights than the global model, or another number of steps"
        finite = all(np.isfinite(array.numpy()).all() for array in arrays.values())
        return "" if finite else "its weights are not finite"

    def stop(self, why: str) -> None:
        why = "; ".join([f"{why}, and it takes {self.settings['min-clients']} (min-clients)", *self.facts["failures"]])
        after = f"The last global model is {self.last}; the same command goes on from it."
        raise RunError(f"Round {self.done + 1} stopped: {why}. {after}")

    def save(self, state: dict[str, torch.Tensor], strategy: Any = None) -> None:
        """Write the next round, whole or not at all: the model, FedAdam's moments, and the epsilon so far."""
        self.model.load_state_dict(state)
        moments = {f"{m}.{n}": v for m in ("m_t", "v_t") for n, v in (getattr(strategy, m, None) or {}).items()}
        if accountant := getattr(strategy, "accountant", None):
            spent = accountant.get_privacy_spent()
            self.facts |= {"epsilon": spent.epsilon, "delta": spent.delta, "accountant": accountant.state_dict()}
        self.last = self.folder / f"round-{self.done + 1:03d}"
        with atomic_dir(self.last) as aside:
            self.model.save_pretrained(aside)
            image_processor(self.model.config).save_pretrained(aside)
            save_file(moments, aside / "moments.safetensors")
            (aside / "round.json").write_text(json.dumps({"round": self.done + 1, **self.facts}, indent=2) + "\n")
        self.done += 1


def strategy_of(federation: Federation) -> Any:
    """Flower's strategy, as it was after the last round."""
    settings, last, least = federation.settings, federation.last, federation.settings["min-clients"]
    own = {
        "fedavg": {},
        "fedprox": {"proximal_mu": settings["proximal-mu"]},
        "fedadam": {"eta": settings["server-rate"]},
    }
    common = {"fraction_evaluate": 0.0, "min_train_nodes": least, "min_available_nodes": least}
    strategy: Any = STRATEGIES[settings["strategy"]](**common, **own[settings["strategy"]])
    for key, value in load_file(last / "moments.safetensors").items():  # FedAdam's
        moment, _, weight = key.partition(".")
        setattr(strategy, moment, (getattr(strategy, moment) or {}) | {weight: value})
    if settings["privacy"] != "central":
        return strategy
    kind = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
    accountant = RdpAccountant(PrivacyConfig(settings["delta"], settings["clients"], *kind))
    if federation.done:
        accountant.load_state_dict(json.loads((last / "round.json").read_text())["accountant"])
    noise = (settings[name] for name in ("noise-multiplier", "clipping-norm", "clients"))
    return DifferentialPrivacyServerSideFixedClipping(strategy, *noise, accountant=accountant)


def secure_round(federation: Any, context: Context, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A round of SecAgg+, which Flower has for its older strategies alone: the server sees only the sum."""
    settings, before = federation.settings, federation.model.state_dict()
    least = settings["min-clients"]
    strategy = older.strategy.FedAvg(
        fraction_evaluate=0.0, min_fit_clients=least, min_available_clients=least, on_fit_config_fn=lambda _: config,
        initial_parameters=ndarrays_to_parameters([tensor.numpy() for tensor in before.values()]),
    )  # fmt: skip
    masked = older.workflow.SecAggPlusWorkflow(
        num_shares=settings["clients"], reconstruction_threshold=least, max_weight=float(settings["local-steps"]),
        clipping_range=SECURE_RANGE, timeout=settings["round-timeout"],
    )  # fmt: skip
    one = older.LegacyContext(context, older.ServerConfig(num_rounds=1), strategy)
    older.workflow.DefaultWorkflow(masked)(federation, one)
    (weights,) = context.state.array_records.values()
    state = dict(zip(before, weights.to_torch_state_dict().values(), strict=True))
    if all(torch.equal(state[name].float(), tensor) for name, tensor in before.items()):
        raise RunError(f"Round {federation.done + 1} changed no weight: Flower's log above says why there is no sum.")
    return state
