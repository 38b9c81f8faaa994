"""Words of the page: names of figures, and what a reader has to know to read them."""

from __future__ import annotations

REGION_NAMES = {
    "liver": "Liver (labels 1 and 2)",
    "tumor": "Tumor (label 2)",
    "parenchyma": "Label 1 alone (nnU-Net's and MSD's reading)",
}
FIGURE_NAMES = {
    "dice": "Dice",
    "iou": "IoU (Jaccard)",
    "precision": "Precision",
    "recall": "Recall",
    "accuracy": "Accuracy",
    "rvd": "Relative volume difference",
    "rvd_abs": "Relative volume difference, absolute",
    "volume_error_ml": "Volume error, ml",
    "assd_area": "ASSD, mm (area-weighted)",
    "assd_lits": "ASSD, mm (LiTS)",
    "hd95_area": "HD95, mm (area-weighted)",
    "hd95_pooled": "HD95, mm (pooled, MedPy)",
    "hd95_maxdir": "HD95, mm (larger direction, MONAI)",
    "hd_max": "Largest distance, mm",
    "nsd_area@1": "Surface Dice at 1 mm",
    "nsd_area@2": "Surface Dice at 2 mm",
    "nsd_area@3": "Surface Dice at 3 mm",
    "auc_roc": "AUC-ROC near the liver",
    "brier": "Brier score near the liver",
    "ece": "Calibration error (ECE) near the liver",
    "calibrated_ece": "Calibration error (ECE), calibrated",
}
PARENCHYMA_FIGURES = ("dice", "iou", "precision", "recall")
EMPTY_KINDS = ("both_empty", "reference_empty", "prediction_empty")
SIZES = {"all": "all", "<10mm": "< 10 mm", "10-20mm": "10–20 mm", ">20mm": "> 20 mm"}
LITS_DIFFERENCES = (
    (
        "Overlap of a lesion",
        "Looks the prediction up by the wrong number: the union belongs to another lesion wherever the two numberings "
        "differ.",
        "True IoU of the matched group.",
    ),
    (
        "True positives",
        "One per matched group, and a failed merge costs as many as it merged: the count can be negative.",
        "Recall counts reference lesions in passing groups, precision predicted ones; both lie in [0, 1].",
    ),
    ("Orientation", "Turning or flipping the arrays changes the counts.", "Nothing changes."),
    ("More than 255 lesions", "Numbers wrap at 256.", "No limit."),
    ("Liver not predicted", "Distances and volume difference are 9001 and enter the mean.", "Left open and counted."),
    ("Largest burden error", "Signed: over-estimates never show.", "Signed and absolute."),
)
BOX_CAPTION = "Box: quartiles; line: median; diamond: mean; dots: cases. Undefined figures are not drawn."
DISTANCE_CAPTION = "Needs both masks: a tumor that was missed altogether does not appear here."
TRUST_CAPTION = (
    "Cases sorted by how far the network's passes agree. Thin line: trust that says nothing. The area under the curve "
    "is the lower, the better."
)
RELIABILITY_CAPTION = (
    "Voxels near the liver in ten bins of probability: the mean of each, and how many are right. On the diagonal a "
    "network is as sure as it should be; below it, too sure."
)
AGREEMENT_CAPTION = "Line: bias; dashed: bias ± 1.96 SD."
DEFINITIONS = """
<p><b>Liver</b> is every voxel labelled 1 or 2, tumor included, as in LiTS; <b>tumor</b> is label 2. nnU-Net and the
Medical Segmentation Decathlon score label 1 alone: that reading stands beside it.</p>
<p><b>Empty masks</b> are never dropped silently: a figure that an empty mask leaves undefined lowers n, and the last
three columns of the summary count such cases. LiTS's own tumor Dice per case counts a case without tumor on either side
as 1.</p>
<p><b>Distances</b> are in mm with each case's spacing and named by definition. Area-weighted ones measure between
surface elements, weighted by area; the others count border voxels, which misjudges thick slices.</p>
<p><b>A lesion is found</b> when its group (predictions and references that cover one another most) has an IoU above the
threshold. It is missed, or invented, when it belongs to no group; those in a group below the threshold are partly
found.</p>
"""


