"""CroCo as a transformers model. Anyone with transformers and torch can load it alone, as remote code.

Classes are imported when they are first used, as in transformers itself: a configuration does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_croco import CroCoConfig as CroCoConfig
    from .configuration_croco import CroCoDepthConfig as CroCoDepthConfig
    from .configuration_croco import training_flops_per_pair as training_flops_per_pair
    from .depth_croco import CroCoForDepthEstimation as CroCoForDepthEstimation
    from .image_processing_croco import CroCoImageProcessor as CroCoImageProcessor
    from .modeling_croco import CroCoForPreTraining as CroCoForPreTraining
    from .modeling_croco import CroCoForPreTrainingOutput as CroCoForPreTrainingOutput
    from .modeling_croco import CroCoModel as CroCoModel
    from .modeling_croco import CroCoModelOutput as CroCoModelOutput

_MODULES = {
    "configuration_croco": ("CroCoConfig", "CroCoDepthConfig", "training_flops_per_pair"),
    "depth_croco": ("CroCoForDepthEstimation",),
    "image_processing_croco": ("CroCoImageProcessor",),
    "modeling_croco": ("CroCoForPreTraining", "CroCoForPreTrainingOutput", "CroCoModel", "CroCoModelOutput"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
