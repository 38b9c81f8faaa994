"""The command line: arguments in, exit code out. Every command only calls the floors below.

A command stands in the module of its family and joins the group ``main`` when that is imported.
"""

from liver_pipeline.cli import about, datasets, judging, predicting, serving, training
from liver_pipeline.cli.group import main

__all__ = ["about", "datasets", "judging", "main", "predicting", "serving", "training"]
