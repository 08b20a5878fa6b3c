"""Lets `python -m quillgate_cli` do what the installed `quillgate` does. Must hold nothing else."""

import sys

from quillgate_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
