"""A DICOM node: scans come in by C-STORE, results go back; needs ``pip install 'liver-pipeline[node]'``."""
