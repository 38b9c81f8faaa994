"""Score the estimated segments against a Couinaud map of the same scan.

REFERENCE holds segments 1 to 8. Of MASK (0 background, 1 liver, 2 tumor), on the same grid, the segments are estimated;
without it, of the reference's own liver. With tumors in MASK it also says in which segment most of each lesion lies.

Example: python scripts/evaluate_segments.py couinaud.nii.gz mask.nii.gz
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from liver_pipeline.evaluation.couinaud import estimate_segments
from liver_pipeline.evaluation.scoring import ACCEPTED
from liver_pipeline.evaluation.segments import COUINAUD, score_segments, segment_shares
from liver_pipeline.io.patient_axes import on_grid
from liver_pipeline.io.volumes import read_label_map
from liver_pipeline.metrics.lesions import components


@click.command(help=__doc__)
@click.argument("reference", type=click.Path(exists=True, path_type=Path))
@click.argument("mask", type=click.Path(exists=True, path_type=Path), required=False)
def main(reference: Path, mask: Path | None) -> None:
    """Estimate, score, print."""
    truth = read_label_map(reference, allowed=COUINAUD, accept=ACCEPTED)
    liver = replace(truth, array=(truth.array > 0).astype(np.uint8))
    label_map = read_label_map(mask, accept=ACCEPTED) if mask else liver
    found, known, labels = (on_grid(liver, one) for one in (estimate_segments(label_map), truth, label_map))
    assert found is not None and known is not None and labels is not None
    told = score_segments(found, known, float(np.prod(truth.spacing)) / 1000.0)
    lesion_map, count = components(labels == 2)
    told["lesions"] = []
    for number in range(1, count + 1):
        inside = lesion_map == number
        shares = {"found": segment_shares(found[inside]), "reference": segment_shares(known[inside])}
        same = len({max(share, key=lambda name: share[name]) for share in shares.values()}) == 1
        told["lesions"].append(
            {"ml": int(inside.sum()) * float(np.prod(truth.spacing)) / 1000.0, "same": same, **shares}
        )
    click.echo(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
