#define _GNU_SOURCE
#include "server/net/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/fault.h"

enum { BACKLOG = 1024, UNIX_MODE = 0660 };

static enum deq_rc parse_unix(const char *option, const char *text, struct listen_address *ret, struct deq_err *err)
{
    struct sockaddr_un *a = (struct sockaddr_un *)&ret->addr;
    const char *path = text + 5, *comma = strstr(path, ",mode=");
    const size_t n = comma ? (size_t)(comma - path) : strlen(path);
    char *end = NULL;
    ret->mode = comma ? (unsigned)strtoul(comma + 6, &end, 8) : UNIX_MODE;
    if (comma && (comma[6] < '0' || comma[6] > '7' || *end || ret->mode > 0777))
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\": mode must be octal, like 0660", option, text);
    if (path[0] != '/' || n >= sizeof a->sun_path)
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\": expected unix:/PATH of at most %zu bytes", option, text,
                        sizeof a->sun_path - 1);
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
    const char *alone = text + (*text == ':'); /* a port without an address */
    if (*alone && strspn(alone, "0123456789") == strlen(alone))
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not ADDRESS:PORT or unix:/PATH; did you mean 127.0.0.1:%s?",
                        option, text, alone);
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    const unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!colon || !colon[1] || *end || strspn(colon + 1, "0123456789") != strlen(colon + 1) || port > 65535)
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not ADDRESS:PORT (127.0.0.1:8080) or unix:/PATH", option, text);
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
        return deq_fail(err, DEQ_EINVAL, "%s: \"%s\" is not an IPv4 address, [IPv6 address] or localhost", option,
                        host);
    }
    return DEQ_OK;
}

bool listen_takes_free_port(const struct listen_address *a)
{
    return (a->addr.ss_family == AF_INET && !((const struct sockaddr_in *)&a->addr)->sin_port) ||
           (a->addr.ss_family == AF_INET6 && !((const struct sockaddr_in6 *)&a->addr)->sin6_port);
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
    /* not blocking: one that accepts nobody would make us wait */
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) &&
        connect(fd, (const struct sockaddr *)&a->addr, a->len) < 0 && errno == ECONNREFUSED)
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
    const int fd = DEQ_SYS(EMFILE, socket(a.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)), one = 1;
    if (is_unix)
        remove_stale(&a);
    else if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    socklen_t len = sizeof a.addr;
    if (fd < 0 || DEQ_SYS(EADDRINUSE, bind(fd, (struct sockaddr *)&a.addr, a.len)) < 0 ||
        (is_unix && chmod(((struct sockaddr_un *)&a.addr)->sun_path, a.mode) < 0) ||
        DEQ_SYS(EADDRINUSE, listen(fd, BACKLOG)) < 0 || getsockname(fd, (struct sockaddr *)&a.addr, &len) < 0) {
        rc = deq_fail(err, DEQ_EIO, "%s: cannot listen on %s: %s%s", option, text, strerror(errno),
                      errno == EADDRINUSE ? "; choose another with --listen ADDRESS:PORT (make run LISTEN=ADDRESS:PORT)"
                                          : "");
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

/* --- Inherited sockets --- */

enum { FIRST_FD = 3, NAMES_MAX_BYTES = 256 };

/* DEQ_EINVAL unless fd is a stream socket that listens. It does not survive exec and does not block from now on. */
static enum deq_rc adopt(int fd, struct deq_err *err)
{
    int type = 0, listens = 0, domain = 0;
    socklen_t len = sizeof(int);
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return deq_fail(err, DEQ_EINVAL, "LISTEN_FDS: descriptor %d is not open", fd);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return deq_fail(err, DEQ_EINVAL, "LISTEN_FDS: descriptor %d is not a socket", fd);
    (void)getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len);
    (void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
    if (type != SOCK_STREAM || !listens || (domain != AF_INET && domain != AF_INET6 && domain != AF_UNIX))
        return deq_fail(err, DEQ_EINVAL,
                        "LISTEN_FDS: descriptor %d is not a listening stream socket (ListenStream=, Accept=no)", fd);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return deq_fail(err, DEQ_EIO, "LISTEN_FDS: descriptor %d: %s", fd, strerror(errno));
    return DEQ_OK;
}

static bool number(const char *text, long max, long *ret)
{
    char *end = NULL;
    errno = 0;
    *ret = strtol(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && !*end && !errno && *ret <= max;
}

enum deq_rc listen_inherit(struct listen_inherited *ret, struct deq_err *err)
{
    const char *pid_text = getenv("LISTEN_PID"), *fds_text = getenv("LISTEN_FDS"),
               *names_text = getenv("LISTEN_FDNAMES");
    struct listen_inherited given = {-1, -1};
    char names[NAMES_MAX_BYTES] = "", *rest = names;
    long pid, n = 0;
    enum deq_rc rc = DEQ_OK;
    if (!pid_text || !fds_text || (!*pid_text && !*fds_text)) { /* empty is unset */
        *ret = given;
        return DEQ_OK;
    }
    if (!number(pid_text, INT_MAX, &pid))
        return deq_fail(err, DEQ_EINVAL, "LISTEN_PID: \"%s\" is not a process id", pid_text);
    if (pid == (long)getpid() && !number(fds_text, INT_MAX - FIRST_FD, &n))
        return deq_fail(err, DEQ_EINVAL, "LISTEN_FDS: \"%s\" is not a number of descriptors", fds_text);
    if (names_text)
        snprintf(names, sizeof names, "%s", names_text);
    for (int i = 0; i < n && !rc; i++) {
        const char *name = names_text ? strsep(&rest, ":") : NULL;
        const bool admin = name ? !strcmp(name, "admin") : !names_text && i == 1;
        int *slot = admin ? &given.admin : &given.main;
        rc = adopt(FIRST_FD + i, err);
        if (!rc && *slot >= 0)
            rc = deq_fail(err, DEQ_EINVAL,
                          "LISTEN_FDS: %ld sockets, LISTEN_FDNAMES \"%s\": expected at most one named admin and one "
                          "other",
                          n, names_text ? names_text : "");
        *slot = FIRST_FD + i;
    }
    if (rc)
        return rc;
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    *ret = given;
    return DEQ_OK;
}

void listen_name(int fd, char ret_text[160])
{
    struct listen_address a = {.len = sizeof a.addr};
    char path[sizeof(struct sockaddr_un) + 8] = "unix:";
    const struct sockaddr_un *u = (const struct sockaddr_un *)&a.addr;
    if (getsockname(fd, (struct sockaddr *)&a.addr, &a.len) == 0 && a.addr.ss_family == AF_UNIX) {
        const size_t head = offsetof(struct sockaddr_un, sun_path), n = a.len > head ? a.len - head : 0;
        memcpy(path + 5, u->sun_path, n); /* not always closed by a zero; an abstract one begins with it */
        if (n && !path[5])
            path[5] = '@';
    }
    address_text(&a, path, ret_text);
}

bool listen_is_loopback(int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len))
        return false;
    const struct in6_addr *a6 = &((const struct sockaddr_in6 *)&a)->sin6_addr;
    if (a.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(a6) || (IN6_IS_ADDR_V4MAPPED(a6) && a6->s6_addr[12] == 127);
    return a.ss_family == AF_INET && ntohl(((const struct sockaddr_in *)&a)->sin_addr.s_addr) >> 24 == 127;
}
