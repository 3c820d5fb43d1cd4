"""Ctrl-C as a person's terminal has it: a suite started in the background inherits one that is ignored."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.common.loopback import server  # noqa: F401
