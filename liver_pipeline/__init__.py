"""Train, swap, run and judge networks that segment the liver and liver tumors in CT and MR, configured in YAML."""

import os
from importlib.metadata import version

# MONAI imports MLflow where it is installed, and since 3.2 that reports its use to its makers unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
__version__ = version("liver-pipeline")
