/* The clients of every contestant: many streams in one process, each checked event by event.
 *
 *   load PORT TABS STUCK CUT HASTE PATH...
 *
 * Connection i belongs to user i / (TABS * paths), who shows a key of their own, and asks for the
 * paths in turn. The first STUCK connections are never read after their headers. CUT is 1 where an
 * event may lie across chunks, so that chunks must be undone before it can be found; what leaves it
 * whole is searched as it comes, which is what a client needs to keep up with the fastest. HASTE is how
 * many connections may be under way at once.
 *
 * Commands on stdin, each answered by one line of JSON:
 *   open N TIMEOUT_S           open connections until there are N, all with their headers read
 *   expect M TIMEOUT_S FIRST   "armed"; then, once the FIRST connections (0: all) have had M more
 *                              events, or none has had any for five seconds
 *   storm FROM BACK TIMEOUT_S  "armed"; then connections from FROM on are dropped and come back with
 *                              the cursor of BACK events ago, and are live once they have read what
 *                              was newest when they were dropped
 *   churn SECONDS PER_S        "armed"; for so long, so many connections a second are dropped, or
 *                              opened again, at random. Of every other user the first tab stays
 *                              and the others come back with cursors; the rest come as new
 *   leave                      drops all connections; the next `open` begins anew
 *   counts                     what has been seen since the last command
 *
 * The number of each event must follow the one before it on its connection; delay is the time stamp
 * in the event against the moment after the read that brought it.
 */
#include "common.h"
#include <fcntl.h>

#define STDIN_KEY UINT32_MAX
#define ADDRESSES 8    /* loopback addresses of ours, so that ports don't run out */
#define EVENT_BYTES 41 /* from the marker to the end of the time stamp */
/* Awake for so long before it sleeps. Who sleeps between two sends of one fan-out is woken at the
 * sender's expense, an interrupt to another virtual core each time; over a network nobody is. */
#define SPIN_NS 30000ull
#define STUCK_RCVBUF 4096
#define DROPS_PER_TURN 64
#define QUIET_NS 5000000000ull

enum phase { CLOSED, CONNECTING, HEADERS, LIVE };

struct connection {
    int fd;
    enum phase phase;
    bool answered;                   /* the status line was looked at */
    uint8_t newlines;                /* of the blank line that ends the headers */
    uint8_t carried;                 /* bytes in carry */
    uint32_t stride;                 /* distance of the last two events */
    uint32_t chunk;                  /* bytes left of the current one, or its size so far */
    bool in_chunk;                   /* past the line with its size */
    uint64_t last, seen, target;     /* number, events since the command, number to come back to */
    char carry[EVENT_BYTES];
};

static struct connection *connections;
static uint32_t wanted, opened, under_way, next_to_open, storm_from, awaited, haste;
static int epoll, port, tabs, stuck, path_count;
static char **paths;
static uint64_t missing, repeated, refused, ended, events, bytes, reads, buckets[64 * 64];
static uint64_t expected, done_connections, first_ns, last_ns, storm_back, connects;
static bool storming, cut, cursors; /* cursors: whoever had events shows the last one's id */

/* 64 steps an octave: 1.6 % */
static unsigned bucket(uint64_t ns)
{
    int shift = ns < 128 ? 0 : 57 - __builtin_clzll(ns);
    return (unsigned)shift * 64 + (unsigned)(ns >> shift);
}

static double bucket_ms(unsigned index)
{
    unsigned shift = index < 128 ? 0 : index / 64 - 1;
    return (double)((uint64_t)(index - shift * 64) << shift) / 1e6;
}

static double quantile_ms(double share)
{
    uint64_t total = 0, passed = 0;
    for (unsigned i = 0; i < 64 * 64; i++) total += buckets[i];
    for (unsigned i = 0; i < 64 * 64; i++)
        if (buckets[i] && (double)(passed += buckets[i]) >= share * (double)total)
            return bucket_ms(i);
    return 0;
}

static void reset(void)
{
    missing = repeated = refused = ended = events = bytes = reads = connects = 0;
    first_ns = last_ns = done_connections = 0;
    memset(buckets, 0, sizeof buckets);
    for (uint32_t i = 0; i < wanted; i++) connections[i].seen = 0;
}

