"""What all tests stand on."""

from __future__ import annotations

import signal

# A shell has SIGINT ignored in what it starts in the background, and programs pass that on to those they start. Tests
# that interrupt one mean it. A handler of our own is not passed on: those we start have the default.
signal.signal(signal.SIGINT, signal.default_int_handler)
