"""The tests of this folder share `tiny_training`, which child processes import, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
