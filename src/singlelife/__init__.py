"""Single-life vision models: pretrain one CroCo model per life, publish it, and measure how far lives agree.

`import singlelife` makes `AutoModel`, `AutoModelForPreTraining`, `AutoConfig` and `AutoImageProcessor` know the
CroCo architecture. It imports neither torch nor transformers for that: the classes are registered when the Auto
classes are first imported, or at once if they already are, so that the command line starts quickly.
"""

from importlib.metadata import version

from wrapt import when_imported

__version__ = version("singlelife")


@when_imported("transformers.models.auto.configuration_auto")
def _register_croco(_module: object) -> None:
    from singlelife.croco import register

    register()
