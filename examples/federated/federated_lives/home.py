"""A home: it trains the global model on its own life for some steps and sends back the weights.

Besides them it sends the number of steps and the type of an error. What an error says stays in the home's own log,
because it may name files.
"""

import json
import shutil
from contextlib import nullcontext
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

import singlelife  # it imports torch when a model is made: three of the four messages of secure aggregation need none
from singlelife.errors import RunError

SECURE_RANGE = 8.0  # secure aggregation cuts off what is beyond this and minus this


def private(message: Message, context: Context, call_next: Any) -> Message:
    """Flower's mod for the privacy that the federation asks for. The server learns only the type of an error."""
    settings: Any = context.run_config
    try:
        if settings["privacy"] == "secure":
            return secaggplus_mod(message, context, call_next)
        if settings["privacy"] == "local":
            clip = settings["clipping-norm"]  # the updates of two lives differ by twice this at most
            return LocalDpMod(clip, 2 * clip, settings["epsilon"], settings["delta"])(message, context, call_next)
        return call_next(message, context)
    except Exception as error:
        getLogger("flwr").exception("This home takes no part in the round: %s", error)
        why = f"{type(error).__name__}; the home's log says more"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, why), reply_to=message)


app = ClientApp(mods=[private])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer the global model with this life's."""
    model, config = received(message, context.run_config)
    trained = train_at_home(model, config, context.run_config, context.node_config)
    return reply(message, trained.state_dict(), context.run_config)


def received(message: Message, settings: Any) -> tuple[Any, Any]:
    """The global model and what the server says about the round."""
    config = next(each for each in message.content.config_records.values() if "model" in each)
    model = singlelife.CroCoForPreTraining(singlelife.CroCoConfig.from_dict(json.loads(config["model"])))
    weights = next(iter(message.content.array_records.values())).to_torch_state_dict()
    names = model.state_dict() if settings["privacy"] == "secure" else weights  # Flower's older messages number them
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return model, config


def train_at_home(model: Any, config: Any, settings: Any, own: Any) -> Any:
    """Train on this home's life with the package, in a run folder for each round."""
    from singlelife.optimization import learning_rate
    from singlelife.pretraining.arguments import parse_arguments

    life = str(own.get("life") or settings["lives"].split(",")[own["partition-id"]])
    where = Path(own.get("folder", "federated_home")) / Path(life).name
    number, steps = config["server-round"], settings["local-steps"]
    folder = where / f"round-{number:03d}"
    shutil.rmtree(folder, ignore_errors=True)  # of a round that did not come to its end
    model.save_pretrained(where / "received")
    run = {"life": life, "video": own.get("video"), "config": settings["recipe"], "model": str(where / "received")}
    peak = parse_arguments([f"--{name}={value}" for name, value in run.items() if value]).train.peak_learning_rate
    rate = learning_rate(  # half a cosine over all rounds, constant within one
        (number - 1) * steps, peak=peak, warmup_steps=0, max_steps=settings["num-rounds"] * steps
    )
    with proximal(config.get("proximal-mu", 0.0)):
        trained = singlelife.train(
            **run, output_dir=str(folder), seed=settings["seed"] * 10_000 + number, max_steps=steps, save_steps=steps,
            learning_rate=rate, warmup_steps=steps // 10, min_lr_rate=1.0, save_total_limit=1, picture_steps=0,
        )  # fmt: skip
    shutil.rmtree(folder / f"checkpoint-{steps}")  # AdamW's moments: each round starts with new ones
    return trained.model


def proximal(mu: float) -> Any:
    """FedProx, while it lasts, unless mu is 0: each step also pulls the weights towards the round's start, mu times
    their distance."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    if not mu:
        return nullcontext()
    start: dict[Any, Any] = {}

    def pull(optimizer: Any, *_: Any) -> None:
        for weight in (each for group in optimizer.param_groups for each in group["params"]):
            began = start.setdefault(weight, weight.detach().clone())
            weight.grad.add_(weight.detach() - began, alpha=mu)

    return register_optimizer_step_pre_hook(pull)


def reply(message: Message, state: dict[str, Any], settings: Any) -> Message:
    """The trained weights, in the form that the kind of privacy takes."""
    steps = settings["local-steps"]
    if settings["privacy"] != "secure":
        content = {
            "arrays": ArrayRecord.from_torch_state_dict(state),
            "metrics": MetricRecord({"num-examples": steps}),
        }
        return Message(RecordDict(content), reply_to=message)
    if not all((tensor.abs() <= SECURE_RANGE).all() for tensor in state.values()):  # nor is NaN
        raise RunError(f"A weight is not within {SECURE_RANGE:g} and -{SECURE_RANGE:g} after the round.")
    weights = ndarrays_to_parameters([tensor.numpy() for tensor in state.values()])
    answer = FitRes(Status(Code.OK, ""), weights, num_examples=steps, metrics={})
    return Message(fitres_to_recorddict(answer, keep_input=False), reply_to=message)
