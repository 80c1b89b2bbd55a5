"""The federated example, by Flower's own messages and strategies, in one process: real homes for training, and homes
that send what a test asks for where the server is tested. The slow test runs all of Flower's processes."""

import importlib
import json
import math
import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from singlelife.errors import RunError

EXAMPLE = Path(__file__).parents[1] / "examples" / "federated"
RECIPE = {
    "min_gap": 0.1, "max_gap": 0.4, "train_batch_size": 8, "learning_rate": 2e-3, "eval_pairs": 12,
    "dataloader_num_workers": 0, "cpu_threads": 1, "mixed_precision": "no", "attention": "sdpa",
}  # fmt: skip


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The example's modules."""
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
    monkeypatch.syspath_prepend(EXAMPLE)
    names = ("home", "server", "one_process")
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


def weights(folder: Path, number: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"round-{number:03d}" / "model.safetensors")


def facts(config: dict[str, Any], number: int) -> dict[str, Any]:
    return json.loads((Path(config["folder"]) / f"round-{number:03d}" / "round.json").read_text())


def moved(parts: SimpleNamespace, by: float, change: Callable[[dict[str, Any]], Any] = lambda state: None) -> Any:
    """A home that adds `by` to every weight, and then spoils them by `change`."""
    from flwr.clientapp import ClientApp

    app = ClientApp(mods=[parts.home.private])

    @app.train()
    def train(message: Any, context: Any) -> Any:
        model, _ = parts.home.received(message, context.run_config)
        state = {name: tensor + by for name, tensor in model.state_dict().items()}
        change(state)
        return parts.home.reply(message, state, context.run_config)

    return app


def serve(parts: SimpleNamespace, config: dict[str, Any], apps: list[Any]) -> list[dict[str, torch.Tensor]]:
    """Run a federation of these homes to its end; the model of each round."""
    parts.one_process.run(config, [{}] * len(apps), apps)
    return [weights(Path(config["folder"]), number) for number in range(config["num-rounds"] + 1)]


def lose(config: dict[str, Any], number: int) -> None:
    """Take a round away, as if the server had died before it saved it."""
    (Path(config["folder"]) / f"round-{number:03d}").rename(Path(config["folder"]) / f"lost-{number}")


@pytest.mark.integration
def test_two_homes_train_for_two_rounds(parts, config, clip, tmp_path):
    """The global model is the mean of theirs; the second round starts from it; and a server that lost its last round
    makes the same one again."""
    homes = [{"life": f"pan_{n}", "video": str(clip), "folder": str(tmp_path / "homes")} for n in (0, 1)]
    parts.one_process.run(config, homes)
    models = [weights(Path(config["folder"]), number) for number in (0, 1, 2)]
    for number in (1, 2):
        one, other = (weights(tmp_path / "homes" / f"pan_{n}", number) for n in (0, 1))
        assert all(torch.allclose(weight, (one[n] + other[n]) / 2, atol=1e-7) for n, weight in models[number].items())
    received = load_file(tmp_path / "homes/pan_0/received/model.safetensors")
    assert all(torch.equal(received[name], weight) for name, weight in models[1].items())
    size = sum(weight.numel() * 4 for weight in models[0].values())
    assert 2 * size < facts(config, 2)["bytes_received"] < 2 * size * 1.2
    lose(config, 2)
    parts.one_process.run(config, homes)
    again = weights(Path(config["folder"]), 2)
    assert all(torch.equal(again[name], weight) for name, weight in models[2].items())


def nan(state: dict[str, Any]) -> None:
    next(iter(state.values())).view(-1)[0] = math.nan


def smaller(state: dict[str, Any]) -> None:
    state.update({name: tensor[..., :1].clone() for name, tensor in state.items()})


def reordered(state: dict[str, Any]) -> None:
    first = next(iter(state))
    state[first] = state.pop(first)


@pytest.mark.parametrize(
    ("fault", "why"),
    [(nan, "not finite"), (smaller, "configuration"), (reordered, "configuration"), (None, "no reply")],
)
def test_a_round_goes_on_without_a_home_that_fails_or_stops(parts, config, fault, why):
    """It sends NaN, has another configuration or order of weights, or dies or comes late (no reply in time)."""
    apps = [moved(parts, 0.5), fault and moved(parts, 1, fault)]
    models = serve(parts, config | {"min-clients": 1}, apps)
    assert all(torch.equal(models[2][name], weight + 0.5 + 0.5) for name, weight in models[0].items())
    [failure] = facts(config, 1)["failures"]
    assert failure.startswith("home 1") and why in failure
    strict = config | {"folder": config["folder"] + "_strict"}
    with pytest.raises(RunError, match=r"1 of 2 homes.*Home 1.*round-000"):
        serve(parts, strict, apps)
    with pytest.raises(RunError, match=r"1 of 2 homes are connected"):
        serve(parts, strict, apps[:1])


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam"])
def test_a_server_that_starts_again_ends_where_it_would_have(parts, config, strategy):
    config |= {"strategy": strategy}
    apps = [moved(parts, 0.25), moved(parts, 0.75)]
    whole = serve(parts, config, apps)
    lose(config, 2)
    again = serve(parts, config, apps)
    assert all(torch.equal(again[2][name], weight) for name, weight in whole[2].items())
    with pytest.raises(RunError, match=r"local-steps was 4, now 5"):
        serve(parts, config | {"local-steps": 5}, apps)


