"""`python -m atlas_core`, which is `atlas-core`: what torchrun starts."""

import sys

from atlas_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
