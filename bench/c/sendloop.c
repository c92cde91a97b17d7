/* The kernel's price: one send() per event and client, and nothing else.
 *
 *   sendloop UPSTREAM_PORT
 *
 * Reads the same upstream as the others, by HTTP/1.0 so that there are no chunks to undo, and sends
 * each block as one chunk to each client. No history, no limits, no metrics, and who is slow stops
 * all: what a relay in C would have to add comes on top.
 */
#include "common.h"

enum { LISTEN_KEY = 1, UPSTREAM_KEY };
#define MAX_CLIENTS 20000

static int clients[MAX_CLIENTS], client_count;
static char buffer[1 << 20];
static size_t held;

static void take_client(int listener)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    char request[8192];
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0 || client_count == MAX_CLIENTS) die("accept");
    if (recv(fd, request, sizeof request, 0) <= 0 || !send_all(fd, head, sizeof head - 1)) {
        close(fd);
        return;
    }
    clients[client_count++] = fd;
}

static void send_to_all(const char *block, size_t size)
{
    static char chunk[1 << 16];
    int head = sprintf(chunk, "%zx\r\n", size);
    memcpy(chunk + head, block, size);
    memcpy(chunk + head + size, "\r\n", 2);
    for (int i = 0; i < client_count;)
        if (send_all(clients[i], chunk, (size_t)head + size + 2))
            i++;
        else {
            close(clients[i]);
            clients[i] = clients[--client_count];
        }
}

static bool read_upstream(int fd)
{
    ssize_t size = recv(fd, buffer + held, sizeof buffer - held, 0);
    char *at = buffer, *end;
    if (size <= 0) return false;
    held += (size_t)size;
    while ((end = memmem(at, held - (size_t)(at - buffer), "\n\n", 2))) {
        send_to_all(at, (size_t)(end + 2 - at));
        at = end + 2;
    }
    held -= (size_t)(at - buffer);
    memmove(buffer, at, held);
    return true;
}

int main(int argc, char **argv)
{
    static const char request[] = "GET /api/desktops/stream HTTP/1.0\r\n\r\n";
    char head[4096];
    int epoll = epoll_create1(EPOLL_CLOEXEC), upstream, listener;
    if (argc < 2) return 2;
    raise_descriptor_limit();
    upstream = connect_to(atoi(argv[1]));
    if (!send_all(upstream, request, sizeof request - 1)) die("send");
    if (recv(upstream, head, sizeof head, 0) <= 0) die("recv"); /* its headers, before any event */
    listener = listen_anywhere();
    watch(epoll, listener, LISTEN_KEY);
    watch(epoll, upstream, UPSTREAM_KEY);
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, -1) != 1) continue;
        if (event.data.u32 == LISTEN_KEY)
            take_client(listener);
        else if (!read_upstream(upstream))
            return 0;
    }
}
