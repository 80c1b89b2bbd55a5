"""The settings of a federation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from singlelife.errors import RunError


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
        least, clients = self.min_clients, self.clients
        rules = {
            "strategy should be fedavg, fedprox or fedadam": self.strategy in ("fedavg", "fedprox", "fedadam"),
            "privacy should be none, central, local or secure": self.privacy in ("none", "central", "local", "secure"),
            "num-rounds and local-steps should be at least 1": min(self.num_rounds, self.local_steps) >= 1,
            "min-clients should be from 1 to the number of clients": 1 <= least <= clients,
            "central privacy takes fedavg or fedprox, and as many min-clients as clients, because Flower counts "
            "epsilon only for rounds in which every home answers": self.privacy != "central"
            or (self.strategy != "fedadam" and least == clients),
            "secure aggregation takes fedavg, three or more clients, and min-clients from 2 to one less, because so "
            "many homes give back the mask of one that has died": self.privacy != "secure"
            or (self.strategy == "fedavg" and 2 <= least < clients),
        }
        for rule, kept in rules.items():
            if not kept:
                raise RunError(f"{rule[0].upper()}{rule[1:]}.")
