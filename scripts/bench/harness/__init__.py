"""What the side-by-side measurements share: clocks, costs, peers, rows and their tables.

Importing it makes the modules of ``examples/NLG/src``, ``examples/CLM`` and ``scripts`` importable, so that every
program of this folder runs as it stands.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(REPOSITORY / name) for name in ("examples/NLG/src", "examples/CLM", "scripts")]
