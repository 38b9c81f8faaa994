"""``python -m liver_pipeline``: the command line."""

from liver_pipeline.cli import main

if __name__ == "__main__":  # the app's worker process imports this file again
    main()
