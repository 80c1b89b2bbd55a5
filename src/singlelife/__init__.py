"""Single-life vision models: pretrain one CroCo model per life, publish it, and measure how far models agree.

    from singlelife import CroCoModel, cas, cas_matrix, load_life

`import singlelife` registers the CroCo architecture with transformers' Auto classes (`AutoConfig`, `AutoModel`,
`AutoModelForPreTraining`, `AutoModelForDepthEstimation`, `AutoImageProcessor`). It imports neither torch nor
transformers to do so, and the command line starts quickly: importing an Auto class imports ours, and importing ours
registers it, in either order. Every other public name is imported when it is first used.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

from singlelife._version import __version__ as __version__

if TYPE_CHECKING:
    from singlelife.alignment.comparison import cas as cas
    from singlelife.alignment.comparison import cas_matrix as cas_matrix
    from singlelife.alignment.curve import cas_curve as cas_curve
    from singlelife.alignment.pair_sets import PairSet as PairSet
    from singlelife.croco import CroCoConfig as CroCoConfig
    from singlelife.croco import CroCoForDepthEstimation as CroCoForDepthEstimation
    from singlelife.croco import CroCoForPreTraining as CroCoForPreTraining
    from singlelife.croco import CroCoImageProcessor as CroCoImageProcessor
    from singlelife.croco import CroCoModel as CroCoModel
    from singlelife.lives.resolve import resolve_life as load_life  # noqa: F401
    from singlelife.pretraining.pretrain import train as train

_PUBLIC = {  # name → where it is
    "CroCoConfig": "croco.CroCoConfig",
    "CroCoForDepthEstimation": "croco.CroCoForDepthEstimation",
    "CroCoForPreTraining": "croco.CroCoForPreTraining",
    "CroCoImageProcessor": "croco.CroCoImageProcessor",
    "CroCoModel": "croco.CroCoModel",
    "PairSet": "alignment.pair_sets.PairSet",
    "cas": "alignment.comparison.cas",
    "cas_curve": "alignment.curve.cas_curve",
    "cas_matrix": "alignment.comparison.cas_matrix",
    "load_life": "lives.resolve.resolve_life",
    "train": "pretraining.pretrain.train",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].rpartition(".")
    return getattr(import_module(f"singlelife.{module}"), attribute)


_OURS = {
    "transformers.models.auto.configuration_auto": "singlelife.croco.configuration_croco",
    "transformers.models.auto.modeling_auto": "singlelife.croco.modeling_croco",
    "transformers.models.auto.image_processing_auto": "singlelife.croco.image_processing_croco",
}


@when_imported("singlelife.croco.configuration_croco")
def _register_configs(ours: ModuleType) -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    for config in (ours.CroCoConfig, ours.CroCoDepthConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


@when_imported("singlelife.croco.modeling_croco")
def _register_models(ours: ModuleType) -> None:
    from transformers.models.auto import modeling_auto

    configuration = import_module("singlelife.croco.configuration_croco")
    for config in (configuration.CroCoConfig, configuration.CroCoDepthConfig):  # a depth model has a CroCo encoder
        modeling_auto.MODEL_MAPPING.register(config, ours.CroCoModel, exist_ok=True)
    modeling_auto.AutoModelForPreTraining.register(ours.CroCoConfig, ours.CroCoForPreTraining, exist_ok=True)
    import_module("singlelife.croco.depth_croco")  # only now: it builds on the classes above


@when_imported("singlelife.croco.depth_croco")
def _register_depth_model(ours: ModuleType) -> None:
    from transformers.models.auto import modeling_auto

    # A pretraining checkpoint's encoder can take a new probe, and old depth checkpoints have its model type.
    for config in (ours.CroCoConfig, ours.CroCoDepthConfig):
        modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING.register(config, ours.CroCoForDepthEstimation, exist_ok=True)
        # The pipeline warns about any model whose name is not in this mapping, even if it is registered elsewhere.
        names = modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES
        names[config.model_type] = ours.CroCoForDepthEstimation.__name__


@when_imported("singlelife.croco.image_processing_croco")
def _register_image_processor(ours: ModuleType) -> None:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    configuration = import_module("singlelife.croco.configuration_croco")
    by_backend = {"torchvision": ours.CroCoImageProcessor}
    for config in (configuration.CroCoConfig, configuration.CroCoDepthConfig):
        AutoImageProcessor.register(config, image_processor_classes=by_backend, exist_ok=True)


@when_imported("transformers.models.auto.video_processing_auto")
def _register_no_video_processor(auto: ModuleType) -> None:
    """A pipeline that finds no video processor registered asks in the terminal whether to run a checkpoint's code."""
    configuration = import_module("singlelife.croco.configuration_croco")
    for config in (configuration.CroCoConfig, configuration.CroCoDepthConfig):
        auto.VIDEO_PROCESSOR_MAPPING.register(config, {"torchvision": None}, exist_ok=True)


for _auto in _OURS:
    when_imported(_auto)(lambda module: import_module(_OURS[module.__name__]))
