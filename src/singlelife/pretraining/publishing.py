"""Publishing a run while it goes on, and going on from what was published."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from singlelife.pretraining.arguments import HubConfig, RunConfig
from singlelife.pretraining.hub.resume import adopt as adopt
from singlelife.pretraining.hub.resume import forget as forget
from singlelife.pretraining.run_folder import RunFolder


def start_publisher(hub: HubConfig, life_name: str, folder: RunFolder) -> Any:
    from singlelife.pretraining.hub import publisher

    arguments: Any = SimpleNamespace(hub=_as_before(hub), life_name=life_name)
    return publisher.start_publisher(arguments, folder)


def checkpoint_from_hub(config: RunConfig, folder: RunFolder) -> Path | None:
    from singlelife.pretraining.hub import resume

    train = SimpleNamespace(resume=config.start.resume_from)
    arguments: Any = SimpleNamespace(hub=_as_before(config.hub), train=train, life_name=config.life_name)
    return resume.checkpoint_from_hub(arguments, folder)


def _as_before(hub: HubConfig) -> SimpleNamespace:
    return SimpleNamespace(
        push_to_hub=(hub.hub_model_id or "") if hub.push_to_hub else None,
        hub_org=None,
        public=hub.public,
        push_steps=hub.push_steps,
        push_training_state=hub.push_training_state,
        push_wait=600,
    )
