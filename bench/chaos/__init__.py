"""The chaos kit: what an SSE relay loses, repeats or reorders when things break.

`python -m bench.chaos --help`. It knows relays by their sockets only: the same kit judges this
relay, its peers and a deployment of yours.

    scenarios/, plan        what is broken, as short files; random schedules of several, by a seed
    stage, acts, runner     a deployment, what can be done to it, and episodes
    shared, strangers       acts on its Redis; who comes besides its clients
    story                   what upstream says, with numbers (the API itself is the simulator)
    road, world             the network between all of them; a relay's clock, names, certificates
    processes               relays and what they share, to be killed and stopped
    crowd, library          a thousand lean clients; real ones, run by programs/
    judge                   each client's diary held against the story
    peers, peer, foreign    the same on others, and what reads for those that can't
    observe(d), witness     on a deployment that reads its own upstream; `look` at it first
    long, record, report    long runs, their results, docs/reliability.md
    tools.sh                the npm clients
"""
