"""``python -m liver_pipeline``: the command line."""

from liver_pipeline.cli import main

main()
