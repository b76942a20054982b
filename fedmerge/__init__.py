"""fedmerge: one model for a hospital that has few patients, made of models whose patients stay at home."""

from importlib.metadata import version

__version__ = version("fedmerge")
