"""Train, swap, run and judge networks that segment the liver and liver tumors in CT and MR, configured in YAML.

The public API is the command line's verbs, by the same names, and reading and writing of scans and label maps.
Names load on first use: ``import liver_pipeline`` itself loads neither torch nor MONAI.
"""

import getpass
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import lazy_loader

# MONAI imports MLflow where it is installed, and since 3.2 that reports its use to its makers unless told not to.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
try:
    getpass.getuser()
except (KeyError, OSError):  # a number without a name, as containers give: MONAI asks for the name when it is imported
    os.environ["LOGNAME"] = f"uid{os.getuid()}"
try:
    Path.home()
except RuntimeError:  # no home, as a service without a name has: what is kept in one lies here
    try:
        kept = tempfile.gettempdir()
    except OSError:  # all is read-only, as in containers: nothing is kept
        kept = os.devnull
    os.environ["HOME"] = str(Path(kept) / f"liver-pipeline-{os.getuid()}")
__version__ = version("liver-pipeline")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
