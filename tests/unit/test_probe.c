/* server/net/probe.c: whether the daemon that should be there answers, and what. */
#include "server/net/probe.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/test.h"

struct server {
    int fd;
    const char *answer;
    char asked[256];
};

/* One connection: takes what is asked, up to the empty line, gives the answer, closes. */
static void *serve(void *ctx)
{
    struct server *s = ctx;
    const int c = accept(s->fd, NULL, NULL);
    size_t got = 0;
    for (ssize_t n; !strstr(s->asked, "\r\n\r\n") && (n = recv(c, s->asked + got, sizeof s->asked - 1 - got, 0)) > 0;)
        got += (size_t)n;
    (void)!send(c, s->answer, strlen(s->answer), MSG_NOSIGNAL);
    close(c);
    return NULL;
}

TEST(probe_tells_ready_from_others)
{
    static const struct {
        const char *answer, *says; /* NULL: ready */
    } t[] = {
        {"HTTP/1.1 200 OK\r\n\r\n", NULL},
        {"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answers 503, not ready"},
        {"HTTP/1.1 20", "does not answer"},
        {"", "does not answer"},
    };
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    struct conf conf = {0};
    struct deq_err err;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(fd >= 0 && !bind(fd, (struct sockaddr *)&a, len) && !listen(fd, 4) &&
            !getsockname(fd, (struct sockaddr *)&a, &len));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct server s = {.fd = fd, .answer = t[i].answer};
        pthread_t thread;
        /* by every way to the same port: an address, the admin listener before the other, all addresses */
        snprintf(conf.listen, sizeof conf.listen, i % 2 ? "127.0.0.1:1" : "127.0.0.1:%u", ntohs(a.sin_port));
        snprintf(conf.admin_listen, sizeof conf.admin_listen, "%s", "");
        if (i % 2)
            snprintf(conf.admin_listen, sizeof conf.admin_listen, "0.0.0.0:%u", ntohs(a.sin_port));
        REQUIRE(!pthread_create(&thread, NULL, serve, &s));
        const enum deq_rc rc = probe_ready(&conf, &err);
        pthread_join(thread, NULL);
        CHECK_MSG(t[i].says ? rc == DEQ_EIO && strstr(err.text, t[i].says) : !rc, "case %zu: %s", i, err.text);
        CHECK(!strncmp(s.asked, "GET /health/ready HTTP/1.1\r\nHost: localhost\r\n", 45));
    }
    close(fd);
    snprintf(conf.listen, sizeof conf.listen, "127.0.0.1:%u", ntohs(a.sin_port));
    conf.admin_listen[0] = 0;
    CHECK(probe_ready(&conf, &err) == DEQ_EIO && strstr(err.text, "does not answer")); /* nobody is there now */
    strcpy(conf.tls_cert, "c.pem");
    CHECK(probe_ready(&conf, &err) == DEQ_EINVAL && strstr(err.text, "speaks no TLS: set server.admin_listen"));
    strcpy(conf.listen, "nowhere");
    CHECK(probe_ready(&conf, &err) == DEQ_EINVAL && strstr(err.text, "server.listen"));
}