def _compared() -> dict[str, str]:
    names = {
        "dice": "Dice (F1)", "iou": "IoU (Jaccard)", "precision": "precision", "recall": "recall",
        "accuracy": "accuracy", "hd95_mm": "HD95, mm", "assd_mm": "ASSD, mm", "auc_roc": "AUC-ROC",
    }  # fmt: skip
    regions = {
        f"{region}_{key}": f"{region.capitalize()} {name}"
        for region in ("liver", "tumor")
        for key, name in names.items()
    }
    return {**regions, "lesion_recall": "Lesion recall, IoU > 0.5", "lesion_precision": "Lesion precision, IoU > 0.5"}


COMPARED = _compared()


def short_name(key: str) -> str:
    """Name of a compared figure in a table of one region."""
    return COMPARED[key].removeprefix("Liver ").removeprefix("Tumor ")


def digits_of(key: str) -> int:
    """Digits that a compared figure is shown with: one for mm, three for shares."""
    return 1 if key.endswith("_mm") else 3


def lower_is_better(key: str) -> bool:
    """Whether a compared figure is a distance."""
    return key.endswith("_mm")


LOSS_CAPTION = "Mean of an epoch. Experiments may train with different losses: shapes can be compared, heights cannot."
VALIDATION_LOSS_CAPTION = (
    "Of one window a case, without augmentation: one that rises while the training loss falls shows that training "
    "cases are learned by heart."
)
FOREGROUND_CAPTION = "Share of the liver and tumor voxels of the validation cases that are labelled as what they are."
SIZES_CAPTION = (
    "On the test cases of a run, mean over runs; every predicted lesion, right or wrong, by its longest diameter in a "
    "slice."
)
VALIDATION_CAPTION = (
    "On the validation cases, on the model's grid; the checkpoint is that of the best mean over classes."
)
COST = """
<p class="soft">Median over test cases, from file to mask; converting a network once for OpenVINO is left out. Peak
memory is that of the whole process on the host, scan included; graphics memory is not in it. Training counts all
epochs with their validations, mean over runs. Times compare only between runs on one machine with nothing else on
it.</p>
"""
TUMORS_CAPTION = """
<p class="soft">From the predicted masks, mean over runs, with every predicted lesion, right or wrong. Size is the
longest diameter within a slice; confidence is the mean probability inside a lesion. compare_tumors.csv has each
lesion with volume, diameters, place and confidence.</p>
"""
COMPARISON = """
<p><b>Same cases.</b> All experiments are trained, validated and tested on the same patients; the checkpoint is the
best on the validation cases, and test cases are used for nothing else. With folds, each patient is tested once.</p>
<p><b>One value a case.</b> With several seeds a case has the mean of its runs. A figure that an empty mask leaves
undefined in one of them is undefined for that case: it lowers n and is counted, never averaged away. Dice of a case
without tumor on either side is undefined; where only one side has tumor it is 0.</p>
<p><b>Intervals</b> are percentile bootstraps of the mean over cases, patients drawn with replacement (2000 draws).
They show how much the mean depends on which patients were tested, not on the seed: that is the range of the means of
the seeds.</p>
<p><b>Tests</b> are two-sided Wilcoxon signed-rank tests over the patients' mean differences, on cases where both
experiments have the figure. Holm's method corrects over all pairs of experiments, for each figure by itself: who
looks at many figures will find one below 0.05 by chance.</p>
<p><b>Figures.</b> Liver is every voxel labelled 1 or 2, as in LiTS. Dice of voxels is F1. Accuracy counts all voxels
of the scan, so background dominates it. HD95 and ASSD are area-weighted, in mm. Lesion recall and precision are
shares of a case's lesions with IoU > 0.5. AUC counts voxels in the reference liver and 10 mm around it; probabilities
are stored in eight bits.</p>
"""
