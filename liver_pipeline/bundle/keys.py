"""The one table of keys: what each top-level key of the YAML files is, which values it takes, and what follows from it.

``docs/reference/keys.md`` is written from it (``make bundle``). A key ``liver_<key>``, of a cascade's liver stage, and
``tumor_<key>`` in a cascade's inference config are what ``<key>`` is.
"""

from __future__ import annotations

from collections.abc import Mapping

from liver_pipeline.bundle.roles import Key, Role
from liver_pipeline.bundle.values import (
    BLOCK,
    COMPONENT,
    COMPONENTS,
    COUNTING,
    EMPTY_LIST,
    FLAG,
    NAMES,
    PATH_TEXT,
    PATTERN,
    TEXT,
    Kind,
    choice,
    either,
    matching,
    number,
    number_above,
    number_below,
    or_null,
    rising,
    several,
    three,
    whole,
)
from liver_pipeline.io.file_names import FORMATS
from liver_pipeline.io.findings import CODES
from liver_pipeline.labels import LABEL_VALUES_SAY, meanings

NO, PATH, COMMAND, RUNNING, LIVE, GROWS = Role.NONE, Role.PATH, Role.COMMAND, Role.RUNNING, Role.LIVE, Role.GROWS
STAGE, EMBEDDED, MEMBER, COMPARE, PLANNED = Role.STAGE, Role.EMBEDDED, Role.MEMBER, Role.COMPARE, Role.PLANNED
TAKEN, OFFERED = Role.INHERITED, Role.OFFERED
DEVICE = Kind("cpu, cuda, cuda:N or mps", matching(r"cpu|cuda(:\d{1,3})?|mps(:0)?", "").holds, is_text=True)
SIDE = Kind("a whole number from 1 to 4096, or -1", lambda v: v == -1 or whole(1, 4096).holds(v))
COUNT = whole(1, 1000)
ONE_SERIES = matching(r"thinnest|contrast|[0-9][0-9.]*(/.+)?", "thinnest, contrast or a UID")
CODE = Kind("a code such as HU_SCALE", lambda v: isinstance(v, str) and v in CODES, is_text=True)
ORIENTATION = Kind(
    "three of R or L, A or P, S or I, such as LAS",
    lambda v: isinstance(v, str) and len(v) == 3 and all(len(set(v) & set(ends)) == 1 for ends in ("RL", "AP", "SI")),
    is_text=True,
)
LABEL_VALUES = Kind(LABEL_VALUES_SAY, lambda v: meanings(v) is not None)
DATASET = Kind(
    "{folder: its folder below dataset_dir, layout: a name such as lits, ...}",
    lambda v: isinstance(v, Mapping) and all(isinstance(v.get(k), str) and v[k] for k in ("folder", "layout")),
)
HU = rising(-33000, 66000)
ML = number(0, 1e6)
SEED = whole(0, 2**32 - 1)

