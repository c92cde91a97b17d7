/* The upstream of every contestant: an API that sends numbered, time-stamped events.
 *
 *   emit serve DATA_BYTES                 an HTTP server: a stream for whoever asks for one
 *   emit publish DATA_BYTES PORT QUOTE HEAD BEFORE AFTER
 *                                         a client that publishes each event to PORT: an HTTP
 *                                         request that begins with HEAD, or, where that is "zmq", a
 *                                         message from a ZeroMQ PUSH socket. The body is the event
 *                                         between BEFORE and AFTER, its quotes written as QUOTE
 *
 * Commands on stdin:
 *   go COUNT RATE N   COUNT events, in turns over the first N streams (0: over all), RATE a second
 *                     (0: as fast as they are taken); answers "done SECONDS"
 *   streams           answers "streams N"
 *
 * It sends by blocking writes: a contestant that is slow slows its upstream, and loses nothing by
 * our doing.
 */
#include "common.h"
#include <endian.h>

enum { STDIN_KEY = 1000000, LISTEN_KEY, TIMER_KEY };
#define BATCH 64 /* events in one write while saturating */

struct stream {
    int fd;
    bool open, chunked;
    uint64_t number;
};

static struct stream *streams;
static size_t streams_size;
static uint32_t *ring; /* open streams, in turns */
static size_t ring_size, turn, in_turn;
static int epoll, timer, data_bytes;
static const char *publish_head, *before = "", *after = "", *quote = "\"";
static bool zmq;
static char *padding;

static struct stream *stream_of(int fd)
{
    if ((size_t)fd >= streams_size) {
        size_t size = (size_t)fd * 2 + 64;
        streams = realloc(streams, size * sizeof *streams);
        ring = realloc(ring, size * sizeof *ring);
        if (!streams || !ring) die("realloc");
        memset(streams + streams_size, 0, (size - streams_size) * sizeof *streams);
        streams_size = size;
    }
    return streams + fd;
}

static void begin_stream(int fd, bool chunked)
{
    *stream_of(fd) = (struct stream){fd, true, chunked, FIRST_NUMBER};
    ring[ring_size++] = (uint32_t)fd;
}

static void drop(int fd)
{
    for (size_t i = 0; streams[fd].open && i < ring_size; i++)
        if (ring[i] == (uint32_t)fd) {
            ring[i] = ring[--ring_size];
            break;
        }
    streams[fd].open = false;
    close(fd);
}

/* What stands before the body of a published event; how many bytes. */
static size_t publish_prefix(char *out, size_t body)
{
    uint64_t size = htobe64(body);
    if (!zmq)
        return (size_t)sprintf(out, "%s\r\nContent-Length: %zu\r\n\r\n", publish_head, body);
    out[0] = 2; /* a single frame whose size takes eight bytes */
    memcpy(out + 1, &size, sizeof size);
    return 1 + sizeof size;
}

/* One event as this stream frames it; how many bytes. */
static size_t frame(struct stream *to, char *out)
{
    char data[80], block[128];
    uint64_t number = ++to->number;
    int head = snprintf(data, sizeof data, "{%sn%s:%llu,%st%s:%llu,%spad%s:%s", quote, quote,
                        (unsigned long long)number, quote, quote, (unsigned long long)now_ns(),
                        quote, quote, quote);
    /* as long as if every quote were one byte */
    int fill = data_bytes - head - 2 + 7 * ((int)strlen(quote) - 1), size;
    if (publish_head) {
        size_t body = strlen(before) + (size_t)(head + fill) + strlen(quote) + 1 + strlen(after);
        size_t prefix = publish_prefix(out, body);
        return prefix + (size_t)sprintf(out + prefix, "%s%s%.*s%s}%s", before, data, fill, padding,
                                        quote, after);
    }
    size = snprintf(block, sizeof block, "id: %llu\ndata: %s", (unsigned long long)number, data);
    if (!to->chunked) return (size_t)sprintf(out, "%s%.*s\"}\n\n", block, fill, padding);
    return (size_t)sprintf(out, "%x\r\n%s%.*s\"}\n\n\r\n", size + fill + 4, block, fill, padding);
}

static size_t streams_in_turn(void)
{
    return in_turn && in_turn < ring_size ? in_turn : ring_size;
}

/* Send the next `count` events of the stream whose turn it is. */
static void emit(int count)
{
    static char *out;
    struct stream *to;
    size_t size = 0;
    if (!out && !(out = malloc((size_t)BATCH * ((size_t)data_bytes + 2048)))) die("malloc");
    if (!ring_size) {
        fprintf(stderr, "emit: nobody is subscribed\n");
        exit(1);
    }
    turn = turn % streams_in_turn();
    to = &streams[ring[turn++]];
    while (count--) size += frame(to, out + size);
    if (!send_all(to->fd, out, size)) drop(to->fd);
}

static void answer(int fd, const char *request)
{
    static const char json[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               "Content-Length: 2\r\n\r\n[]";
    bool old = strstr(request, " HTTP/1.0\r\n");
    char head[256];
    if (!strstr(request, "/stream")) { /* whether a credential is good: they all are */
        send_all(fd, json, sizeof json - 1);
        return;
    }
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n%s\r\n",
             old ? "Connection: close\r\n" : "Transfer-Encoding: chunked\r\n");
    send_all(fd, head, strlen(head));
    begin_stream(fd, !old);
}

