"""Train, swap, run and judge networks that segment the liver and liver tumors in CT and MR, configured in YAML."""

from importlib.metadata import version

__version__ = version("liver-pipeline")
