"""A whole federation on this machine: a SuperLink and a SuperNode for each home, real processes that talk over the
loopback interface without TLS. Between real homes, start the same commands with certificates (see README.md)."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@contextmanager
def superlink(work: Path, homes: Sequence[dict[str, Any]]) -> Iterator[list[subprocess.Popen]]:
    """The SuperLink and the homes' SuperNodes (its first process and the others), stopped at the end.

    Args:
        work: for logs, and for what Flower keeps.
        homes: the settings of each: life, video, folder.
    """
    work.mkdir(parents=True, exist_ok=True)
    ports = _free_ports(len(homes) + 1)
    (work / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{ports[0]}"\ninsecure = true\n'
    )
    link = ["flower-superlink", "--insecure", "--port", str(ports[0]), "--disable-runtime-dependency-installation"]
    node, nodes = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{ports[0]}"], []
    for port, home in zip(ports[1:], homes, strict=True):
        of_home = " ".join(f"{name}={value!r}" for name, value in home.items())
        nodes.append([*node, "--port", str(port), "--node-config", of_home])
    started: list[subprocess.Popen] = []
    try:
        for number, words in enumerate([link, *nodes]):
            log = (work / f"{words[0]}-{number}.log").open("w")
            started.append(
                subprocess.Popen(words, stdout=log, stderr=log, env=environment(work), start_new_session=True)
            )
        while started[0].poll() is None:  # importing Flower takes seconds
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", ports[0])).close()
                break
            time.sleep(0.2)
        yield started
    finally:
        for process in reversed(started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the apps that it has started
            process.wait()


def environment(work: Path) -> dict[str, str]:
    """Flower reports to nobody, keeps its files in `work`, and finds its programs beside this Python."""
    own = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(work)}
    return os.environ | own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(work: Path, settings: dict[str, Any]) -> str:
    """`flwr run` with these settings instead of those of pyproject.toml, to its end; returns the server's log."""
    (work / "run.toml").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    words = ["flwr", "run", str(HERE), "--run-config", str(work / "run.toml"), "--stream"]
    done = subprocess.run(words, env=environment(work), capture_output=True, text=True)
    return done.stdout + done.stderr


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
