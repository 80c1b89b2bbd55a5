"""Single-life vision models: pretrain one CroCo model per life, publish it, and measure how far lives agree.

`import singlelife` makes transformers' Auto classes (`AutoConfig`, `AutoModel`, `AutoModelForPreTraining`,
`AutoModelForDepthEstimation`, `AutoImageProcessor`) know the CroCo architecture. It imports neither torch nor
transformers for that, so that the command line starts quickly: importing an Auto class imports ours, and importing
ours registers it, whichever comes first.

`singlelife.cas`, `singlelife.cas_matrix` and `singlelife.cas_curve` are imported when they are asked for.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

from singlelife._version import __version__ as __version__

if TYPE_CHECKING:
    from singlelife.alignment.comparison import cas as cas
    from singlelife.alignment.curve import cas_curve as cas_curve
    from singlelife.alignment.matrix import cas_matrix as cas_matrix

_ALIGNMENT = {"cas": "comparison", "cas_matrix": "matrix", "cas_curve": "curve"}
_OURS = {
    "transformers.models.auto.configuration_auto": "singlelife.croco.configuration_croco",
    "transformers.models.auto.modeling_auto": "singlelife.croco.modeling_croco",
    "transformers.models.auto.image_processing_auto": "singlelife.croco.image_processing_croco",
}


@when_imported("singlelife.croco.configuration_croco")
def _register_config(ours: ModuleType) -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    AutoConfig.register(ours.CroCoConfig.model_type, ours.CroCoConfig, exist_ok=True)


@when_imported("singlelife.croco.modeling_croco")
def _register_models(ours: ModuleType) -> None:
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForPreTraining

    AutoModel.register(ours.CroCoConfig, ours.CroCoModel, exist_ok=True)
    AutoModelForPreTraining.register(ours.CroCoConfig, ours.CroCoForPreTraining, exist_ok=True)
    import_module("singlelife.croco.depth_croco")  # not before: it is made of what has been imported now


@when_imported("singlelife.croco.depth_croco")
def _register_depth_model(ours: ModuleType) -> None:
    from transformers.models.auto import modeling_auto

    modeling_auto.AutoModelForDepthEstimation.register(ours.CroCoConfig, ours.CroCoForDepthEstimation, exist_ok=True)
    # The pipeline warns of models whose names are not here, wherever else they are registered.
    names = modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES
    names[ours.CroCoConfig.model_type] = ours.CroCoForDepthEstimation.__name__


@when_imported("singlelife.croco.image_processing_croco")
def _register_image_processor(ours: ModuleType) -> None:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    by_backend = {"torchvision": ours.CroCoImageProcessor}
    AutoImageProcessor.register(ours.CroCoConfig, image_processor_classes=by_backend, exist_ok=True)


for _auto in _OURS:
    when_imported(_auto)(lambda module: import_module(_OURS[module.__name__]))


def __getattr__(name: str) -> Any:
    if name in _ALIGNMENT:
        return getattr(import_module(f"singlelife.alignment.{_ALIGNMENT[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
