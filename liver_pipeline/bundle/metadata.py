"""What metadata.json says of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from liver_pipeline.bundle.stages import LIVER_STAGE, PREFIX
from liver_pipeline.labels import CLASS_NAMES


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
        **({f"{LIVER_STAGE}_data_format": _data_format(config, PREFIX)} if f"{PREFIX}network_def" in config else {}),
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
