"""For all tests: a server on loopback, and Ctrl-C as a person's terminal has it (in the background it is ignored)."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.common.loopback import server  # noqa: F401
