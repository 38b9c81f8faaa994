"""Put exported default weights into the package, as an ordinary bundle folder.

WEIGHTS holds liver_fp16.pt and tumor_fp16.pt, as scripts/make_default_weights.py exports them. FOLDER is a version's
folder, liver_pipeline/share/weights/default-N: its configs and weights are replaced, its card and ATTRIBUTION.md, which
are written by hand from what scripts/evaluate_default.py measured, stay.

Example: python scripts/pack_default_weights.py out liver_pipeline/share/weights/default-1
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import click

from liver_pipeline.bundle.compose import compose
from liver_pipeline.io.checksums import file_sha256
from liver_pipeline.io.files import write_json, write_text

NETWORKS = {"liver_fp16.pt": "liver/models", "tumor_fp16.pt": "models"}
CONVERTED = ("openvino_dir: $@bundle_root + '/models/openvino'", "openvino_dir: ~/.cache/liver_pipeline/openvino")
DESCRIPTION = {
    "name": "Liver and liver tumor segmentation, default weights",
    "description": "Two small 3D U-Nets, trained on painted and on openly licensed scans: see ATTRIBUTION.md.",
}


@click.command(help=__doc__)
@click.argument("weights", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(weights: Path, folder: Path) -> None:
    """Compose beside, then replace configs and weights."""
    with tempfile.TemporaryDirectory() as scratch:
        run = compose(Path(scratch) / "run", {}, experiment="default")
        for name, models in NETWORKS.items():
            shutil.copyfile(weights / name, run / models / "model.pt")
            write_text(run / models / "model.pt.sha256", f"{file_sha256(weights / name)}  model.pt\n")
        for name in ("inference", "evaluate"):  # an installed package may be read-only
            config = run / "configs" / f"{name}.yaml"
            write_text(config, config.read_text().replace(*CONVERTED))
        metadata = run / "configs" / "metadata.json"
        write_json(metadata, {**json.loads(metadata.read_text()), **DESCRIPTION})
        for part in ("configs", "models", "liver", "LICENSE"):
            if (folder / part).is_dir():
                shutil.rmtree(folder / part)
            source = run / part
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / part)
    (folder / "liver" / ".lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