# fmt: off
SECTIONS: dict[str, tuple[Key, ...]] = {
    "labels and grid": (
        Key("num_classes", whole(2, 3), "0 background, 1 liver, 2 tumor; with 2 classes tumor counts as liver",
            STAGE | PLANNED | TAKEN),
        Key("in_channels", whole(1, 64), "channels of the image that the network sees", TAKEN),
        Key("spacing", or_null(three(number(0.05, 50))), "voxel size that the network sees; or null and `grid_size`",
            STAGE | PLANNED | TAKEN, "mm"),
        Key("grid_size", or_null(three(SIDE)),
            "size that the network sees the scan in, -1: its own; or null and `spacing`", STAGE | TAKEN, "voxels"),
        Key("roi_size", three(whole(1, 4096)), "window that the network sees at once; one slice for 2D networks",
            STAGE | PLANNED | TAKEN, "voxels"),
        Key("overlap", number_below(0, 1), "share of the window that neighbours share", TAKEN),
        Key("crops_per_case", COUNT, "windows drawn from a case each epoch", STAGE | MEMBER | PLANNED | TAKEN),
        Key("sw_batch_size", COUNT, "windows that the network sees at once at inference", STAGE | MEMBER | TAKEN),
    ),
    "reading and intensities": (
        Key("modality", choice("ct", "mr"), "what scans are: their checks, and the chain of intensities", TAKEN),
        Key("accept", several(CODE), "codes of errors in scans to take as warnings", RUNNING),
        Key("orientation", or_null(ORIENTATION), "where the axes of Analyze files run to: they do not say so", MEMBER),
        Key("repair", several(choice("SHEAR")), "codes of errors in scans to repair"),
        Key("hu_window", HU, "values kept of a CT", PLANNED | TAKEN, "HU"),
        Key("hu_windows", several(HU, 1, 64), "windows that become the channels of a CT", TAKEN, "HU"),
        Key("hu_mean", number(-33000, 66000), "mean that a CT is standardised by", PLANNED | TAKEN, "HU"),
        Key("hu_std", number_above(0, 66000), "standard deviation that a CT is standardised by", PLANNED | TAKEN, "HU"),
        Key("equalize", FLAG, "flatten the histogram of a CT's windows", TAKEN),
        Key("percentiles", rising(0, 100), "of an MR scan's values, mapped to [0, 1]", TAKEN),
        Key("air_hu", or_null(number(-33000, 66000)), "below is air; windows of air alone are not run; null: all are",
            TAKEN, "HU"),
        Key("value_range", either(rising(-33000, 66000), EMPTY_LIST),
            "what the network sees, for metadata.json; empty: no fixed range", TAKEN),
        Key("reader", COMPONENT, "how files are read: the four as one"),
        Key("reading", COMPONENTS, "files to tensors, first part of the preprocessing"),
        Key("gridding", COMPONENTS, "the scan's grid to the network's, second part of the preprocessing", TAKEN),
        Key("intensity", COMPONENTS,
            "values that the network sees, third part of the preprocessing: the chain of `modality`", TAKEN),
        Key("ct_intensity", COMPONENTS, "the chain for CT", TAKEN | OFFERED),
        Key("mr_intensity", COMPONENTS, "the chain for MR", TAKEN | OFFERED),
        Key("preprocessing", COMPONENT, "all three, one list for all workflows", EMBEDDED),
    ),
    "the network": (
        Key("network_def", COMPONENT, "the network", STAGE | MEMBER | TAKEN),
        Key("network", COMPONENT, "the network on its device", EMBEDDED | MEMBER),
        Key("device", DEVICE, "where the network runs; a GPU if there is one", RUNNING | LIVE | MEMBER),
        Key("encoder_weights", or_null(TEXT),
            "weights that a 2D encoder starts a training with, such as imagenet; null: noise", LIVE | MEMBER),
        Key("encoder_weights_path", or_null(PATH_TEXT), "file with these weights instead of a download",
            PATH | LIVE | MEMBER),
        Key("encoder_weights_sha256", or_null(matching("[0-9a-f]{64}", "64 hexadecimal digits")), "hash of that file",
            LIVE | MEMBER),
        Key("pretrained", COMPONENT, "the three as one", MEMBER | OFFERED),
        Key("initial_weights", or_null(PATH_TEXT), "weights that a training starts from, where they fit; null: none",
            PATH | STAGE),
        Key("freeze", or_null(choice("encoder")), "part of the network that a training leaves as it is; null: none"),
        Key("channels_last", FLAG, "order of the weights in memory"),
        Key("stages", NAMES, "a cascade's networks: names or paths of network files, for `liver` and `tumor`"),
    ),
    "where things are": (
        Key("bundle_root", PATH_TEXT, "the run folder", COMMAND | RUNNING | MEMBER | COMPARE),
        Key("dataset_dir", PATH_TEXT, "the data set; at inference a scan, a folder of scans or a DICOM series",
            PATH | RUNNING | LIVE | MEMBER),
        Key("output_dir", PATH_TEXT, "where masks or scores go", PATH | RUNNING | MEMBER | COMPARE),
        Key("ckpt_path", PATH_TEXT, "weights that evaluation and inference use", PATH | STAGE | MEMBER),
        Key("split_file", PATH_TEXT, "which cases train, validate and test; one that is there is used as it is",
            PATH | COMPARE),
        Key("cache_dir", PATH_TEXT, "preprocessed cases; runs may share it", PATH | LIVE),
    ),
    "the data set's layout": (
        Key("cases", either(COMPONENT, COMPONENTS), "finds the cases of the data set"),
        Key("converted_dir", or_null(PATH_TEXT), "NIfTI files of a converted data set; null: beside `dataset_dir`",
            PATH | LIVE),
        Key("images_folder", TEXT, "folder of the scans in `dataset_dir`"),
        Key("labels_folder", TEXT, "folder of the label maps in `dataset_dir`"),
        Key("patient_pattern", or_null(PATTERN), "regular expression whose group is the patient in a case's name"),
        Key("label_map", or_null(LABEL_VALUES), "what values of label maps mean; others are background"),
        Key("datasets", several(DATASET), "data sets to mix, with the options of each one's layout"),
        Key("n_phantoms", whole(1, 10000), "phantoms to draw"),
        Key("phantom_shape", three(whole(8, 1024)), "their size", NO, "voxels"),
        Key("phantom_spacing", three(number(0.05, 200)), "their voxel size", NO, "mm"),
    ),
    "the split": (
        Key("seed", SEED, "of everything random", COMPARE),
        Key("deterministic", FLAG, "also refuse operations that are not, so that runs agree to the bit"),
        Key("split_fractions", several(number(0, 1), 3, 3), "shares of train, val, test; they add up to 1"),
        Key("folds", or_null(whole(2, 1000)), "cross-validation folds; null: `split_fractions`", COMPARE),
        Key("fold", whole(0, 999), "which of them is held out, from 0", COMPARE),
        Key("split", COMPONENT, "cases by part"),
        Key("part", choice("train", "val", "test"), "which cases to evaluate"),
        Key("on_bad_case", choice("fail", "skip"), "what a case that cannot be used does to a training"),
    ),
    "cases of a training": (
        Key("cache", COMPONENT, "preprocessed cases on disk"),
        Key("cache_gb", number_above(0, 1e6), "room in the cache; what was used longest ago goes first", LIVE, "GB"),
        Key("usable", COMPONENT, "the split, each case prepared once before the first epoch"),
        Key("class_ratios", or_null(several(number(0, 1e6), 2, 3)),
            "how often windows are centred on background, liver, tumor; null: alike", STAGE | PLANNED),
        Key("hard_case_share", number(0, 1), "of an epoch's cases, drawn by how badly they went lately"),
        Key("num_workers", whole(0, 256), "threads that prepare and augment", LIVE),
        Key("pin_memory", FLAG, "batches go to the GPU while it computes", LIVE),
        Key("grid_device", DEVICE, "where scans are resampled", RUNNING | MEMBER),
        Key("augment_device", DEVICE, "where windows are augmented; '$@device': where the network is"),
        Key("augmentation", COMPONENTS, "random changes of the training windows"),
    ),
    "a data set that is painted while a training runs": (
        Key("shapes_dir", or_null(PATH_TEXT), "liver shapes; null invents some", PATH),
        Key("shapes_pattern", TEXT, "which files there", STAGE),
        Key("scans_file", or_null(PATH_TEXT), "real scans with tissue codes, which lend anatomy; null: none",
            PATH | STAGE),
        Key("sample_shares", several(number(0, 1), 4, 4), "of invented scans, real anatomy, painted liver, real scans",
            STAGE),
        Key("random_share", number(0, 1), "of scans with random contrast, from which the network learns MR"),
        Key("tumor_share", number(0, 1), "of scans with tumors"),
        Key("lesion_sizes", several(number(0, 1e6), 5, 5), "weights of radii of 2.5-5, 5-8, 8-13, 13-26, 26-50 mm",
            STAGE),
        Key("noise_hu", rising(0, 1000), "least and greatest noise", STAGE, "HU"),
        Key("blur_mm", rising(0, 100), "least and greatest blur", STAGE, "mm"),
        Key("box_margin_mm", or_null(number(0, 500)), "of the liver's box with the windows; null: anywhere",
            STAGE, "mm"),
        Key("box_jitter_mm", number(0, 500), "each face of that box moves inwards by 0 to so much", NO, "mm"),
        Key("batches_an_epoch", whole(1, 1000000), "batches that make an epoch"),
        Key("pool_size", whole(1, 1000000), "samples kept on the device, each seen several times"),
        Key("generator_threads", whole(0, 256), "threads that paint"),
        Key("validation_samples", whole(1, 1000000), "scans that validate"),
        Key("validation_seed", SEED, "of scans never trained on"),
        Key("generator", COMPONENT, "paints scans"),
        Key("synthetic_batches", COMPONENT, "gives the training its batches"),
        Key("synthetic_validation", COMPONENT, "gives the validation its scans"),
    ),
    "the training's pace": (
        Key("max_epochs", whole(1, 1000000), "epochs of the training", GROWS),
        Key("max_seconds", or_null(number_above(0, 1e9)), "most time for a training; null: no limit",
            GROWS | STAGE, "s"),
        Key("batch_size", COUNT, "cases in a step; each gives `crops_per_case` windows", PLANNED),
        Key("val_interval", whole(1, 1000000), "epochs between validations; at most `max_epochs`"),
        Key("early_stop_patience", whole(1, 1000000), "validations without a better Dice that end the training", GROWS),
        Key("scored_classes", or_null(several(whole(1, 255), 1)),
            "classes whose mean Dice chooses the weights; null: all but background", STAGE),
        Key("learning_rate", number_above(0, 100), "initial rate; of a cycle the highest"),
        Key("warmup_steps", whole(0, 1000000), "steps over which the learning rate grows"),
        Key("max_gradient_norm", or_null(number_above(0, 1e9)), "longer gradients are scaled down to it; null: none"),
        Key("weight_decay", number(0, 100), "of the optimizer"),
        Key("lr_step_each", choice("epoch", "step"), "when the learning rate moves on its schedule"),
        Key("schedule_length", COUNTING, "how often it moves"),
        Key("accumulate_steps", COUNT, "batches whose gradients make one step of the optimizer"),
        Key("tumor_weight", number(0, 1000), "of a tumor voxel in the cross-entropy"),
        Key("loss", COMPONENT, "loss of one output"),
        Key("optimizer", COMPONENT, "the optimizer; `fused` is set on a GPU where it knows it"),
        Key("lr_scheduler", COMPONENT, "the learning rate's schedule"),
        Key("deep_supervision_weights", or_null(several(number(0, 1000), 1, 16)),
            "of the outputs, full resolution first; null: 1, 1/2, 1/4 and so on", STAGE),
        Key("ema_decay", or_null(number_below(0, 1)),
            "validate and keep a moving average of the weights; null: the weights themselves"),
    ),
    "how a training runs": (
        Key("activation_checkpointing", FLAG, "keep few activations and compute them again: less memory, slower", LIVE),
        Key("compile", either(FLAG, choice("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")),
            "torch.compile, or its mode"),
        Key("amp", FLAG, "mixed precision"),
        Key("amp_dtype", choice("bf16", "fp16"), "of mixed precision"),
        Key("on_gpu", FLAG, "whether `device` is one"),
        Key("rank", whole(0, 100000), "of this process; multi_gpu_train.yaml sets it"),
        Key("world_size", whole(1, 100000), "processes that train together; multi_gpu_train.yaml sets it"),
        Key("network_graph", FLAG, "draw the network in TensorBoard", LIVE),
        Key("overlay_interval", or_null(whole(1, 1000000)), "validations between two pictures there; null: none",
            LIVE),
        Key("tracking_uri", or_null(TEXT), "MLflow's, such as sqlite:////data/mlflow.db or a server; null: none", LIVE),
        Key("train", BLOCK, "what trains"),
        Key("validate", BLOCK, "what validates"),
    ),
    "a cascade": (
        Key("liver_members", COMPONENT, "the liver stage's network, with those of other runs of an ensemble", MEMBER),
        Key("margin_mm", number(0, 500), "added to the liver's box on each side", TAKEN, "mm"),
        Key("min_liver_ml", ML, "less is no plausible liver: the tumor stage sees the whole scan", TAKEN, "ml"),
        Key("max_liver_ml", ML, "more is no plausible liver", TAKEN, "ml"),
        Key("min_liver_share", number(0, 1), "of the liver that its largest component must have", TAKEN),
        Key("limits", COMPONENT, "the three as one"),
        Key("boxes", choice("reference", "out_of_fold"), "boxes to train the tumor stage in"),
        Key("box_folds", whole(2, 1000), "liver stages that are trained for boxes out of fold"),
        Key("jitter_mm", number(0, 500), "each face of a training box moves inwards by 0 to so much", TAKEN, "mm"),
        Key("boxed", COMPONENT, "the split, with boxes"),
        Key("crop", COMPONENT, "cuts cases to their box"),
        Key("jitter", COMPONENT, "moves the box's faces"),
    ),
    "inference": (
        Key("overwrite", FLAG, "replace what another run wrote", RUNNING | MEMBER),
        Key("retry_failed", FLAG, "try the cases again that failed last time", RUNNING | MEMBER),
        Key("dry_run", FLAG, "list cases and outputs, write nothing", RUNNING | MEMBER),
        Key("max_failures", or_null(whole(1, 1000000000)), "stop after so many failed cases; null: never",
            RUNNING | MEMBER),
        Key("describe", FLAG, "also write volumes, lesions, diameters, HU of each case", RUNNING | MEMBER),
        Key("dicom", several(choice("seg", "sr", "sc"), 0, 3),
            "DICOM results to write beside each mask: segmentation, structured report, secondary captures",
            RUNNING | MEMBER),
        Key("seg_type", choice("binary", "labelmap"), "of the DICOM segmentation; few archives take labelmap",
            RUNNING | MEMBER),
        Key("seg_deflate", FLAG, "pack the DICOM segmentation, for archives that take it", RUNNING | MEMBER),
        Key("series", or_null(ONE_SERIES),
            "thinnest, contrast or a UID: one DICOM series of each study; null: each is a case", RUNNING | MEMBER),
        Key("format", choice(*FORMATS), "of the masks; a folder holds one", RUNNING | MEMBER),
        Key("probabilities", FLAG, "also write the probabilities of liver and tumor", RUNNING | MEMBER),
        Key("quality", FLAG, "also judge each mask: agreement of passes, and rules; a network alone runs twice",
            RUNNING | MEMBER),
        Key("backend", choice("auto", "torch", "openvino"), "auto: OpenVINO on a CPU if the network converts", MEMBER),
        Key("precision", choice("f32", "bf16"), "of OpenVINO", MEMBER),
        Key("autocast", or_null(choice("bf16", "fp16")), "of PyTorch", MEMBER),
        Key("tta", several(whole(0, 2), 0, 3), "axes to mirror; the mean of all counts", MEMBER),
        Key("ensemble", several(PATH_TEXT), "more run folders, whose probabilities are averaged with this one's",
            PATH | MEMBER),
        Key("skip_air", FLAG, "leave out windows that hold only air", MEMBER),
        Key("openvino_dir", PATH_TEXT, "networks that were converted once, and how far they agree with PyTorch",
            PATH | RUNNING | MEMBER),
        Key("inferer", COMPONENT, "windows to labels", EMBEDDED | MEMBER),
        Key("postprocessing", COMPONENT, "what cleans label maps", MEMBER),
        Key("pictures", or_null(COMPONENT), "how runs of 2D networks take JPG and PNG; null: not at all", MEMBER),
        Key("dataset", COMPONENT, "the scans", MEMBER),
        Key("case_runner", COMPONENT, "the one way from a scan to a mask", MEMBER),
        Key("dicom_results", COMPONENT, "the three keys of the DICOM results as one", MEMBER),
        Key("evaluator", COMPONENT, "runs the scans", MEMBER),
    ),
    "evaluation": (
        Key("protocol", choice("lits", "lits-official", "plain"),
            "LiTS as meant, as its program computes it, or without LiTS's own figures"),
        Key("liver_only", FLAG, "count tumor as liver in the reference too"),
        Key("score", COMPONENT, "the step that scores the masks"),
    ),
    "the workflow itself": (
        Key("layers", NAMES, "of an experiment: the layers that it builds on, by kind"),
        Key("imports", COMPONENTS, "modules that expressions use"),
        Key("checked", COMPONENT, "checks the values of the keys, also where stock MONAI runs the workflow", MEMBER),
        Key("initialize", COMPONENTS, "steps before the run", MEMBER),
        Key("run", COMPONENTS, "steps of the run", MEMBER),
        Key("finalize", COMPONENTS, "steps after the run", MEMBER),
    ),
}
# fmt: on
ROWS = tuple(row for rows in SECTIONS.values() for row in rows)
KEYS = {row.name: row for row in ROWS}


def root_of(key: str) -> str:
    """Return the top-level key of ``a::b``, ``a#b`` or ``+a``."""
    return key.removeprefix("+").replace("#", "::").split("::")[0]


def row_of(key: str) -> Key | None:
    """Return the row of a top-level key, which may have the prefix of a cascade's stage; None if there is none."""
    for name in (key, key.removeprefix("liver_"), key.removeprefix("tumor_")):
        if name in KEYS:
            return KEYS[name]
    return None


def keys_with(role: Role) -> frozenset[str]:
    """Return the names of the keys that have a role."""
    return frozenset(row.name for row in ROWS if role in row.roles)
