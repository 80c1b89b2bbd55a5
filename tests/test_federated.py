"""The federated example, by Flower's own messages and strategies, in one process: real homes for training, and homes
that send what a test asks for where the server is tested. The slow test runs all of Flower's processes."""

import importlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
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


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The example's modules."""
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "0")
    monkeypatch.syspath_prepend(EXAMPLE)
    table = importlib.import_module("table")
    one_process = table.one_process
    return SimpleNamespace(table=table, one_process=one_process, home=one_process.home, server=one_process.server)


@pytest.fixture
def config(tmp_path: Path, micro_model: Path) -> dict[str, Any]:
    """The run config of pyproject.toml, with a micro-model and two rounds."""
    defaults = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    own = {"folder": str(tmp_path / "federation"), "model": str(micro_model), "recipe": str(tmp_path / "recipe.yaml")}
    recipe: dict[str, Any] = {"train_batch_size": 8, "learning_rate": 2e-3, "eval_pairs": 12, "mixed_precision": "no"}
    recipe |= {"min_gap": 0.1, "max_gap": 0.4, "dataloader_num_workers": 0, "cpu_threads": 1, "attention": "sdpa"}
    Path(own["recipe"]).write_text(yaml.safe_dump(recipe | {"cache_dir": str(tmp_path / "cache")}))
    return defaults | own | {"num-rounds": 2, "local-steps": 2, "round-timeout": 1.0}


def saved(config: dict[str, Any], number: int) -> Path:
    return Path(config["folder"]) / f"round-{number:03d}"


def facts(config: dict[str, Any], number: int) -> dict[str, Any]:
    return json.loads((saved(config, number) / "round.json").read_text())


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], more: float = 0.0, atol: float = 0.0) -> bool:
    """Whether the weights of one model are those of the other and so much more."""
    return all(torch.allclose(one[name], weight + more, rtol=0, atol=atol) for name, weight in other.items())


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


def serve(parts: Any, config: dict[str, Any], apps: list[Any], homes: Any = ()) -> list[dict[str, torch.Tensor]]:
    """Run a federation to its end; the model of each round."""
    parts.one_process.run(config, homes or [{}] * len(apps), apps)
    return [load_file(saved(config, number) / "model.safetensors") for number in (0, 1, 2)]


@pytest.mark.integration
def test_two_homes_train_for_two_rounds(parts, config, clip, tmp_path):
    """The global model is the mean of theirs; the second round starts from it; and a server that lost its last round
    makes the same one again."""
    homes = [{"life": f"pan_{n}", "video": str(clip), "folder": str(tmp_path)} for n in (0, 1)]
    models = serve(parts, config, [parts.home.app] * 2, homes)
    for number in (1, 2):
        one, other = (load_file(tmp_path / f"pan_{n}/round-00{number}/model.safetensors") for n in (0, 1))
        assert equal({n: (one[n] + other[n]) / 2 for n in one}, models[number], atol=1e-7)
    assert equal(load_file(tmp_path / "pan_0/received/model.safetensors"), models[1])
    size = sum(weight.numel() * 4 for weight in models[0].values())
    assert 2 * size < facts(config, 2)["bytes_received"] < 2 * size * 1.2
    shutil.rmtree(saved(config, 2))
    assert equal(serve(parts, config, [parts.home.app] * 2, homes)[2], models[2])


def test_a_round_goes_on_without_homes_that_fail_or_stops(parts, config):
    """They send NaN, have another configuration or order of weights, or die or come late (no reply in time)."""
    faults = [
        lambda state: next(iter(state.values())).view(-1)[0].fill_(math.nan),
        lambda state: state.update({name: tensor[..., :1].clone() for name, tensor in state.items()}),
        lambda state: state.update({next(iter(state)): state.pop(next(iter(state)))}),  # the first is now the last
    ]
    apps = [moved(parts, 0.5), *(moved(parts, 1, fault) for fault in faults), None]
    config |= {"clients": 5, "min-clients": 1}
    models = serve(parts, config, apps)
    assert equal(models[2], models[0], 1.0, atol=1e-6)
    why = ("1: its weights are not finite", "2: it has another conf", "3: it has another conf", "4: no reply in time")
    assert all(f"home {each}" in failure for each, failure in zip(why, facts(config, 2)["failures"], strict=True))
    strict = config | {"folder": config["folder"] + "_strict", "min-clients": 2}
    with pytest.raises(RunError, match=r"1 of 5 homes.*home 1.*home 4.*round-000"):
        serve(parts, strict, apps)
    with pytest.raises(RunError, match=r"1 of 5 homes are connected"):
        serve(parts, strict, apps[:1])


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam"])
def test_a_server_that_starts_again_ends_where_it_would_have(parts, config, strategy):
    config |= {"strategy": strategy}
    apps = [moved(parts, 0.25), moved(parts, 0.75)]
    whole = serve(parts, config, apps)
    shutil.rmtree(saved(config, 2))
    assert equal(serve(parts, config, apps)[2], whole[2])
    with pytest.raises(RunError, match=r"local-steps was 2, now 5"):
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
        shutil.rmtree(saved(config, 2))
        serve(parts, config, apps)
        assert facts(config, 2)["epsilon"] == spent[1]


