"""What the experiments share: errors of one line, files, records of runs, locks, statistics, parts of reports."""

import logging

# On processors with AVX-512 it warns, whenever transformers imports it, that a kernel for 4-bit weights is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
