"""lebureau-relay: one upstream subscription per user, any number of subscribers.

The package root holds the version and nothing else, so that importing it costs nothing.
`docs/architecture.md` draws the house; `main.py` wires it.
"""

__version__ = "0.1.0"
