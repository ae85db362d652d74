#include "server/net/probe.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "server/net/listen.h"

enum { LIMIT_S = 3, STATUS_AT = 9, STATUS_BYTES = STATUS_AT + 3 }; /* "HTTP/1.1 200" */

/* A daemon on every address is asked on loopback. */
static void name_loopback(struct listen_address *a)
{
    struct sockaddr_in *a4 = (struct sockaddr_in *)&a->addr;
    struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)&a->addr;
    if (a->addr.ss_family == AF_INET && !a4->sin_addr.s_addr)
        a4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (a->addr.ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a6->sin6_addr))
        a6->sin6_addr = in6addr_loopback;
}

/* The answer's first bytes, up to its status. False: there is none. */
static bool ask(const struct listen_address *a, char ret[STATUS_BYTES])
{
    static const char request[] = "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    const struct timeval limit = {.tv_sec = LIMIT_S};
    const int fd = socket(a->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t got = 0;
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (const struct sockaddr *)&a->addr, a->len) == 0 &&
        send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1)
        for (ssize_t n; got < STATUS_BYTES && (n = recv(fd, ret + got, STATUS_BYTES - got, 0)) > 0;)
            got += (size_t)n;
    close(fd);
    return got == STATUS_BYTES;
}

enum deq_rc probe_ready(const struct conf *c, struct deq_err *err)
{
    struct listen_address a;
    char answer[STATUS_BYTES];
    const bool admin = c->admin_listen[0] != 0;
    const char *const where = admin ? c->admin_listen : c->listen;
    const enum deq_rc rc = listen_parse(admin ? "server.admin_listen" : "server.listen", where, &a, err);
    if (rc)
        return rc;
    if (!admin && c->tls_cert[0])
        return deq_fail(err, DEQ_EINVAL, "--health-probe speaks no TLS: set server.admin_listen");
    name_loopback(&a);
    if (!ask(&a, answer))
        return deq_fail(err, DEQ_EIO, "--health-probe: %s does not answer", where);
    if (memcmp(answer + STATUS_AT, "200", 3))
        return deq_fail(err, DEQ_EIO, "--health-probe: %s answers %.3s, not ready", where, answer + STATUS_AT);
    return DEQ_OK;
}
