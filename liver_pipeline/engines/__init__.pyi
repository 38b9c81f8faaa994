from .training import run as run
