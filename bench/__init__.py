"""The bench: the whole relay against its peers, on this machine, in one command.

`python -m bench` runs the scenarios, writes what was measured to bench/results and the document
from that. It is apart from the tests because its answers are numbers, not verdicts, and because it
wants the machine for itself.

    kinds, scenarios/       what can be measured, and what is, as data
    contestants/, peers/    how each server is started, and the peers' configuration
    c/, programs, machine   upstream, clients and the kernel's price in C; processes; where they run
    rounds/                 one measurement of one contestant
    results, report/        JSON, and what is made of it: tables, plots, docs/performance.md, README
    chaos/                  another bench, for what breaks: `python -m bench.chaos`
    tools.sh                what all this needs besides the product's lock files
"""
