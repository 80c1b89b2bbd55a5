"""The models that are compared: how each is opened, and how it tells where it looks."""

from singlelife.alignment.models.croco_maps import CrossAttention, DecoderCorrelation
from singlelife.alignment.models.loading import (
    METHODS,
    UNTRAINED,
    AttentionMapProvider,
    load_checkpoint,
    load_model,
    plan_of,
)

__all__ = [
    "METHODS",
    "UNTRAINED",
    "AttentionMapProvider",
    "CrossAttention",
    "DecoderCorrelation",
    "load_checkpoint",
    "load_model",
    "plan_of",
]
