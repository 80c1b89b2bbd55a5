"""The settings of a federation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from singlelife.errors import RunError

_CHOICES = {"strategy": ("fedavg", "fedprox", "fedadam"), "privacy": ("none", "central", "local", "secure")}


@dataclass(frozen=True)
class Federation:
    """Flower's run config. pyproject.toml has the defaults and says what each setting means.

    Raises:
        RunError: values that cannot work.
    """

    folder: str
    lives: str
    clients: int
    min_clients: int
    round_timeout: float
    model: str
    recipe: str
    num_rounds: int
    local_steps: int
    seed: int
    strategy: str
    proximal_mu: float
    server_rate: float
    privacy: str
    clipping_norm: float
    noise_multiplier: float
    epsilon: float
    delta: float

    @classmethod
    def of(cls, run_config: Mapping[str, Any]) -> "Federation":
        return cls(**{name.replace("-", "_"): value for name, value in run_config.items()})

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise RunError(f"{name} should be one of {', '.join(allowed)}, not {getattr(self, name)!r}.")
        if min(self.num_rounds, self.local_steps) < 1 or not 1 <= self.min_clients <= self.clients:
            raise RunError("num-rounds and local-steps should be at least 1, and min-clients from 1 to clients.")
        if self.privacy == "central" and (self.strategy == "fedadam" or self.min_clients < self.clients):
            raise RunError(
                "Flower accounts for central differential privacy with fedavg or fedprox, and if every client "
                "answers in every round: set strategy, and min-clients to the number of clients."
            )
        if self.privacy == "secure" and (self.strategy != "fedavg" or not 2 <= self.min_clients < self.clients):
            raise RunError(
                "Secure aggregation takes fedavg, three or more clients, and a min-clients from 2 to one less: so "
                "many shares give back the mask of a client that has died."
            )
