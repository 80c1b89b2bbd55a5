"""Hugging Face Jobs on the loopback interface: what `run_job` asks of the Hub, answered and kept for tests to read."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN, USER = "hf_jobs_token", "ann"


@dataclass
class JobsHub:
    """The server's state.

    Attributes:
        jobs: namespace and description of each job that was started.
        takes: how many jobs it starts before it asks for payment.
    """

    url: str = ""
    jobs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    takes: int = 100

    def start(self) -> Callable[[], None]:
        """Serve on a free port of 127.0.0.1. Returns what stops it."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

        def stop() -> None:
            server.shutdown()
            server.server_close()

        return stop


class _Handler(BaseHTTPRequestHandler):
    hub: JobsHub

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/whoami-v2":
            self._answer(200, {"name": USER, "type": "user", "orgs": []})
        else:
            self._answer(404, {"error": f"There is no {self.path}"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        namespace = self.path.removeprefix("/api/jobs/")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif len(self.hub.jobs) >= self.hub.takes:
            self._answer(402, {"error": "Pre-paid credit balance is insufficient."})
        else:
            self.hub.jobs.append((namespace, body))
            owner = {"id": "1", "name": namespace, "type": "user"}
            described = {name: body.get(name) for name in ("command", "flavor", "dockerImage", "environment")}
            job = {"id": f"job{len(self.hub.jobs)}", "owner": owner, "status": {"stage": "SCHEDULING"}}
            self._answer(200, described | job)

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass
