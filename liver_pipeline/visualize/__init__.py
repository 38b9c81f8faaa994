"""Pictures of scans with masks, and curves of trainings."""