static void report(uint64_t started_ns)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    say("{\"open\": %u, \"events\": %llu, \"missing\": %llu, \"repeated\": %llu, \"refused\": %llu, "
        "\"ended\": %llu, \"bytes\": %llu, \"reads\": %llu, \"seconds\": %.6f, \"first_ns\": %llu, "
        "\"last_ns\": %llu, \"finished\": %llu, \"p50_ms\": %.4f, \"p99_ms\": %.4f, "
        "\"max_ms\": %.4f, \"connects\": %llu}",
        opened, (unsigned long long)events, (unsigned long long)missing,
        (unsigned long long)repeated, (unsigned long long)refused, (unsigned long long)ended,
        (unsigned long long)bytes, (unsigned long long)reads, (double)(now_ns() - started_ns) / 1e9,
        (unsigned long long)first_ns, (unsigned long long)last_ns,
        (unsigned long long)done_connections, quantile_ms(0.5), quantile_ms(0.99),
        quantile_ms(1), (unsigned long long)connects);
}

static void start_connecting(uint32_t i)
{
    struct connection *one = &connections[i];
    struct sockaddr_in from = {.sin_family = AF_INET}, to = loopback(port);
    int on = 1, small = STUCK_RCVBUF;
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (one->fd < 0) die("socket");
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + i % ADDRESSES);
    setsockopt(one->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if ((int)i < stuck) setsockopt(one->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (bind(one->fd, (void *)&from, sizeof from)) die("bind");
    if (connect(one->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = i};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, one->fd, &event)) die("epoll_ctl");
    one->phase = CONNECTING;
    one->newlines = one->carried = 0;
    one->chunk = one->in_chunk = 0;
    one->answered = false;
    under_way++;
}

static void drop(uint32_t i)
{
    struct connection *one = &connections[i];
    if (one->phase == LIVE) opened--;
    if (one->phase == CONNECTING || one->phase == HEADERS) under_way--;
    one->phase = CLOSED;
    close(one->fd);
}

static void ask(uint32_t i)
{
    struct connection *one = &connections[i];
    char request[512], cursor[64] = "";
    int failure = 0, size;
    socklen_t failure_size = sizeof failure;
    getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &failure, &failure_size);
    if (failure) {
        refused++;
        drop(i);
        return;
    }
    if (cursors && one->last)
        snprintf(cursor, sizeof cursor, "Last-Event-ID: %llu\r\n", (unsigned long long)one->last);
    size = snprintf(request, sizeof request,
                    "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n"
                    "x-api-key: lb_k_bench%u\r\n%s\r\n",
                    paths[i % (uint32_t)path_count], port, i / (uint32_t)(tabs * path_count),
                    cursor);
    if (send(one->fd, request, (size_t)size, MSG_NOSIGNAL) != size) {
        refused++;
        drop(i);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    epoll_ctl(epoll, EPOLL_CTL_MOD, one->fd, &event);
    one->phase = HEADERS;
}

/* Past the blank line that ends the headers, or NULL while it hasn't come. */
static char *read_headers(uint32_t i, char *at, const char *end)
{
    struct connection *one = &connections[i];
    if (!one->answered && (end - at < 12 || memcmp(at, "HTTP/1.1 200", 12))) {
        if (!refused++) fprintf(stderr, "load: refused: %.200s\n", at);
        drop(i);
        return NULL;
    }
    one->answered = true;
    for (; at < end; at++) {
        if (*at == '\n' && ++one->newlines == 2) break;
        if (*at != '\n' && *at != '\r') one->newlines = 0;
    }
    if (at == end) return NULL;
    one->phase = LIVE;
    under_way--;
    opened++;
    connects++;
    if ((int)i < stuck) epoll_ctl(epoll, EPOLL_CTL_DEL, one->fd, NULL);
    return at + 1;
}

static uint64_t digits(const char *at, int count)
{
    uint64_t value = 0;
    while (count--) value = value * 10 + (uint64_t)(*at++ - '0');
    return value;
}