static void readable(int fd)
{
    char request[8192];
    ssize_t size = recv(fd, request, sizeof request - 1, 0);
    if (size <= 0) {
        drop(fd);
        return;
    }
    request[size] = 0;
    /* A request comes in one piece on loopback; answers to what we publish are only read away. */
    if (!publish_head && strstr(request, "\r\n\r\n")) answer(fd, request);
}

static void serve_one(const struct epoll_event *event, int listener)
{
    if (event->data.u32 == LISTEN_KEY) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) die("accept");
        *stream_of(fd) = (struct stream){.fd = fd};
        watch(epoll, fd, (uint32_t)fd);
    } else {
        readable((int)event->data.u32);
    }
}

static void serve_waiting(int listener, int timeout_ms)
{
    struct epoll_event events[256];
    int count = epoll_wait(epoll, events, 256, timeout_ms);
    for (int i = 0; i < count; i++)
        if (events[i].data.u32 != STDIN_KEY && events[i].data.u32 != TIMER_KEY)
            serve_one(&events[i], listener);
}

/* The same number to each stream, whatever of it fits one write. */
static void saturate(uint64_t count, int listener)
{
    while (count) {
        size_t streams = streams_in_turn();
        uint64_t share = streams ? count / streams : 0;
        int batch = share > BATCH ? BATCH : share ? (int)share : 1;
        for (size_t i = 0; i < (share ? streams : count); i++) {
            emit(batch);
            serve_waiting(listener, 0);
        }
        count -= share ? (uint64_t)batch * streams : count;
    }
}

/* By the clock, not by counting ticks: who was late catches up. */
static void pace(uint64_t count, double rate, int listener)
{
    struct itimerspec every = {0};
    uint64_t interval_ns = (uint64_t)(1e9 / rate), started_ns = now_ns(), sent = 0;
    every.it_interval.tv_sec = every.it_value.tv_sec = (time_t)(interval_ns / 1000000000);
    every.it_interval.tv_nsec = every.it_value.tv_nsec = (long)(interval_ns % 1000000000);
    timerfd_settime(timer, 0, &every, NULL);
    while (sent < count) {
        uint64_t ticks, due = (uint64_t)((double)(now_ns() - started_ns) / 1e9 * rate);
        for (due = due < count ? due : count; sent < due; sent++) emit(1);
        serve_waiting(listener, -1);
        while (read(timer, &ticks, sizeof ticks) > 0) {}
    }
    memset(&every, 0, sizeof every);
    timerfd_settime(timer, 0, &every, NULL);
}

static void obey(const char *line, int listener)
{
    unsigned long long count;
    double rate;
    if (sscanf(line, "go %llu %lf %zu", &count, &rate, &in_turn) == 3) {
        uint64_t started_ns = now_ns();
        if (rate > 0)
            pace(count, rate, listener);
        else
            saturate(count, listener);
        say("done %.6f", (double)(now_ns() - started_ns) / 1e9);
    } else {
        say("streams %zu", ring_size);
    }
}

/* ZMTP 3.0 without security: a greeting each, then a READY each. What the other says is read away. */
static void greet(int fd)
{
    static const char greeting[64] = "\xff\0\0\0\0\0\0\0\0\x7f\3\0NULL";
    static const char ready[] = "\4\x1a\5READY\13Socket-Type\0\0\0\4PUSH";
    char theirs[64];
    if (!send_all(fd, greeting, sizeof greeting)) die("send");
    if (recv(fd, theirs, sizeof theirs, MSG_WAITALL) != sizeof theirs) die("greeting");
    if (!send_all(fd, ready, sizeof ready - 1)) die("send");
}

static int publish_to(char **argv)
{
    int fd = connect_to(atoi(argv[3]));
    quote = argv[4];
    publish_head = argv[5];
    before = argv[6];
    after = argv[7];
    zmq = !strcmp(publish_head, "zmq");
    if (zmq) greet(fd);
    return fd;
}

int main(int argc, char **argv)
{
    int listener = -1;
    if (argc < 3) return 2;
    raise_descriptor_limit();
    data_bytes = atoi(argv[2]);
    padding = malloc((size_t)data_bytes + 1);
    if (!padding) die("malloc");
    memset(padding, 'x', (size_t)data_bytes);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    watch(epoll, 0, STDIN_KEY);
    watch(epoll, timer, TIMER_KEY);
    if (argc > 7) {
        int fd = publish_to(argv);
        stream_of(fd);
        begin_stream(fd, false);
        watch(epoll, fd, (uint32_t)fd);
        say("port 0");
    } else {
        listener = listen_anywhere();
        watch(epoll, listener, LISTEN_KEY);
    }
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, -1) != 1) continue;
        if (event.data.u32 == STDIN_KEY)
            obey(command(), listener);
        else if (event.data.u32 != TIMER_KEY)
            serve_one(&event, listener);
    }
}
