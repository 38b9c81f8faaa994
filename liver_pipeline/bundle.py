"""Merge config layers into a run folder, which is a MONAI bundle, and run its workflows."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from liver_pipeline.files import whole_file, write_json
from liver_pipeline.handlers import CLASS_NAMES
from liver_pipeline.layers import Configs, apply_overrides, read_config, refuse_key, share_dir
from liver_pipeline.locks import lock_run
from liver_pipeline.stages import LIVER, PREFIX, merge_stages

# What a training writes beside the configs, and --restart removes.
TRAINING_OUTPUTS = (
    "models", "logs", "out_of_fold", "split.json", "log.csv", "curves.png", "skipped_cases.json", "bad_loss.json"
)  # fmt: skip
MULTI_GPU = "multi_gpu_train"  # an overlay on train.yaml, as in the model zoo
GENERATED = "# Merged from the layers in configs/ by `liver-pipeline compose`; edit there, or start a new run.\n"


def compose(
    run_dir: str | Path,
    layers: Mapping[str, str],
    *,
    experiment: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a run folder: a MONAI bundle that carries its whole configuration; of a cascade, also ``liver/`` in it.

    Args:
        run_dir: The folder; made when it does not exist.
        layers: See :func:`~liver_pipeline.stages.merge_stages`.
        experiment: See :func:`~liver_pipeline.stages.merge_stages`.
        overrides: See :func:`~liver_pipeline.stages.merge_stages`.
        overwrite: Replace an existing run's configs, and remove its weights, split and logs.

    Returns:
        The run folder.

    Raises:
        FileExistsError: If the folder holds a run and ``overwrite`` is false.
        ValueError: If another process is training in it; see also :func:`~liver_pipeline.stages.merge_stages`.
    """
    run_dir = Path(run_dir)
    stages = merge_stages(layers, experiment=experiment, overrides=overrides)
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(f"{run_dir} is a file; the run folder needs another name")
    with lock_run(run_dir):
        if (run_dir / "configs").exists():
            if not overwrite:
                raise FileExistsError(f"{run_dir} holds a run already; choose another folder or give --overwrite")
            remove_outputs(run_dir, (f"{LIVER}/configs", *(f"{LIVER}/{name}" for name in TRAINING_OUTPUTS)))
            remove_outputs(run_dir, ("configs", *TRAINING_OUTPUTS))
        for folder, configs in reversed(stages.items()):  # the run's own last: they say that it is complete
            write_bundle(run_dir / folder, configs)
    return run_dir


def write_bundle(folder: Path, configs: Configs) -> None:
    """Write a bundle without weights: configs, licence, model card; files of that name are replaced."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name in ("LICENSE", "docs/README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(share_dir("bundle") / name, folder / name)
    write_configs(folder / "configs", configs)


def write_configs(configs: Path, merged: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the folder of configs, which appears whole or not at all; one that is there is replaced."""
    partial = configs.with_name(f".configs.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for workflow, config in merged.items():
        write_config(partial / f"{workflow}.yaml", config)
    shutil.copyfile(share_dir("configs") / f"{MULTI_GPU}.yaml", partial / f"{MULTI_GPU}.yaml")
    write_json(partial / "metadata.json", metadata(merged["inference"]))
    shutil.rmtree(configs, ignore_errors=True)
    partial.replace(configs)


def remove_outputs(run_dir: Path, names: Iterable[str]) -> None:
    """Remove these files and folders, and nothing else that lies in the run folder."""
    for name in names:
        path = run_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a merged config as YAML, whole or not at all."""
    plain = json.loads(json.dumps(config))  # no YAML anchors for values that layers share
    style = {"sort_keys": False, "default_flow_style": None, "width": 120, "allow_unicode": True}
    with whole_file(path) as temporary:
        ConfigParser.export_config_file(plain, temporary, fmt="yaml", **style)
        temporary.write_text(GENERATED + temporary.read_text())


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the network of an inference config on the model zoo's schema of 2024-07-25."""
    labels = {str(i): name for i, name in enumerate(CLASS_NAMES[: config["num_classes"]])}
    structures = " and ".join(list(labels.values())[1:])
    packages = ("liver-pipeline", "pytorch-ignite", "nibabel", "itk", "segmentation-models-pytorch")
    return {
        "schema": (
            "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
        ),
        "version": version("liver-pipeline"),
        "changelog": {version("liver-pipeline"): "see CHANGELOG.md of liver_pipeline"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in packages},
        "name": "Liver and liver tumor segmentation",
        "task": f"Segmentation of {structures} in {config['modality'].upper()}",
        "description": f"A network that labels {structures} voxels; weights are the user's own training.",
        "authors": "The liver_pipeline authors",
        "copyright": "Copyright the liver_pipeline authors",
        "intended_use": "Research; not a medical device. See docs/README.md.",
        "network_data_format": _data_format(config),
        **({f"{LIVER}_data_format": _data_format(config, PREFIX)} if f"{PREFIX}network_def" in config else {}),
    }


def _data_format(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Describe what one network takes and gives; keys of a cascade's liver stage have a prefix where they differ."""

    def own(key: str) -> Any:
        return config.get(prefix + key, config[key])

    common = {"type": "image", "spatial_shape": own("roi_size"), "dtype": "float32", "is_patch_data": True}
    image = {
        **common,
        "format": "hounsfield" if config["modality"] == "ct" else "magnitude",
        "modality": config["modality"].upper(),
        "num_channels": own("in_channels"),
        "value_range": own("value_range"),
        "channel_def": {str(i): "image" for i in range(own("in_channels"))},
    }
    pred = {
        **common,
        "format": "segmentation",
        "num_channels": own("num_classes"),
        "value_range": [],
        "channel_def": {str(i): name for i, name in enumerate(CLASS_NAMES[: own("num_classes")])},
    }
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}


def load_config(run_dir: str | Path, workflow: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read ``RUN/configs/<workflow>.yaml``, point it at its folder and apply ``overrides``.

    Raises:
        FileNotFoundError: If the folder is no run.
        ValueError: If an override's key is unknown.
    """
    path = Path(run_dir) / "configs" / f"{workflow}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{Path(run_dir).resolve()} is no run folder (it has no configs/{workflow}.yaml); "
            f"`liver-pipeline train` or `compose` makes one"
        )
    config = read_config(path)
    pairs = {"bundle_root": str(Path(run_dir).resolve()), **(overrides or {})}
    for key in set(pairs) - apply_overrides(config, pairs):
        refuse_key(key, str(path), config)
    return config


def run_workflow(run_dir: str | Path, workflow: str, overrides: Mapping[str, Any] | None = None) -> list[Any]:
    """Run a workflow of a run folder, as ``python -m monai.bundle run`` would.

    Returns:
        What each expression of the config's ``run`` gave.
    """
    run_dir = Path(run_dir)
    load_config(run_dir, workflow, overrides)  # refuses unknown keys, which MONAI would accept
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that there is no logging.conf
    config = ConfigWorkflow(
        config_file=str(run_dir / "configs" / f"{workflow}.yaml"),
        meta_file=str(run_dir / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train" if workflow == "train" else "infer",
        bundle_root=str(run_dir.resolve()),
        **(overrides or {}),
    )
    config.initialize()
    try:
        return list(config.run())
    finally:
        config.finalize()
