"""The version, in a module of its own that every package can import without a circle."""

from importlib.metadata import version

__version__ = version("singlelife")
