#!/usr/bin/env bash
# The released script of this name cloned the scorers and fetched their jars. Here they are part of the checkout and of the
# packages in requirement.txt, so nothing is downloaded: this says whether everything that they need is in place.
set -euo pipefail
case "${1:-}" in --help | -h)
    sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
    ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/../src"
"${PYTHON:-python}" - <<'PYTHON'
import importlib.util
import sys

missing = [name for name in ("pycocoevalcap", "sacrebleu", "nltk") if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"error: {', '.join(missing)} not installed; pip install -r requirement.txt in the top folder")
from metrics.java import JavaError, java_version

try:
    print(f"the scorers are ready: e2e/measure_scores.py, GenerationEval/eval.py; {java_version()}")
except JavaError as error:
    sys.exit(f"error: {error}")
PYTHON
