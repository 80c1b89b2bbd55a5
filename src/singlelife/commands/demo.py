"""`singlelife demo`: the page that compares models, on this machine or as a Space on the Hub."""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

from tyro.conf import FlagCreatePairsOff

from singlelife.errors import SingleLifeError
from singlelife.hub.spaces import deploy_space, space_folder
from singlelife.machine import configure_cpu


@dataclass(frozen=True)
class Demo:
    """Compare two models in the browser: choose them, see whether they agree about where things are, and click on a
    patch to see where each looks. The page works without a network, with the small models that come with it. If only
    this machine can open the page, it also loads models from folders such as runs/sim_1. Stop it with Ctrl-C.

    With --deploy, upload the page and this package as a Gradio Space instead. Needs `hf auth login`, or HF_TOKEN.
    """

    host: str = "127.0.0.1"
    """The address to listen on; the default is this machine alone."""
    port: int | None = None
    """The port; by default the first free one from 7860."""
    share: Annotated[bool, FlagCreatePairsOff] = False
    """Let everybody who has its address open the page, through a Gradio tunnel."""
    browser: bool = True
    """Open the page in the browser; otherwise only print its address."""
    deploy: str | None = None
    """ORG/NAME of the Space to upload the page to; created if it does not exist."""
    public: Annotated[bool, FlagCreatePairsOff] = False
    """With --deploy: let everybody see and use the Space; by default it is private."""

    def __post_init__(self) -> None:
        if self.port is not None and not 0 < self.port < 65536:
            raise SingleLifeError(f"--port should be a number from 1 to 65535, not {self.port}.")
        if self.deploy is None and self.public:
            raise SingleLifeError("--public needs --deploy ORG/NAME; add it.")

    def run(self) -> int:
        if self.deploy is not None:
            print(
                deploy_space(self.deploy, private=not self.public),
                "\nThe Hub is building it now, which takes some minutes.",
            )
            return 0
        if find_spec("gradio") is None:
            raise SingleLifeError("The page needs gradio, which is not installed: pip install 'singlelife[spaces]'")
        configure_cpu()
        sys.path.insert(0, str(space_folder()))  # where the page's files find each other, as on the Hub
        try:
            return import_module("app").main(self.host, self.port, self.share, self.browser)
        except OSError as error:
            raise SingleLifeError(f"The page cannot be served on {self.host}: {error}") from error


COMMAND = Demo
