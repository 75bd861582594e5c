"""What makes a CPU fast: without it nothing changes but speed and rounding, as HORNBOOK_PLAIN=1 shows."""

import os

PLAIN = os.environ.get("HORNBOOK_PLAIN") == "1"  # no oneDNN, no C++, no rows shared over cores; read here alone
