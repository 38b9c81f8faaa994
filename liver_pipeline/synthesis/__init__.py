"""Labelled scans that no patient was needed for, or few: painted abdomens round outlined liver shapes."""

from liver_pipeline.synthesis.batches import SyntheticBatches, SyntheticCases
from liver_pipeline.synthesis.generator import Sample, ScanGenerator

__all__ = ["Sample", "ScanGenerator", "SyntheticBatches", "SyntheticCases"]
