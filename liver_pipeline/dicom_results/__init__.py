"""DICOM objects that carry a result back to an archive."""
