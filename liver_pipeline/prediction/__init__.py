"""A folder of scans, nothing lost: plan, read ahead, infer, write, record."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
