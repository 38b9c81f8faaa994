"""Masks: scored, measured, divided into segments, looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

import liver_pipeline as lp
from liver_pipeline.cli.group import main
from liver_pipeline.cli.options import FiniteRange, label_map_option, overwrite_option
from liver_pipeline.exits import EXIT_NONE_DONE, EXIT_SOME_FAILED


@main.command("evaluate")
@click.argument("pred_dir", type=click.Path(path_type=Path))
@click.argument("label_dir", type=click.Path(path_type=Path))
@click.argument("output_dir", type=click.Path(path_type=Path))
@click.option(
    "--protocol",
    type=click.Choice(["lits", "lits-official", "plain"]),
    default="lits",
    show_default=True,
    help="LiTS as meant, LiTS as its program computes it (faults included), or without LiTS's own figures.",
)
@click.option("--probabilities", type=click.Path(path_type=Path), help="Folder of probabilities: AUC, calibration.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder of the scans, for the report's pictures.")
@label_map_option
@click.option("--min-lesion-ml", type=FiniteRange(min=0), default=0.0, help="Leave smaller lesions out.")
@click.option("--liver-only", is_flag=True, help="Count tumor as liver, with the protocol plain.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; by default one per core as memory allows.")
@click.option("--memory-gb", type=FiniteRange(min=0.1), help="Memory for all processes; default half of the job's.")
@click.option("--cases", metavar="A,B,...|FILE", help="Score these alone; FILE has a name a line, or a column case.")
@click.option("--overwrite", is_flag=True, help="Replace results that are there.")
def evaluate_command(
    pred_dir: Path,
    label_dir: Path,
    output_dir: Path,
    protocol: str,
    probabilities: Path | None,
    images: Path | None,
    label_map: Any,
    min_lesion_ml: float,
    liver_only: bool,
    workers: int | None,
    memory_gb: float | None,
    cases: str | None,
    overwrite: bool,
) -> None:
    """Score the label maps of PRED_DIR against those of LABEL_DIR; tables and a report go to OUTPUT_DIR.

    Files are matched by name, with the folder that they lie in. One without its counterpart is listed as failed, and
    does not stop the others. Exit code: 0 all scored, 3 some failed, 4 none scored.

    \b
    Example: liver-pipeline evaluate masks/ labels/ scores/ --images scans/
    """
    from liver_pipeline.commands.evaluate import evaluate
    from liver_pipeline.io.tables import read_names

    named = None
    if cases is not None:
        named = read_names(cases) if Path(cases).is_file() else [name for name in cases.split(",") if name.strip()]

    metrics = evaluate(
        pred_dir,
        label_dir,
        output_dir,
        protocol=protocol,
        overwrite=overwrite,
        probability_dir=probabilities,
        image_dir=images,
        label_map=label_map,
        min_lesion_ml=min_lesion_ml,
        liver_only=liver_only,
        workers=workers,
        memory_gb=memory_gb,
        cases=named,
    )
    for case, failure in metrics["failures"].items():
        click.echo(f"{case}: {failure['code']}: {failure['detail']}", err=True)
    for key in ("liver_dice", "tumor_dice", "lesion_dice_per_case", "lesion_recall", "lesion_precision"):
        value = metrics["global"].get(key)
        if value is not None:
            click.echo(f"{key:24} {value:.4f}")
    click.echo(f"{metrics['n_cases']} cases scored, {metrics['n_failed']} failed; results in {output_dir}")
    if metrics["failures"]:
        sys.exit(EXIT_SOME_FAILED if metrics["n_cases"] else EXIT_NONE_DONE)


@main.command("describe")
@click.argument("mask", type=click.Path(path_type=Path))
@click.argument("scan", type=click.Path(path_type=Path), required=False)
@click.option("--reference", type=click.Path(path_type=Path), help="Reference label map: says which lesions are real.")
@label_map_option
@click.option("--confidence", type=click.Path(path_type=Path), help="Probabilities of liver and tumor, or of tumor.")
@click.option(
    "--segments", metavar="MAP|auto", help="Couinaud map (1 to 8), or auto: estimate it from the liver's shape."
)
@click.option("--resect", metavar="5,6", help="What is left of the liver without these segments.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table as JSON; - for the screen.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the lesions as CSV.")
@click.option(
    "--sr", "sr_path", type=click.Path(path_type=Path), help="Write a DICOM SR and its SEG; SCAN is a DICOM series."
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def describe_command(
    mask: Path,
    scan: Path | None,
    reference: Path | None,
    label_map: Any,
    confidence: Path | None,
    segments: str | None,
    resect: str | None,
    json_path: Path | None,
    csv_path: Path | None,
    sr_path: Path | None,
    overwrite: bool,
) -> None:
    """Measure liver and lesions of the label map MASK; with its SCAN, their HU too.

    \b
    Example: liver-pipeline describe masks/a.nii.gz scans/a.nii.gz
             liver-pipeline describe masks/a.nii.gz --segments auto --resect 5,6
    """
    from liver_pipeline.evaluation.description import describe
    from liver_pipeline.evaluation.description_text import as_text, lesions_csv
    from liver_pipeline.evaluation.segments import parse_segments
    from liver_pipeline.io.files import write_text
    from liver_pipeline.io.outputs import check_outputs

    to_screen = json_path == Path("-")
    files = [path for path in (None if to_screen else json_path, csv_path, sr_path) if path is not None]
    check_outputs(files, overwrite, inputs=[mask, scan, reference, confidence, Path(segments) if segments else None])
    if sr_path is not None and scan is None:
        raise click.UsageError("--sr needs SCAN, the DICOM series that the report refers to")
    resected = () if resect is None else parse_segments(resect)
    table = describe(
        mask,
        scan,
        reference=reference,
        label_map=label_map,
        confidence=confidence,
        segments=segments,
        resect=resected,
    )
    text = json.dumps(table, indent=1, allow_nan=False) + "\n"
    if json_path is not None and not to_screen:
        write_text(json_path, text)
    if csv_path is not None:
        write_text(csv_path, lesions_csv(table))
    if sr_path is not None and scan is not None:
        from liver_pipeline.dicom_results.results import write_report

        write_report(table, mask, scan, sr_path, overwrite=overwrite)
    click.echo(text.rstrip() if to_screen else as_text(table))


@main.command("segments")
@click.argument("mask", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace a map that is there.")
def segments_command(mask: Path, output: Path, overwrite: bool) -> None:
    """Estimate Couinaud's segments of the liver in the label map MASK from its shape; write OUTPUT, 1 to 8.

    To look at and to correct; describe --segments OUTPUT measures with it. No vessel is looked at.

    \b
    Example: liver-pipeline segments masks/a.nii.gz a.segments.nii.gz
    """
    from liver_pipeline.evaluation.couinaud import write_segments
    from liver_pipeline.io.outputs import check_outputs

    check_outputs([output], overwrite, inputs=[mask])
    write_segments(mask, output, overwrite=overwrite)


@main.command("view")
@click.argument("scan")
@click.argument("mask", required=False)
@click.option("--reference", metavar="LABELS", help="Reference label map: shown beside the mask, lesions are matched.")
@label_map_option
@click.option("-o", "--output", metavar="PAGE", help="The page (default: <case>.html beside MASK, or here).")
@overwrite_option
def view_command(**options: Any) -> None:
    """Write one HTML file on which to look at SCAN, its MASK and a reference: offline, in any browser.

    \b
    Example: liver-pipeline view scan.nii.gz mask.nii.gz --reference labels.nii.gz -o page.html
    """
    click.echo(f"open {lp.view(**options)}; it holds the patient's images")
