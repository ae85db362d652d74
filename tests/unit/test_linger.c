/* Sockets behind their last answer, over pairs of unix sockets and with a clock of the test's own. */
#include "server/net/linger.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/test.h"

enum { BLOCK = 32 << 10 };
static const uint64_t SECOND = 1000000000u, BEGIN = 7 * 1000000000ull;

/* A client's end of a socket whose server has said "no" and closed while the client was sending. */
static int refused_client(struct lingering *l)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) || write(pair[0], "begin", 5) != 5 ||
        write(pair[1], "no", 2) != 2)
        return -1;
    linger_add(l, pair[1], BEGIN);
    close(pair[1]);
    return pair[0];
}

/* Sends until nothing more is taken; the bytes, or -1: nobody is there to read them. */
static ssize_t fill(int fd)
{
    static const char block[BLOCK];
    ssize_t sum = 0, n;
    while ((n = send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
        sum += n;
    return errno == EAGAIN ? sum : -1;
}

/* More than a socket's buffer holds. */
static void drain(struct lingering *l, uint64_t now_ns)
{
    for (int turns = 0; turns < 8; turns++)
        linger_drain(l, now_ns);
}

/* Whether the client reads its answer and then the end, not a reset. */
static bool answered(int fd)
{
    char text[8];
    return read(fd, text, sizeof text) == 2 && !memcmp(text, "no", 2) && read(fd, text, sizeof text) == 0;
}

TEST(linger_reads_on_for_its_time)
{
    struct lingering *l = NULL;
    REQUIRE(linger_new(&l, NULL) == DEQ_OK);
    struct pollfd there = {.fd = linger_fd(l), .events = POLLIN};
    CHECK_EQ(poll(&there, 1, 0), 0);
    const int slow = refused_client(l), leaves = refused_client(l), late = refused_client(l);
    CHECK_EQ(poll(&there, 1, 0), 1);
    for (uint64_t s = 0; s < LINGER_MS / 1000; s++) { /* the socket's buffer is full each time, and emptied */
        CHECK(fill(slow) > 0);
        drain(l, BEGIN + s * SECOND);
    }
    CHECK(answered(slow));
    close(leaves);
    drain(l, BEGIN + LINGER_MS * 1000000ull);
    CHECK(fill(slow) > 0);
    CHECK(fill(late) > 0);
    drain(l, BEGIN + LINGER_MS * 1000000ull + 1); /* absolute: what was sent does not extend it */
    CHECK_EQ(fill(slow), -1);
    CHECK_EQ(fill(late), -1);
    CHECK_EQ(poll(&there, 1, 0), 0);
    close(slow);
    close(late);
    linger_free(l);
}

TEST(linger_reads_so_much_of_so_many)
{
    struct lingering *l = NULL;
    int clients[LINGER_SOCKETS + 1];
    ssize_t sent, n;
    REQUIRE(linger_new(&l, NULL) == DEQ_OK);
    for (size_t i = 0; i <= LINGER_SOCKETS; i++)
        clients[i] = refused_client(l);
    for (size_t i = 0; i < LINGER_SOCKETS; i++)
        CHECK((sent = fill(clients[i])) > 0);
    CHECK_EQ(fill(clients[LINGER_SOCKETS]), -1); /* one too many: closed at once */
    close(clients[0]);
    drain(l, BEGIN);
    close(clients[LINGER_SOCKETS]);
    clients[0] = refused_client(l);
    clients[LINGER_SOCKETS] = refused_client(l);
    CHECK(fill(clients[0]) > 0); /* the room of one that left */
    CHECK_EQ(fill(clients[LINGER_SOCKETS]), -1);
    for (; (n = fill(clients[1])) >= 0 && sent < 2 * LINGER_BYTES; sent += n)
        linger_drain(l, BEGIN);
    CHECK_MSG(n == -1 && sent >= LINGER_BYTES, "%zd bytes", sent);
    CHECK(answered(clients[1]));
    linger_free(l);
    CHECK_EQ(fill(clients[2]), -1);
    for (size_t i = 0; i <= LINGER_SOCKETS; i++)
        close(clients[i]);
}
