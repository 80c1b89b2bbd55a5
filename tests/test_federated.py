"""The federated example, by Flower's own messages and strategies, in one process: real homes for training, and homes
that send what a test asks for where the server is tested. The slow test runs all of Flower's processes."""

import copy
import importlib
import json
import math
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from singlelife.errors import RunError

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[federated]'")

EXAMPLE = Path(__file__).parents[1] / "examples" / "federated"
RECIPE = {
    "min_gap": 0.1, "max_gap": 0.4, "train_batch_size": 8, "learning_rate": 2e-3, "eval_pairs": 12,
    "dataloader_num_workers": 0, "cpu_threads": 1, "mixed_precision": "no", "attention": "sdpa",
}  # fmt: skip


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The example's modules, with Flower as it is inside a process of a run."""
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
    monkeypatch.syspath_prepend(EXAMPLE)
    identity = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
    for name, value in {"task_id": 1, "run_id": 1, "node_id": 0}.items():
        monkeypatch.setattr(identity, f"_{name}", value, raising=False)
    names = ("home", "server", "settings")
    yield SimpleNamespace(**{name: importlib.import_module(f"federated_lives.{name}") for name in names})
    for name in [each for each in sys.modules if each.startswith("federated_lives")]:
        del sys.modules[name]


@pytest.fixture
def config(tmp_path: Path, micro_model: Path) -> dict[str, Any]:
    """The run config of pyproject.toml, with a micro-model and two rounds."""
    defaults = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"cache_dir": str(tmp_path / "cache")}))
    own = {"folder": str(tmp_path / "federation"), "model": str(micro_model), "recipe": str(recipe)}
    return defaults | own | {"num-rounds": 2, "local-steps": 4, "round-timeout": 2.0}


class Homes:
    """A grid of homes in this process: each is an app of Flower's, or None for one that never answers."""

    run = SimpleNamespace(run_id=1)

    def __init__(self, config: dict[str, Any], apps: list[Any], own: Callable[[int], dict[str, Any]] = lambda _: {}):
        from flwr.app import Context, RecordDict

        self.apps = apps
        self.contexts = [
            Context(run_id=1, node_id=n, node_config=own(n), state=RecordDict(), run_config=config)
            for n in range(len(apps))
        ]

    def get_node_ids(self) -> list[int]:
        return list(range(len(self.apps)))

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        messages = [copy.deepcopy(message) for message in messages]  # as over a wire: they share nothing
        homes = [(self.apps[message.metadata.dst_node_id], message) for message in messages]
        return [app(m, self.contexts[m.metadata.dst_node_id]) for app, m in homes if app]


def serve(parts: SimpleNamespace, config: dict[str, Any], apps: list[Any], **own: Any) -> dict[int, dict[str, Any]]:
    """Run a federation to its end; the model of each round."""
    from flwr.app import Context, RecordDict

    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    parts.server.app(Homes(config, apps, **own), context)
    found = sorted(Path(config["folder"]).glob("round-*[0-9]"))
    return {int(each.name[6:]): load_file(each / "model.safetensors") for each in found}


def moved(parts: SimpleNamespace, by: float, change: Callable[[dict[str, Any]], Any] = lambda state: None) -> Any:
    """A home that adds `by` to every weight, and then spoils them by `change`."""
    from flwr.app import Message
    from flwr.clientapp import ClientApp

    app = ClientApp(mods=[parts.home.private])

    @app.train()
    def train(message: Message, context: Any) -> Message:
        settings = parts.settings.Federation.of(context.run_config)
        model, _ = parts.home._received(message, settings)
        state = {name: tensor + by for name, tensor in model.state_dict().items()}
        change(state)
        model.state_dict = lambda: state
        return parts.home._reply(message, model, 0.5, settings)

    return app


def facts(config: dict[str, Any], number: int) -> dict[str, Any]:
    return json.loads((Path(config["folder"]) / f"round-{number:03d}" / "round.json").read_text())


@pytest.mark.integration
def test_two_homes_train_for_two_rounds(parts, config, clip, tmp_path):
    """The global model is the mean of theirs; the second round starts from it; and a server that lost its last round
    makes the same one again."""
    own = {"own": lambda n: {"life": f"pan_{n}", "video": str(clip), "folder": str(tmp_path / "homes")}}
    models = serve(parts, config, [parts.home.app] * 2, **own)
    for number in (1, 2):
        homes = [load_file(tmp_path / f"homes/pan_{n}/round-00{number}/model.safetensors") for n in (0, 1)]
        for name, weight in models[number].items():
            assert torch.allclose(weight, (homes[0][name] + homes[1][name]) / 2, atol=1e-7), name
    received = load_file(tmp_path / "homes/pan_0/received/model.safetensors")
    assert all(torch.equal(received[name], weight) for name, weight in models[1].items())
    size = sum(weight.numel() * 4 for weight in models[0].values())
    assert 2 * size < facts(config, 2)["bytes_received"] < 2 * size * 1.1
    last = Path(config["folder"]) / "round-002"
    last.rename(tmp_path / "lost")
    again = serve(parts, config, [parts.home.app] * 2, **own)
    assert all(torch.equal(again[2][name], weight) for name, weight in models[2].items())


