"""A process of its own for clients of the loopback Hub, to which tests send code."""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from .hub_server import WRITER

# Waits between tries of a dead connection are cut short; the tries themselves are those of the real client.
_LOOP = """
import contextlib, io, json, os, sys, time, traceback
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.01))
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if asked["token"]:
        os.environ["HF_TOKEN"] = asked["token"]
    names, said, error = dict(asked["names"]), io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exec(asked["code"], names)
        except Exception as raised:
            error = [type(raised).__name__, str(raised), traceback.format_exc()]
    answers.write(json.dumps({"result": names.get("result"), "said": said.getvalue(), "error": error}) + "\\n")
    answers.flush()
"""


@dataclass(frozen=True)
class Answer:
    """What code gave: the value of its variable `result`, what it printed, and the error it ended with."""

    result: Any
    said: str
    error: tuple[str, str, str] | None


class Client:
    """The process; call it with code, the token that it has, and variables of the code (as JSON)."""

    def __init__(self, environment: dict[str, str]):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, code: str, token: str | None = WRITER, **names: Any) -> Any:
        """The code's `result`."""
        answer = self.ask(code, token, **names)
        assert answer.error is None, answer.error[2]
        return answer.result

    def ask(self, code: str, token: str | None = WRITER, **names: Any) -> Answer:
        assert self.process.stdin is not None and self.process.stdout is not None
        names = {name: str(value) if hasattr(value, "__fspath__") else value for name, value in names.items()}
        self.process.stdin.write(json.dumps({"code": code, "token": token, "names": names}) + "\n")
        self.process.stdin.flush()
        watch = threading.Timer(280, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        assert line, "the client process has ended"
        answer = json.loads(line)
        return Answer(answer["result"], answer["said"], answer["error"] and tuple(answer["error"]))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:  # a thread of `huggingface_hub` still waits for a Hub that hung in some test
            self.process.kill()
