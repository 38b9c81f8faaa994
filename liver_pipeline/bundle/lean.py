"""Start MONAI without what segmenting a scan does not use: most of the time of one scan in a fresh process.

``import monai`` runs all of its modules, and imports each optional package that it finds: Ignite, torchvision (which
loads torch's compiler), Matplotlib, scikit-image. MONAI works without them. Where a run's config asks for nothing of
MONAI that knows one of them, they are left out while MONAI is imported; whoever imports them later gets them.
"""

from __future__ import annotations

import gc
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from liver_pipeline.bundle.entry import read_config
from liver_pipeline.bundle.shipped import run_folder

SPARED = ("huggingface_hub", "ignite", "itk", "jsonschema", "matplotlib", "requests", "scipy.signal",
          "scipy.sparse.linalg", "skimage", "tensorboard", "tifffile", "torchvision")  # fmt: skip
OWN = ("liver_pipeline.", "dynamic_network_architectures.")  # what lies there imports what it needs itself
# Of MONAI: what computes the same whether the packages are there or not.
PLAIN = {"Compose", "Dataset", "NormalizeIntensityd", "ScaleIntensityRangePercentilesd", "ThresholdIntensityd"}


def import_monai_for(run: str | Path, overrides: Mapping[str, Any]) -> bool:
    """Import MONAI for ``predict``, lean where the run allows it; before anything else has imported MONAI.

    Args:
        run: A run folder, or the name of weights in the box.
        overrides: Keys that are set for this one time.

    Returns:
        Whether it was imported lean; else not at all.
    """
    folder = Path(run) if Path(run).exists() else run_folder(run)
    config = folder / "configs" / "inference.yaml"
    if "monai" in sys.modules or not config.is_file() or not _is_plain({**read_config(config), **overrides}):
        return False
    with _lean():
        import monai.bundle
        import monai.inferers  # noqa: F401 (stays in memory)
    return True


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector away while modules are imported, and from what they left behind afterwards.

    A module's functions and classes stay as long as the process. To look through them again and again while more come
    is a third of the time that the imports of ``predict`` take.
    """
    gc.disable()
    try:
        yield
    finally:
        if "triton" not in sys.modules:  # whose library prints at exit what the collector did not get to see
            gc.freeze()
        gc.enable()


def _is_plain(config: Any) -> bool:
    """Tell whether all components of a config do without the spared packages, and no expression reaches into MONAI."""
    if isinstance(config, Mapping):
        target = str(config.get("_target_", OWN[0]))
        return (target.startswith(OWN) or target in PLAIN) and all(map(_is_plain, config.values()))
    if isinstance(config, list | tuple):
        return all(map(_is_plain, config))
    return not (isinstance(config, str) and config.startswith("$") and "monai." in config)


@contextmanager
def _lean() -> Iterator[None]:
    """Let imports of the spared packages fail, and MONAI load no modules but those that are asked for."""
    spared = [name for name in SPARED if name not in sys.modules]
    walk_packages = pkgutil.walk_packages  # by which MONAI finds its modules
    pkgutil.walk_packages = lambda *args, **kwargs: iter(())
    sys.modules.update(dict.fromkeys(spared))  # type: ignore[arg-type]  # None is how Python marks them
    try:
        yield
    finally:
        for name in spared:
            del sys.modules[name]
        pkgutil.walk_packages = walk_packages
        sys.modules["monai.utils.module"].walk_packages = walk_packages  # type: ignore[attr-defined]  # its own copy
