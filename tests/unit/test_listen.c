/* server/net/listen.c: addresses, and sockets that somebody or nobody answers. */
#include "server/net/listen.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/test.h"

TEST(listen_addresses)
{
    struct listen_address a;
    struct deq_err err;
    static const char *const good[] = {"127.0.0.1:80", "[::1]:0", "localhost:65535", "0.0.0.0:1", "unix:/x",
                                       "unix:/run/deqd.sock,mode=0600"};
    static const char *const bad[] = {"", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
                                      "127.0.0.1:8x", "::1:80", "host:80", ":80", "unix:", "unix:x", "unix:/x,mode=",
                                      "unix:/x,mode=9", "unix:/x,mode=1777", "unix:/x,mode= 660", "unix:/x,mode=+660"};
    for (size_t i = 0; i < DEQ_COUNT(good); i++)
        CHECK_MSG(listen_parse("server.listen", good[i], &a, &err) == DEQ_OK, "%s", good[i]);
    CHECK(a.mode == 0600);
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK_MSG(listen_parse("server.listen", bad[i], &a, &err) == DEQ_EINVAL && strstr(err.text, "server.listen"),
                  "%s", bad[i]);
    char text[160], name[80], address[160];
    int fd = -1, second = -1;
    snprintf(name, sizeof name, "unix:/tmp/deqd-test-%d.sock,mode=0640", (int)getpid());
    CHECK(listen_open("server.listen", name, &fd, address, &err) == DEQ_OK && !strcmp(address, name));
    struct stat st;
    snprintf(text, sizeof text, "/tmp/deqd-test-%d.sock", (int)getpid());
    CHECK(stat(text, &st) == 0 && (st.st_mode & 0777) == 0640);
    CHECK(listen_open("server.listen", name, &second, address, &err) == DEQ_EIO); /* somebody answers there */
    close(fd);
    /* nobody does: what a killed daemon left */
    CHECK(listen_open("server.listen", name, &fd, address, &err) == DEQ_OK);
    close(fd);
    listen_cleanup(name);
    CHECK(stat(text, &st) != 0);
    CHECK(listen_open("server.listen", "127.0.0.1:0", &fd, address, &err) == DEQ_OK &&
          !strncmp(address, "127.0.0.1:", 10) && strcmp(address, "127.0.0.1:0"));
    CHECK(listen_open("server.listen", address, &second, text, &err) == DEQ_EIO && strstr(err.text, "in use"));
    close(fd);
}
