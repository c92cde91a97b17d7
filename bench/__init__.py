"""The bench: the whole relay against its peers, on this machine, in one command.

`python -m bench` runs the scenarios, writes what was measured to bench/results and the document
from that. It is apart from the tests because its answers are numbers, not verdicts, and because it
wants the machine for itself.
"""
