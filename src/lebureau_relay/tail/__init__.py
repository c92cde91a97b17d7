"""`lebureau-relay tail`: a stream in the terminal.

Events go to stdout, words about the connection to stderr, so that a pipe carries events only.
"""

from lebureau_relay.tail.client import run

__all__ = ["run"]
