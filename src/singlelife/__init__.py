"""Single-life vision models: pretrain one CroCo model per life, publish it, and measure how far lives agree.

`import singlelife` makes `AutoConfig`, `AutoModel`, `AutoModelForPreTraining` and `AutoImageProcessor` know the CroCo
architecture. It imports neither torch nor transformers for that, so that the command line starts quickly: importing an
Auto class imports ours, and importing ours registers it, whichever comes first.

`singlelife.cas`, `singlelife.align` and `singlelife.follow` are imported when they are asked for.
"""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

if TYPE_CHECKING:
    from singlelife.alignment.api import align as align
    from singlelife.alignment.api import cas as cas
    from singlelife.alignment.api import follow as follow

__version__ = version("singlelife")

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


@when_imported("singlelife.croco.image_processing_croco")
def _register_image_processor(ours: ModuleType) -> None:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    by_backend = {"torchvision": ours.CroCoImageProcessor}
    AutoImageProcessor.register(ours.CroCoConfig, image_processor_classes=by_backend, exist_ok=True)


for _auto in _OURS:
    when_imported(_auto)(lambda module: import_module(_OURS[module.__name__]))


def __getattr__(name: str) -> Any:
    if name in ("align", "cas", "follow"):
        return getattr(import_module("singlelife.alignment.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
