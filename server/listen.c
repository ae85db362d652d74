#include "server/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024, UNIX_MODE = 0660 };

static enum deq_rc parse_unix(const char *option, const char *text, struct listen_address *ret, struct deq_err *err)
{
    struct sockaddr_un *a = (struct sockaddr_un *)&ret->addr;
    const char *path = text + 5, *comma = strstr(path, ",mode=");
    const size_t n = comma ? (size_t)(comma - path) : strlen(path);
    char *end = NULL;
    ret->mode = comma ? (unsigned)strtoul(comma + 6, &end, 8) : UNIX_MODE;
    if (comma && (end == comma + 6 || *end || ret->mode > 0777))
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\": mode must be octal, like 0660", option, text);
    if (path[0] != '/' || n >= sizeof a->sun_path)
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\": expected unix:/PATH of at most %zu bytes", option, text, sizeof a->sun_path - 1);
    a->sun_family = AF_UNIX;
    memcpy(a->sun_path, path, n);
    ret->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return DEQ_OK;
}

enum deq_rc listen_parse(const char *option, const char *text, struct listen_address *ret, struct deq_err *err)
{
    char host[128];
    memset(ret, 0, sizeof *ret);
    if (!strncmp(text, "unix:", 5))
        return parse_unix(option, text, ret, err);
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    const unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || !colon[1] || *end || strspn(colon + 1, "0123456789") != strlen(colon + 1) || port > 65535)
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not ADDRESS:PORT or unix:/PATH", option, text);
    size_t n = (size_t)(colon - text);
    const bool v6 = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(v6 ? n - 2 : n), v6 ? text + 1 : text);
    struct sockaddr_in *a4 = (struct sockaddr_in *)&ret->addr;
    struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)&ret->addr;
    if (!v6 && inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &a4->sin_addr) == 1) {
        a4->sin_family = AF_INET;
        a4->sin_port = htons((uint16_t)port);
        ret->len = sizeof *a4;
    } else if (v6 && inet_pton(AF_INET6, host, &a6->sin6_addr) == 1) {
        a6->sin6_family = AF_INET6;
        a6->sin6_port = htons((uint16_t)port);
        ret->len = sizeof *a6;
    } else {
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not an IPv4 address, [IPv6 address] or localhost", option, host);
    }
    return DEQ_OK;
}

static void address_text(const struct listen_address *a, const char *text, char ret[160])
{
    char host[INET6_ADDRSTRLEN];
    if (a->addr.ss_family == AF_INET) {
        const struct sockaddr_in *a4 = (const struct sockaddr_in *)&a->addr;
        snprintf(ret, 160, "%s:%u", inet_ntop(AF_INET, &a4->sin_addr, host, sizeof host), ntohs(a4->sin_port));
    } else if (a->addr.ss_family == AF_INET6) {
        const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)&a->addr;
        snprintf(ret, 160, "[%s]:%u", inet_ntop(AF_INET6, &a6->sin6_addr, host, sizeof host), ntohs(a6->sin6_port));
    } else {
        snprintf(ret, 160, "%s", text);
    }
}

/* A socket file that nobody answers at is what a killed daemon left. */
static void remove_stale(const struct listen_address *a)
{
    const char *path = ((const struct sockaddr_un *)&a->addr)->sun_path;
    struct stat st;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* one that accepts nobody would make us wait */
    if (fd >= 0 && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && connect(fd, (const struct sockaddr *)&a->addr, a->len) < 0 && errno == ECONNREFUSED)
        (void)unlink(path);
    if (fd >= 0)
        close(fd);
}

enum deq_rc listen_open(const char *option, const char *text, int *ret_fd, char ret_text[160], struct deq_err *err)
{
    struct listen_address a;
    enum deq_rc rc = listen_parse(option, text, &a, err);
    if (rc)
        return rc;
    const bool is_unix = a.addr.ss_family == AF_UNIX;
    const int fd = socket(a.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (is_unix)
        remove_stale(&a);
    else if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    socklen_t len = sizeof a.addr;
    if (fd < 0 || bind(fd, (struct sockaddr *)&a.addr, a.len) < 0 ||
        (is_unix && chmod(((struct sockaddr_un *)&a.addr)->sun_path, a.mode) < 0) || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&a.addr, &len) < 0) {
        rc = deq_fail(err, DEQ_EIO, "%s: cannot listen on %s: %s", option, text, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    address_text(&a, text, ret_text);
    *ret_fd = fd;
    return DEQ_OK;
}

void listen_cleanup(const char *text)
{
    struct listen_address a;
    if (!strncmp(text, "unix:", 5) && !listen_parse("", text, &a, NULL))
        (void)unlink(((struct sockaddr_un *)&a.addr)->sun_path);
}
