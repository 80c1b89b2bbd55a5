"""`singlelife demo`: the Space on this machine."""

import argparse
import socket
import sys
from importlib import import_module
from importlib.util import find_spec

from singlelife.commands.options import Commands
from singlelife.errors import SingleLifeError


def add_command(commands: Commands) -> None:
    """Describe `singlelife demo`."""
    command = commands.add_parser(
        "demo",
        help="compare two models in the browser",
        description="Start the page of spaces/cas on this machine: choose two models, see whether they agree about "
        "where things are, and click on a patch to see where each looks. Works without a network, with the small "
        "models that come with it. Listening on this machine alone, it also opens folders such as runs/sim_1. To let "
        "others use it, put it on the Hub with `singlelife hub deploy-space`. Ends with Ctrl-C.",
        epilog="example: singlelife demo --port 7860",
    )
    command.add_argument(
        "--host", metavar="ADDRESS", help="the address to listen on (default: 127.0.0.1, this machine alone)"
    )
    command.add_argument("--port", type=int, metavar="N", help="the port (default: the first free one from 7860)")
    command.add_argument("--no-browser", action="store_true", help="only print the address, do not open it")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from singlelife.hub.spaces import space_folder
    from singlelife.machine import configure_cpu

    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise SingleLifeError(f"--port should be a number from 1 to 65535, not {arguments.port}.")
    folder = space_folder()
    if find_spec("gradio") is None:
        raise SingleLifeError("The page takes gradio, which is not installed: pip install 'singlelife[spaces]'")
    if arguments.port:
        _check_free(arguments.host or "127.0.0.1", arguments.port)
    configure_cpu()
    sys.path.insert(0, str(folder))  # where the page's files find each other, as on the Hub
    words = [] if arguments.no_browser else ["--open"]
    if arguments.host:
        words += ["--host", arguments.host]
    if arguments.port:
        words += ["--port", str(arguments.port)]
    return import_module("app").main(words)


def _check_free(host: str, port: int) -> None:
    """Before the seconds that it takes to make the page."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        why = (error.strerror or str(error)).split(" (")[0]
        raise SingleLifeError(
            f"The page cannot listen on {host}:{port}: {why}. Choose another --port or --host, or "
            "leave out --port for the first free one."
        ) from error