def test_a_round_goes_on_without_homes_that_cannot_be_averaged(parts, config):
    def nan(state):
        next(iter(state.values())).view(-1)[0] = math.nan

    def smaller(state):
        name = next(iter(state))
        state[name] = state[name][..., :1].clone()

    faulty = [moved(parts, 1, nan), moved(parts, 1, smaller), None]
    config |= {"num-rounds": 1, "clients": 4, "min-clients": 1}
    models = serve(parts, config, [moved(parts, 0.5), *faulty])
    assert all(torch.equal(models[1][name], weight + 0.5) for name, weight in models[0].items())
    assert [each.split(":")[0] for each in facts(config, 1)["failures"]] == ["home 1", "home 2", "home 3"]
    assert ["finite" in facts(config, 1)["failures"][0], "configuration" in facts(config, 1)["failures"][1]] == [
        True
    ] * 2
    other = config | {"folder": config["folder"] + "_strict", "min-clients": 2}
    with pytest.raises(RunError, match=r"1 of 4 homes.*Home 3.*2 s.*round-000"):
        serve(parts, other, [moved(parts, 0.5), *faulty])
    with pytest.raises(RunError, match=r"2 of 4 homes are connected"):
        serve(parts, other, [moved(parts, 0.5)] * 2)


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam"])
def test_a_server_that_starts_again_ends_where_it_would_have(parts, config, strategy):
    config |= {"strategy": strategy, "num-rounds": 3}
    apps = [moved(parts, 0.25), moved(parts, 0.75)]
    whole = serve(parts, config, apps)
    for number in (2, 3):
        (Path(config["folder"]) / f"round-00{number}").rename(Path(config["folder"]) / f"lost_{number}")
    again = serve(parts, config, apps)
    assert all(torch.equal(again[3][name], weight) for name, weight in whole[3].items())
    with pytest.raises(RunError, match=r"local_steps was 4, now 5"):
        serve(parts, config | {"local-steps": 5}, apps)


def test_central_privacy_clips_each_home_and_remembers_what_it_spent(parts, config):
    config |= {"privacy": "central", "noise-multiplier": 1.0, "clipping-norm": 1e-3}
    models = serve(parts, config, [moved(parts, 1.0), moved(parts, 1.0)])
    size = sum(weight.numel() for weight in models[0].values())
    distance = math.sqrt(sum(float(((models[1][n] - w) ** 2).sum()) for n, w in models[0].items()))
    noise = 1e-3 / 2 * math.sqrt(size)  # noise-multiplier * clipping-norm / homes, on every weight
    assert distance == pytest.approx(math.hypot(noise, 1e-3), rel=0.05)
    spent = [facts(config, number)["epsilon"] for number in (1, 2)]
    assert spent == pytest.approx([4.7285, 7.0774], abs=1e-3)  # Rényi accounting at delta 1e-5
    assert "loss" not in facts(config, 1)
    (Path(config["folder"]) / "round-002").rename(Path(config["folder"]) / "lost")
    serve(parts, config, [moved(parts, 1.0), moved(parts, 1.0)])
    assert facts(config, 2)["epsilon"] == spent[1]


def test_local_privacy_adds_noise_at_home(parts, config):
    config |= {"privacy": "local", "num-rounds": 1, "clipping-norm": 1e-3, "epsilon": 1.0}
    models = serve(parts, config, [moved(parts, 1.0), moved(parts, 1.0)])
    noise = torch.cat([(models[1][name] - weight).flatten() for name, weight in models[0].items()])
    deviation = 2e-3 * math.sqrt(2 * math.log(1.25 / 1e-5)) / math.sqrt(2)  # the mean of two homes
    assert float(noise.std()) == pytest.approx(deviation, rel=0.05)


def test_secure_aggregation_gives_the_mean_and_nothing_else(parts, config):
    config |= {"privacy": "secure", "clients": 3, "min-clients": 2}
    seen: list[Any] = []

    def watched(app: Any) -> Any:
        def call(message: Any, context: Any) -> Any:
            seen.append(app(message, context))
            return seen[-1]

        return call

    models = serve(parts, config, [watched(moved(parts, by)) for by in (0.0, 0.3, 0.6)])
    for number in (1, 2):
        for name, weight in models[number].items():
            assert torch.allclose(weight, models[number - 1][name] + 0.3, atol=1e-4), name
    weights = [record for reply in seen for record in reply.content.array_records.values() if len(record)]
    assert not weights, "a home sent weights without a mask"


def test_a_home_keeps_what_an_error_says_to_itself(parts, config, tmp_path):
    config |= {"num-rounds": 1}
    home = {"life": "secret_diary", "video": "/at/home/diary.mp4", "folder": str(tmp_path / "homes")}
    own = {"own": lambda n: home}
    with pytest.raises(RunError, match=r"0 of 2 homes.*LifeError") as stopped:
        serve(parts, config, [parts.home.app] * 2, **own)
    assert "diary" not in str(stopped.value)


def test_fedprox_pulls_towards_the_weights_of_the_start(parts):
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with parts.home.proximal(0.5):
        for _ in range(2):
            weight.grad = torch.tensor([1.0])
            optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.1 - 0.1 * (1 - 0.5 * 0.1))


@pytest.mark.parametrize(
    "change",
    [{"strategy": "median"}, {"min-clients": 3}, {"privacy": "central", "strategy": "fedadam"}, {"privacy": "secure"}],
)
def test_settings_that_cannot_work_are_refused(parts, config, change):
    with pytest.raises(RunError):
        parts.settings.Federation.of(config | change)


@pytest.mark.slow
def test_flowers_processes_on_loopback(parts, config, clip, tmp_path):
    """`flwr run` with a SuperLink and two SuperNodes."""
    loopback = importlib.import_module("loopback")
    homes = [{"life": f"pan_{n}", "video": str(clip), "folder": str(tmp_path / "homes")} for n in (0, 1)]
    config |= {"round-timeout": 250.0}
    with loopback.superlink(tmp_path / "flower", homes):
        log = loopback.run(tmp_path / "flower", config)
    assert (Path(config["folder"]) / "round-002/round.json").exists(), log
    assert facts(config, 2)["homes"] == 2
