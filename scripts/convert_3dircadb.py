"""Convert 3D-IRCADb-01 (DICOM scans and masks) to LiTS layout: volume-N.nii.gz and segmentation-N.nii.gz.

Example: python scripts/convert_3dircadb.py 3Dircadb1/ ircadb_lits/
"""

from __future__ import annotations

from pathlib import Path

import click

from liver_pipeline.data.ircadb import case_folders, case_number, convert_case


@click.command(help=__doc__)
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def main(source: Path, output: Path, overwrite: bool) -> None:
    """Convert one case folder, or every case folder directly below ``source``."""
    for case_dir in case_folders(source):
        volume, segmentation = convert_case(case_dir, output, case_number(case_dir), overwrite=overwrite)
        click.echo(f"{case_dir.name}: {volume.name}, {segmentation.name}")


if __name__ == "__main__":
    main()
