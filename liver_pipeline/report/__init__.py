"""One HTML page about an evaluation: readable by a clinician and a reviewer, self-contained, light and dark."""

from liver_pipeline.report.page import report_page

__all__ = ["report_page"]
