"""``python -m torchbasics``: the command line."""

import sys

from torchbasics.cli import main

if __name__ == "__main__":
    sys.exit(main())
