/* server/net/http.c: what it stands for between libmicrohttpd and the system; tests/e2e talks to the rest of it over
 * sockets. */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tests/unit/test.h"

/* libmicrohttpd may take its listening socket out twice, from two threads. */
TEST(http_epoll_removes_twice)
{
    struct epoll_event event = {.events = EPOLLIN};
    int ends[2];
    const int set = epoll_create1(EPOLL_CLOEXEC);
    CHECK(set >= 0 && !pipe(ends));
    CHECK(!epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event));
    CHECK(!epoll_ctl(set, EPOLL_CTL_DEL, ends[0], NULL));
    CHECK(!epoll_ctl(set, EPOLL_CTL_DEL, ends[0], NULL));
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, ends[0], &event) && errno == ENOENT);
    CHECK(epoll_ctl(-1, EPOLL_CTL_DEL, ends[0], NULL) && errno == EBADF);
    close(ends[0]);
    close(ends[1]);
    close(set);
}
