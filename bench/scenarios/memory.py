"""What waiting costs: idle streams, idle feeds, and TLS to upstream."""

from bench.kinds import Entry, Goal, Idle, Load

IDLE_STREAMS = Idle(
    name="idle-streams",
    title="Idle streams",
    about=(
        "Streams on one feed. Resident memory of the server's processes for each more, by least "
        "squares. What the kernel holds is told beside it (slabs and TCP's buffers of the whole "
        "machine): it counts the client's end of each connection too, which is about half of it."
    ),
    load=Load(users=1, tabs=15_000),
    steps=(1000, 5000, 10_000, 15_000),
    entries=(
        Entry("relay"),
        Entry("nchan"),
        Entry("pushpin"),
        Entry("nginx-proxy"),
        Entry("mercure"),
        Entry("centrifugo"),
        Entry("aiohttp-sse"),
        Entry("sse-starlette"),
        Entry("ld-relay", cannot="no part, see above"),
    ),
    plot="bytes_each",
    columns=("bytes_each", "× bytes_each", "kernel_bytes_each", "resident_mb"),
    goals=(Goal("bytes_each", most=2500),),
)
IDLE_FEEDS = Idle(
    name="idle-feeds",
    title="Idle feeds",
    about=(
        "One stream per feed, so one upstream connection for each client, over plain HTTP and "
        "over TLS (by Debian's nginx in front of upstream). Resident memory for each more feed "
        "with an empty history, its one stream included; the difference is what TLS adds."
    ),
    load=Load(users=8000, tabs=1),
    steps=(500, 2000, 4000, 8000),
    entries=(Entry("relay"), Entry("relay", label="relay, TLS upstream", tls=True)),
    columns=("bytes_each", "more bytes_each", "kernel_bytes_each", "resident_mb"),
    goals=(Goal("bytes_each", most=16_000),),
)
