"""The models that are compared: how each is opened, and how it says where it looks."""

from singlelife.alignment.models.checkpoints import load_checkpoint, load_model, plan_of
from singlelife.alignment.models.maps import AttentionMapProvider
from singlelife.alignment.settings import UNTRAINED

__all__ = ["UNTRAINED", "AttentionMapProvider", "load_checkpoint", "load_model", "plan_of"]
