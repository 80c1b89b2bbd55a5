"""A home: it trains the global model on its own life for some steps and sends back the weights.

Besides them it sends the number of steps and the type of an error. What an error says stays in the home's own log,
because it may name files.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.common.constant import ErrorCode
from flwr.compat.common.recorddict_compat import fitres_to_recorddict

# torch and singlelife are imported where they are needed: three of the four messages of secure aggregation are not.
SECURE_RANGE = 8.0  # secure aggregation cuts off what is beyond this and minus this
log = getLogger("flwr")


def private(message: Message, context: Context, call_next: Any) -> Message:
    """The mod of Flower that the federation asks for."""
    settings: Any = context.run_config
    if settings["privacy"] == "secure":
        return secaggplus_mod(message, context, call_next)
    if settings["privacy"] == "local":
        clip = float(settings["clipping-norm"])  # the updates of two lives differ by twice this at most
        return LocalDpMod(clip, 2 * clip, settings["epsilon"], settings["delta"])(message, context, call_next)
    return call_next(message, context)


app = ClientApp(mods=[private])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer the global model with this life's."""
    try:
        settings: Any = context.run_config
        model, config = received(message, settings)
        return reply(message, _trained(model, config, settings, context.node_config).state_dict(), settings)
    except Exception as error:
        log.error("This home takes no part in the round: %s", error, exc_info=error)
        why = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error).__name__}; the home's log says more")
        return Message(why, reply_to=message)


def received(message: Message, settings: Any) -> tuple[Any, Any]:
    """The global model and what the server says about the round."""
    import torch

    from singlelife.croco import CroCoConfig, CroCoForPreTraining

    config = next(each for each in message.content.config_records.values() if "model" in each)
    arrays = next(iter(message.content.array_records.values()))
    model = CroCoForPreTraining(CroCoConfig.from_dict(json.loads(str(config["model"]))))
    names = model.state_dict() if settings["privacy"] == "secure" else arrays  # Flower's older messages number weights
    weights = (torch.tensor(array.numpy()) for array in arrays.values())
    model.load_state_dict(dict(zip(names, weights, strict=True)))
    return model, config


def _trained(model: Any, config: Any, settings: Any, own: Any) -> Any:
    """Train on this home's life with the package, in a run folder for each round."""
    import singlelife
    from singlelife.optimization import learning_rate
    from singlelife.pretraining.arguments import parse_arguments

    life = str(own.get("life") or settings["lives"].split(",")[int(own["partition-id"])])
    where = Path(str(own.get("folder", "federated_home"))) / Path(life).name
    number, steps, seed = int(config["server-round"]), settings["local-steps"], settings["seed"]
    folder = where / f"round-{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)  # of a round that did not come to its end
    model.save_pretrained(where / "received")
    run = {"life": life, "video": own.get("video"), "config": settings["recipe"], "model": str(where / "received")}
    peak = parse_arguments([f"--{name}={value}" for name, value in run.items() if value]).train.peak_learning_rate
    rate = learning_rate(  # half a cosine over all rounds, constant within one
        (number - 1) * steps, peak=peak, warmup_steps=0, max_steps=settings["num-rounds"] * steps
    )
    with proximal(float(config.get("proximal-mu", 0.0))):
        trained = singlelife.train(
            **run, output_dir=str(folder), max_steps=steps, seed=seed * 10_000 + number, learning_rate=rate,
            warmup_steps=steps // 10, min_lr_rate=1.0, save_steps=steps, save_total_limit=1, picture_steps=0,
        )  # fmt: skip
    shutil.rmtree(folder / f"checkpoint-{steps}")  # AdamW's moments: each round starts with new ones
    return trained.model


@contextmanager
def proximal(mu: float) -> Iterator[None]:
    """FedProx: every step also pulls the weights towards those that the round began with, mu times their distance."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    start: dict[Any, Any] = {}

    def pull(optimizer: Any, *_: Any) -> None:
        for parameter in (each for group in optimizer.param_groups for each in group["params"]) if mu else ():
            began = start.setdefault(parameter, parameter.detach().clone())
            parameter.grad.add_(parameter.detach() - began, alpha=mu)

    hook = register_optimizer_step_pre_hook(pull)
    try:
        yield
    finally:
        hook.remove()


def reply(message: Message, state: dict[str, Any], settings: Any) -> Message:
    """The trained weights, in the form that the kind of privacy takes.

    Raises:
        RunError: secure aggregation would cut a weight off, and the server could not see it.
    """
    if settings["privacy"] == "secure":
        from singlelife.errors import RunError

        if not all(bool((tensor.abs() <= SECURE_RANGE).all()) for tensor in state.values()):
            raise RunError(f"A weight is not within {SECURE_RANGE:g} and -{SECURE_RANGE:g} after the round.")
        weights = ndarrays_to_parameters([tensor.numpy() for tensor in state.values()])
        answer = FitRes(Status(Code.OK, ""), weights, num_examples=settings["local-steps"], metrics={})
        return Message(fitres_to_recorddict(answer, keep_input=False), reply_to=message)
    steps = MetricRecord({"num-examples": settings["local-steps"]})
    return Message(
        RecordDict({"arrays": ArrayRecord.from_torch_state_dict(state), "metrics": steps}), reply_to=message
    )
