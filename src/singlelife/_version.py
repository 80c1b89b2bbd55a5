"""The version, where every room may import it from without a circle."""

from importlib.metadata import version

__version__ = version("singlelife")
