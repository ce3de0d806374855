"""Feature views, offline history, online values, training sets."""

from importlib.metadata import version

__version__ = version("clave-features")