static void take(struct connection *one, const char *at, uint64_t now)
{
    uint64_t number = digits(at + 5, NUMBER_DIGITS);
    uint64_t sent_ns = digits(at + 5 + NUMBER_DIGITS + 5, TIME_DIGITS);
    bool away = storming && one >= connections + storm_from;
    if (one->last && number != one->last + 1) {
        if (number > one->last)
            missing += number - one->last - 1;
        else
            repeated++;
    }
    one->last = number;
    one->seen++;
    events++;
    if (!away) buckets[bucket(now > sent_ns ? now - sent_ns : 0)]++;
    if (!first_ns || sent_ns < first_ns) first_ns = sent_ns;
    last_ns = now;
    if (storming ? away && number == one->target : one->seen == expected) done_connections++;
}

/* All events in what was read; what may be the beginning of one more is carried over. */
static void scan(struct connection *one, const char *at, const char *end, uint64_t now)
{
    static const char marker[] = "{\"n\":";
    const char *last = NULL, *guess;
    while (end - at >= EVENT_BYTES) {
        guess = last && one->stride ? last + one->stride : NULL;
        if (guess && end - guess >= 5 && !memcmp(guess, marker, 5))
            at = guess;
        else if (!(at = memmem(at, (size_t)(end - at), marker, 5)))
            at = end - 4;
        if (end - at < EVENT_BYTES) break;
        take(one, at, now);
        if (last) one->stride = (uint32_t)(at - last);
        last = at;
        at += EVENT_BYTES;
    }
    one->carried = (uint8_t)(end - at); /* less than an event: else it would have been taken */
    memcpy(one->carry, end - one->carried, one->carried);
}

/* Take the chunks' frames out of what was read, in place; the new end. */
static char *without_chunks(struct connection *one, char *at, const char *end)
{
    char *out = at;
    while (at < end) {
        if (one->in_chunk) {
            size_t size = one->chunk < (size_t)(end - at) ? one->chunk : (size_t)(end - at);
            memmove(out, at, size);
            out += size;
            at += size;
            one->chunk -= (uint32_t)size;
            one->in_chunk = one->chunk > 0;
        } else if (*at == '\n') {
            one->in_chunk = one->chunk > 0; /* else it was the line end after the last chunk */
            at++;
        } else if (*at == '\r') {
            at++;
        } else {
            int digit = *at <= '9' ? *at - '0' : (*at | 32) - 'a' + 10;
            one->chunk = one->chunk * 16 + (uint32_t)digit;
            at++;
        }
    }
    return out;
}

static void readable(uint32_t i)
{
    static char buffer[EVENT_BYTES + (1 << 18)];
    struct connection *one = &connections[i];
    char *at = buffer;
    ssize_t size;
    memcpy(buffer, one->carry, one->carried);
    size = read(one->fd, buffer + one->carried, sizeof buffer - EVENT_BYTES);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        ended++;
        drop(i);
        return;
    }
    bytes += (uint64_t)size;
    reads++;
    char *end = buffer + one->carried + size, *fresh = buffer + one->carried;
    if (one->phase == HEADERS) {
        if (!(at = read_headers(i, at, end))) return;
        fresh = at;
    }
    if (cut) end = without_chunks(one, fresh, end);
    scan(one, at, end, now_ns());
}

static void turn(int timeout_ms)
{
    struct epoll_event ready[512];
    while (under_way < haste && next_to_open < wanted) start_connecting(next_to_open++);
    uint64_t spin_until_ns = now_ns() + SPIN_NS;
    int count;
    while (!(count = epoll_wait(epoll, ready, 512, 0)) && timeout_ms && now_ns() < spin_until_ns) {
    }
    if (!count && timeout_ms) count = epoll_wait(epoll, ready, 512, timeout_ms);
    for (int j = 0; j < count; j++) {
        uint32_t i = ready[j].data.u32;
        if (i == STDIN_KEY) continue;
        if (connections[i].phase == CONNECTING)
            ask(i);
        else if (connections[i].phase != CLOSED)
            readable(i);
    }
}