def test_secure_aggregation_gives_the_mean_and_nothing_else(parts, config):
    """Also of the homes that are left when one fails in the second round."""
    config |= {"privacy": "secure", "clients": 3, "min-clients": 2}
    rounds, sent = iter((1,)), list[Any]()
    home = moved(parts, 0.3)
    watched = lambda message, context: sent.append(home(message, context)) or sent[-1]  # noqa: E731
    homes = [moved(parts, 0.0), watched, moved(parts, 0.6, lambda state: next(rounds))]
    start, first, second = serve(parts, config, homes)
    assert equal(first, start, 0.3, atol=1e-4) and equal(second, first, 0.15, atol=1e-4)
    assert facts(config, 2)["failures"] == ["home 2: StopIteration; the home's log says more"]
    assert len(sent) == 8 and not any(len(record) for each in sent for record in each.content.array_records.values())


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


def test_settings_that_cannot_work_are_refused(parts, config):
    central = {"privacy": "central", "strategy": "fedadam"}
    for change in ({"strategy": "median"}, {"min-clients": 3}, central, {"privacy": "secure"}, {"privacy": "typo"}):
        with pytest.raises(RunError):
            parts.server.check(config | change)


def test_the_table_has_the_range_of_the_seeds_and_what_foretells_the_gain(parts, tmp_path, capsys):
    (tmp_path / "study.toml").write_text(
        f"output = '{tmp_path}'\nseeds = [0, 1, 2]\ntest = 'sim_test'\n[settings]\nnum-rounds = 1\nlocal-steps = 3\n"
        "[federations]\nours = {lives = 'a'}\nnoisy = {lives = 'a', privacy = 'local'}\n"
    )
    for seed, (agreement, gain) in enumerate([(0.1, 0.2), (0.5, 0.3), (0.3, 0.9)]):
        row = {"lives": "a", "steps": 3, "seed": seed, "between homes": agreement, "gain": gain}
        alone = {"model": "a alone", "lives": "", "steps": 3, "seed": seed}
        with (tmp_path / "results.jsonl").open("a") as results:
            for each in (row | {"model": "ours"}, row | {"model": "noisy", "gain": -agreement}, alone):
                results.write(json.dumps(each) + "\n")
        (tmp_path / f"a_3_{seed}").mkdir()
        (tmp_path / f"a_3_{seed}" / "model.safetensors").touch()  # what is there is not made again
    parts.table.main(str(tmp_path / "study.toml"))
    shown = capsys.readouterr().out
    assert "0.467 (0.2 to 0.9)" in shown and "correlation 0.50, n = 3" in shown


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

    processes = [["flower-superlink", "--port", str(link), "--disable-runtime-dependency-installation"]]
    for n, port in enumerate(ports):
        home = f"life='pan_{n}' video='{clip}' folder='{tmp_path / 'homes'}'"
        address = f"--superlink=127.0.0.1:{link}", f"--port={port}"
        processes.append(["flower-supernode", *address, "--node-config", home])
    try:
        for each in processes:
            subprocess.Popen([*each, "--insecure"], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=env)
        while socket.socket().connect_ex(("127.0.0.1", link)):
            time.sleep(0.2)
        command = ["flwr", "run", str(EXAMPLE), "here", "--run-config", str(tmp_path / "run.toml"), "--stream"]
        log = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800)
    finally:
        running = psutil.process_iter(["environ"])  # None where it may not be read
        ours = [each for each in running if (each.info["environ"] or {}).get("FLWR_HOME") == str(tmp_path)]
        for each in ours:
            each.kill()
        _, alive = psutil.wait_procs(ours, timeout=10)
    assert not alive
    assert facts(config, 2)["homes"] == 2, log.stdout + log.stderr
