"""The models that are compared: how each is opened, and how it says where it looks."""

from singlelife.alignment.models.loading import METHODS, UNTRAINED, load_checkpoint, load_model, plan_of
from singlelife.alignment.models.maps import AttentionMapProvider, CrossAttention

__all__ = [
    "METHODS",
    "UNTRAINED",
    "AttentionMapProvider",
    "CrossAttention",
    "load_checkpoint",
    "load_model",
    "plan_of",
]