@pytest.mark.parametrize("privacy", ["central", "local"])
def test_differential_privacy_clips_each_home_and_adds_noise(parts, config, privacy):
    config |= {"privacy": privacy, "clipping-norm": 1e-3}
    apps = [moved(parts, 1.0), moved(parts, 1.0)]
    models = serve(parts, config, apps)
    change = torch.cat([(models[1][name] - weight).flatten() for name, weight in models[0].items()])
    central = 1e-3 / 2  # noise-multiplier * clipping-norm / homes
    local = 2e-3 * math.sqrt(2 * math.log(1.25 / 1e-5)) / math.sqrt(2)  # the mean of two homes, at epsilon 1
    assert float(change.std()) == pytest.approx(central if privacy == "central" else local, rel=0.05)
    if privacy == "central":
        spent = [facts(config, number)["epsilon"] for number in (1, 2)]
        assert spent == pytest.approx([4.7285, 7.0774], abs=1e-3)  # Rényi accounting at delta 1e-5
        lose(config, 2)
        serve(parts, config, apps)
        assert facts(config, 2)["epsilon"] == spent[1]


def test_secure_aggregation_gives_the_mean_and_nothing_else(parts, config):
    config |= {"privacy": "secure", "clients": 3, "min-clients": 2}
    sent: list[Any] = []

    def watched(app: Any) -> Any:
        return lambda message, context: sent.append(app(message, context)) or sent[-1]

    models = serve(parts, config, [watched(moved(parts, by)) for by in (0.0, 0.3, 0.6)])
    for number in (1, 2):
        for name, weight in models[number].items():
            assert torch.allclose(weight, models[number - 1][name] + 0.3, atol=1e-4), name
    assert not any(len(record) for reply in sent for record in reply.content.array_records.values()), "without a mask"


def test_a_home_keeps_what_an_error_says_to_itself(parts, config, tmp_path):
    home = {"life": "secret_diary", "video": "/at/home/diary.mp4", "folder": str(tmp_path / "homes")}
    with pytest.raises(RunError, match=r"0 of 2 homes.*LifeError") as stopped:
        parts.one_process.run(config, [home] * 2)
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
        parts.server.check(config | change)


def environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        return process.environ()
    return {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_flowers_processes_on_loopback(config, clip, tmp_path):
    """`flwr run` with a SuperLink and two SuperNodes, for two rounds; no process is left."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    link, *ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    (tmp_path / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{link}"\ninsecure = true\n')
    settings = config | {"round-timeout": 600.0}
    (tmp_path / "run.toml").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    own = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(tmp_path)}
    own |= {"PYTHONDONTWRITEBYTECODE": ""}  # Flower gives a process 30 s to start, and compiling it takes some of them
    env = os.environ | own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def start(name: str, *words: str) -> None:
        with (tmp_path / f"{name}.log").open("w") as log:
            subprocess.Popen([*words, "--insecure"], stdout=log, stderr=log, env=env, start_new_session=True)

    try:
        start("link", "flower-superlink", "--port", str(link), "--disable-runtime-dependency-installation")
        for n, port in enumerate(ports):
            home = f"life='pan_{n}' video='{clip}' folder='{tmp_path / 'homes'}'"
            address = "--superlink", f"127.0.0.1:{link}", "--port", str(port)
            start(f"home-{n}", "flower-supernode", *address, "--node-config", home)
        while "Uvicorn running" not in (tmp_path / "link.log").read_text():
            time.sleep(0.2)
        command = ["flwr", "run", str(EXAMPLE), "here", "--run-config", str(tmp_path / "run.toml"), "--stream"]
        log = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800)
    finally:
        ours = [each for each in psutil.process_iter() if environment(each).get("FLWR_HOME") == str(tmp_path)]
        for each in ours:
            each.kill()
        _, alive = psutil.wait_procs(ours, timeout=10)
    assert not alive
    assert facts(config, 2)["homes"] == 2, log.stdout + log.stderr
