"""The models to compare: how to open them, and how to read where they look."""

from singlelife.alignment.models.checkpoints import load_checkpoint, load_model, plan_of
from singlelife.alignment.models.maps import AttentionMapProvider
from singlelife.alignment.settings import UNTRAINED

__all__ = ["UNTRAINED", "AttentionMapProvider", "load_checkpoint", "load_model", "plan_of"]
