"""Words of the page: names of figures, and what a reader has to know to read them."""

from __future__ import annotations

REGIONS = {
    "liver": "Liver (labels 1 and 2)",
    "tumor": "Tumor (label 2)",
    "parenchyma": "Label 1 alone (nnU-Net's and MSD's reading)",
}
FIGURES = {
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
