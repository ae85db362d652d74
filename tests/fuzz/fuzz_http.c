/* The whole HTTP surface: a daemon in this process on the tiny model, and a client's bytes over loopback in one write,
 * and cut anywhere. It answers until it has read the end, at once, and the same however the bytes were cut.
 *
 * Input: a letter for the cuts, one for how the client ends (half, whole, reset), the bytes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/service.h"

enum { HANG_MS = 120000, CUTS_MAX = 12, ANSWER_MAX = 1 << 20 }; /* a hang is none because others use the machine */
enum { ENDS_HALF, ENDS_WHOLE, ENDS_RESET, ENDS };

static uint16_t port;

static void begin(void)
{
    static struct http *http;
    static char address[160], admin[160];
    const struct listen_inherited inherited = {-1, -1};
    struct deq_err err = {0};
    if (port)
        return;
    struct service *s = fuzz_service();
    const struct http_handler handler = fuzz_handler(s);
    if (http_start(s->conf, &inherited, s->metrics, NULL, &handler, &http, address, admin, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    const char *colon = strrchr(address, ':');
    port = (uint16_t)strtoul(colon ? colon + 1 : "0", NULL, 10);
    FUZZ_HOLDS(port);
}

static int connected(void)
{
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons(port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    FUZZ_HOLDS(fd >= 0 && !connect(fd, (const struct sockaddr *)&to, sizeof to));
    FUZZ_HOLDS(!setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes));
    return fd;
}

/* Who has been refused need not be read to the end: errors are none. */
static void send_all(int fd, const uint8_t *p, size_t n)
{
    while (n) {
        const ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return;
        p += k;
        n -= (size_t)k;
    }
}

/* In one write (seed 0), or in some, with time between them to be read. */
static void send_cut(int fd, const uint8_t *p, size_t n, uint64_t seed)
{
    for (unsigned cuts = 0; seed && n && cuts < CUTS_MAX; cuts++) {
        const size_t k = fuzz_piece(&seed, fuzz_next(&seed) % 2 ? 4 : 400, n);
        send_all(fd, p, k);
        p += k;
        n -= k;
        nanosleep(&(struct timespec){.tv_nsec = (long)(fuzz_next(&seed) % 100) * 1000}, NULL);
    }
    send_all(fd, p, n);
}

/* All that comes until the server ends the connection. */
static size_t receive(int fd, char *out)
{
    const uint64_t until = deq_now_ns() + HANG_MS * 1000000ull;
    size_t n = 0;
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        FUZZ_HOLDS(poll(&p, 1, HANG_MS) == 1 && deq_now_ns() < until); /* or it hangs */
        FUZZ_HOLDS(n < ANSWER_MAX);
        const ssize_t k = recv(fd, out + n, ANSWER_MAX - n, 0);
        if (k <= 0)
            return n;
        n += (size_t)k;
    }
}

/* What was answered: statuses and codes of errors, in order; interim answers depend on what has come already. */
static void verdict(const char *answer, size_t n, char *out, size_t cap)
{
    static const char line[] = "HTTP/1.1 ", code[] = "\"code\":\"";
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i + 16 < n && at + 64 < cap; i++) {
        if (!memcmp(answer + i, line, sizeof line - 1) && memcmp(answer + i + 9, "100", 3))
            at += (size_t)snprintf(out + at, cap - at, "%.3s ", answer + i + 9);
        const char *const word = answer + i + sizeof code - 1;
        if (!memcmp(answer + i, code, sizeof code - 1))
            at += (size_t)snprintf(out + at, cap - at, "%.*s ", (int)DEQ_MIN(strcspn(word, "\""), (size_t)40), word);
    }
}

static const char last[] = "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/* Behind the bytes a last request, which ends a connection that is in step. */
static void ask(const uint8_t *data, size_t n, uint64_t seed, char *out, size_t cap)
{
    static char answer[ANSWER_MAX + 1];
    fuzz_empty("states"); /* what the bytes saved before */
    const int fd = connected();
    uint8_t *all = malloc(n + strlen(last));
    FUZZ_HOLDS(all);
    memcpy(all, data, n);
    memcpy(all + n, last, strlen(last));
    send_cut(fd, all, n + strlen(last), seed);
    (void)shutdown(fd, SHUT_WR);
    free(all);
    const size_t got = receive(fd, answer);
    answer[got] = 0;
    close(fd);
    verdict(answer, got, out, cap);
}

/* A client that does not wait. */
static void leave(const uint8_t *data, size_t n, uint64_t seed, bool reset)
{
    const int fd = connected();
    send_cut(fd, data, n, seed);
    if (reset)
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(fd);
}

/* What time decides. */
static bool is_timed(const uint8_t *data, size_t n)
{
    char *text = fuzz_text(data, n);
    for (size_t i = 0; i < n; i++)
        text[i] = text[i] ? text[i] : ' ';
    const bool timed = strcasestr(text, "timeout-ms") || strcasestr(text, "deadline_ms");
    free(text);
    return timed;
}

FUZZ(http)
{
    char whole[4096], cut[4096];
    const uint64_t seed = 1 + fuzz_letter(&data, &n, 256);
    const unsigned ends = fuzz_letter(&data, &n, ENDS);
    begin();
    if (ends != ENDS_HALF) {
        leave(data, n, seed, ends == ENDS_RESET);
        ask((const uint8_t *)"", 0, 0, whole, sizeof whole);
        FUZZ_HOLDS(!strcmp(whole, "200 "));
    } else {
        ask(data, n, 0, whole, sizeof whole);
        ask(data, n, seed, cut, sizeof cut);
        if (strcmp(whole, cut) && !is_timed(data, n)) {
            fprintf(stderr, "whole: %s\ncut:   %s\n", whole, cut);
            FUZZ_HOLDS(!strcmp(whole, cut));
        }
    }
}