static bool opened_all(void) { return opened + (uint32_t)refused >= wanted; }
static bool has_all(void) { return done_connections + (uint64_t)stuck >= awaited; }
static bool storm_over(void) { return done_connections + refused >= wanted - storm_from; }

static void until(bool (*done)(void), double timeout_s)
{
    uint64_t started_ns = now_ns(), deadline_ns = started_ns + (uint64_t)(timeout_s * 1e9);
    while (!done() && now_ns() < deadline_ns) {
        turn(50);
        if (last_ns && now_ns() > last_ns + QUIET_NS) break; /* what is missing was lost */
    }
    report(started_ns);
}

static void storm(uint32_t from, uint64_t back)
{
    storm_from = from;
    storm_back = back;
    storming = cursors = true;
    for (uint32_t i = from; i < wanted; i++) {
        connections[i].target = connections[i].last;
        connections[i].last -= back;
        drop(i);
        /* To close ten thousand takes us 0.1 s: who stays must be read meanwhile. */
        if (i % DROPS_PER_TURN == 0) turn(0);
    }
    next_to_open = from;
}

/* Drop or open one connection, chosen at random. */
static void toggle(uint32_t i)
{
    struct connection *one = &connections[i];
    uint32_t user = i / (uint32_t)(tabs * path_count), tab = i / (uint32_t)path_count % (uint32_t)tabs;
    bool kept = user % 2 == 0;
    if (one->phase == CLOSED)
        start_connecting(i);
    else if (one->phase == LIVE && !(kept && tab == 0)) {
        drop(i);
        if (!kept) one->last = 0;
    }
}

static void churn(double seconds, double per_s)
{
    uint64_t started_ns = now_ns(), now = started_ns, toggled = 0;
    cursors = true;
    while ((double)(now - started_ns) < seconds * 1e9) {
        for (; (double)toggled < (double)(now - started_ns) / 1e9 * per_s; toggled++)
            toggle((uint32_t)random() % wanted);
        turn(5);
        now = now_ns();
    }
    cursors = false;
    report(started_ns);
}

static void leave(void)
{
    for (uint32_t i = 0; i < wanted; i++)
        if (connections[i].phase != CLOSED) drop(i);
    next_to_open = wanted = 0;
    report(now_ns());
}

static void obey(const char *line)
{
    unsigned number, from, back, first;
    double timeout_s, per_s;
    if (sscanf(line, "open %u %lf", &number, &timeout_s) == 2) {
        connections = realloc(connections, number * sizeof *connections);
        if (!connections) die("realloc");
        if (number > wanted)
            memset(connections + wanted, 0, (number - wanted) * sizeof *connections);
        wanted = number;
        reset();
        until(opened_all, timeout_s);
    } else if (sscanf(line, "expect %u %lf %u", &number, &timeout_s, &first) == 3) {
        reset();
        expected = number;
        awaited = first ? first : wanted;
        say("{\"armed\": true}");
        until(has_all, timeout_s);
    } else if (sscanf(line, "storm %u %u %lf", &from, &back, &timeout_s) == 3) {
        reset();
        say("{\"armed\": true}");
        storm(from, back);
        until(storm_over, timeout_s);
        storming = cursors = false;
    } else if (sscanf(line, "churn %lf %lf", &timeout_s, &per_s) == 2) {
        reset();
        say("{\"armed\": true}");
        churn(timeout_s, per_s);
    } else if (!strncmp(line, "leave", 5)) {
        leave();
    } else {
        report(now_ns());
        reset();
    }
}

int main(int argc, char **argv)
{
    if (argc < 7) return 2;
    raise_descriptor_limit();
    port = atoi(argv[1]);
    tabs = atoi(argv[2]);
    stuck = atoi(argv[3]);
    cut = atoi(argv[4]);
    haste = (uint32_t)atoi(argv[5]);
    paths = argv + 6;
    path_count = argc - 6;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, 0, STDIN_KEY);
    for (;;) {
        struct epoll_event event;
        /* Only looked at, not taken: a turn serves whoever else is ready. */
        if (epoll_wait(epoll, &event, 1, -1) == 1 && event.data.u32 == STDIN_KEY)
            obey(command());
        else
            turn(0);
    }
}
