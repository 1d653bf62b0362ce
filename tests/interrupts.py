"""The program `ardor` for tests of Ctrl-C."""

INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job would have inherited that it is ignored
os.execv(sys.executable, [sys.executable, "-m", "ardor", *sys.argv[1:]])
"""
"""For `python -c`, with the words of the command: ends on SIGINT wherever the tests run."""
