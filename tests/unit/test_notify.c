/* server/notify.c: what a supervisor reads on its socket, from start to end. */
#define _GNU_SOURCE
#include "server/notify.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/test.h"

static int supervisor(char name[64])
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    snprintf(name, 64, "@deqd-unit-%d", (int)getpid());
    memcpy(a.sun_path + 1, name + 1, strlen(name) - 1);
    CHECK(fd >= 0 && !bind(fd, (struct sockaddr *)&a,
                           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))));
    return fd;
}

/* The next datagram; "" when none comes. */
static const char *heard(int fd, int wait_ms)
{
    static char text[2048];
    text[0] = 0;
    if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, wait_ms) == 1) {
        const ssize_t n = recv(fd, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = 0;
    }
    return text;
}

struct daemon {
    _Atomic bool fine;
    _Atomic unsigned asked;
};

static bool alive(void *ctx)
{
    struct daemon *d = ctx;
    atomic_fetch_add(&d->asked, 1);
    return atomic_load(&d->fine);
}

static void asked_again(struct daemon *d)
{
    for (const unsigned n = atomic_load(&d->asked); atomic_load(&d->asked) < n + 2;)
        usleep(1000);
}

TEST(notify_variables)
{
    static const struct {
        const char *name, *value;
        enum deq_rc rc;
        const char *says;
    } bad[] = {
        {"NOTIFY_SOCKET", "vsock:2:1234", DEQ_EINVAL, "NOTIFY_SOCKET: \"vsock:2:1234\": expected /PATH or @NAME"},
        {"NOTIFY_SOCKET", "/nonexistent/socket", DEQ_EIO, "NOTIFY_SOCKET: cannot send to \"/nonexistent/socket\""},
        {"WATCHDOG_USEC", "soon", DEQ_EINVAL, "WATCHDOG_USEC: \"soon\": expected a positive number"},
        {"WATCHDOG_USEC", "0", DEQ_EINVAL, "WATCHDOG_USEC: \"0\": expected a positive number"},
        {"WATCHDOG_PID", "-1", DEQ_EINVAL, "WATCHDOG_PID: \"-1\": expected a positive number"},
    };
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        struct deq_err err = {0};
        setenv("NOTIFY_SOCKET", "/nonexistent/socket", 1);
        setenv("WATCHDOG_USEC", "1000000", 1);
        setenv(bad[i].name, bad[i].value, 1);
        CHECK_EQ(notify_start("x", &err), bad[i].rc);
        CHECK_MSG(!strncmp(err.text, bad[i].says, strlen(bad[i].says)), "%s=%s: %s", bad[i].name, bad[i].value,
                  err.text);
        unsetenv("NOTIFY_SOCKET");
        unsetenv("WATCHDOG_USEC");
        unsetenv("WATCHDOG_PID");
    }
    CHECK_EQ(notify_start("x", NULL), DEQ_OK); /* nobody asks: nothing happens, whatever is called */
    notify_ready("x", NULL, NULL);
    notify_stop();
}

TEST(notify_from_start_to_end)
{
    char name[64];
    struct deq_err err = {0};
    struct daemon daemon = {.fine = true};
    const int fd = supervisor(name);
    setenv("NOTIFY_SOCKET", name, 1);
    setenv("WATCHDOG_USEC", "30000", 1);
    CHECK_MSG(!notify_start("loading\nREADY=1", &err), "%s", err.text);
    CHECK(!getenv("NOTIFY_SOCKET") && !getenv("WATCHDOG_USEC")); /* not for children */
    CHECK_EQ(heard(fd, 0), "STATUS=loading?READY=1"); /* what follows a line's end would be another variable */
    notify_reloading();
    CHECK_EQ(heard(fd, 0), ""); /* there is nothing yet that could be read again */
    notify_ready("serving", alive, &daemon);
    CHECK_EQ(heard(fd, 0), "READY=1\nSTATUS=serving");
    notify_ready("twice", alive, &daemon);
    CHECK_EQ(heard(fd, 10000), "WATCHDOG=1");
    atomic_store(&daemon.fine, false);
    asked_again(&daemon); /* one may be on its way */
    while (*heard(fd, 0))
        ;
    asked_again(&daemon);
    CHECK_EQ(heard(fd, 0), ""); /* the dog is not fed */
    notify_reloading();
    CHECK(!strncmp(heard(fd, 0), "RELOADING=1\nMONOTONIC_USEC=", 27));
    notify_reloaded("serving again");
    CHECK_EQ(heard(fd, 0), "READY=1\nSTATUS=serving again");
    notify_stopping(2500);
    CHECK_EQ(heard(fd, 0), "STOPPING=1\nEXTEND_TIMEOUT_USEC=2500000\nSTATUS=draining");
    notify_reloaded("late");
    CHECK_EQ(heard(fd, 0), "");
    notify_failed("why");
    CHECK_EQ(heard(fd, 0), "STATUS=why");
    notify_stop();
    notify_failed("later");
    CHECK_EQ(heard(fd, 0), "");
    close(fd);
}
