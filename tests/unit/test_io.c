/* core/base/io.c: whole files and streams up to a limit, and files that change while they are read. */
#define _GNU_SOURCE
#include "core/base/io.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

TEST(io_read)
{
    REQUIRE(scratch_begin());
    struct deq_err e;
    char *data = NULL;
    size_t len = 77;
    scratch_put("f", "12345");
    CHECK(!deq_io_read(scratch_path("f"), 5, &data, &len, &e) && len == 5 && !strcmp(data, "12345"));
    deq_free(data);
    data = NULL;
    len = 77;
    CHECK(deq_io_read(scratch_path("f"), 4, &data, &len, &e) == DEQ_EFORMAT && !data && len == 77 &&
          strstr(e.text, "/f"));
    CHECK(deq_io_read(scratch_path("none"), 4, &data, &len, &e) == DEQ_ENOTFOUND && !data && strstr(e.text, "/none"));
    CHECK(deq_io_read(scratch_dir(), 4, &data, &len, &e) == DEQ_EIO && !data);
    if (!mkfifo(scratch_path("fifo"), 0600)) {
        /* must not wait for a writer */
        CHECK(deq_io_read(scratch_path("fifo"), 4, &data, &len, &e) == DEQ_EIO && !data);
        unlink(scratch_path("fifo"));
    }
    scratch_put("f", "");
    CHECK(!deq_io_read(scratch_path("f"), 0, &data, &len, &e) && len == 0 && data[0] == 0);
    deq_free(data);
    data = NULL;
    deq_mem_fault(1, false);
    CHECK(deq_io_read(scratch_path("f"), 10, &data, &len, &e) == DEQ_ENOMEM && !data);
    deq_mem_fault(0, false);

    /* a stream longer than the first buffer, at the limit and one past it */
    enum { N = 200000 };
    char *big = malloc(N);
    for (int i = 0; i < N; i++)
        big[i] = (char)(i * 7 + i / 256);
    struct deq_part part = {big, N};
    CHECK(!deq_io_replace(scratch_path("f"), &part, 1, &e));
    for (size_t limit = N - 1; limit <= N; limit++) {
        int fd = open(scratch_path("f"), O_RDONLY);
        data = NULL;
        enum deq_rc rc = deq_io_read_fd(fd, "stream", limit, &data, &len, &e);
        close(fd);
        if (limit == N) {
            CHECK(!rc && len == N && !memcmp(data, big, N) && data[N] == 0);
            deq_free(data);
        } else {
            CHECK(rc == DEQ_EFORMAT && !data && strstr(e.text, "stream"));
        }
    }
    unsigned n = 1;
    for (enum deq_rc rc = DEQ_ENOMEM; rc && n < 30; n++) {
        int fd = open(scratch_path("f"), O_RDONLY);
        data = NULL;
        deq_mem_fault(n, false);
        rc = deq_io_read_fd(fd, "stream", N, &data, &len, &e);
        deq_mem_fault(0, false);
        CHECK(rc ? rc == DEQ_ENOMEM && !data : len == N && !memcmp(data, big, N));
        deq_free(data);
        close(fd);
    }
    CHECK(n > 3 && n < 30);
    CHECK(deq_io_read_fd(-1, "bad", 10, &data, &len, &e) == DEQ_EIO);
    free(big);
    scratch_end("f", NULL);
}

TEST(io_read_of_a_file_that_changes)
{
    REQUIRE(scratch_begin());
    struct deq_err e;
    struct deq_file f;
    char got[8];
    scratch_put("f", "12345678");
    static const struct {
        off_t size;
        const char *says;
    } cut[] = {{4, "now 4"}, {0, "now 0"}, {9, "now 9"}};
    for (size_t i = 0; i < DEQ_COUNT(cut); i++) {
        scratch_put("f", "12345678");
        CHECK(!deq_file_open(scratch_path("f"), &f, &e) && f.bytes == 8 && !deq_file_read(&f, 4, got, 4, "part", &e) &&
              !memcmp(got, "5678", 4));
        CHECK(!truncate(scratch_path("f"), cut[i].size));
        CHECK(deq_file_read(&f, 4, got, 4, "part", &e) == DEQ_EIO && strstr(e.text, "/f: part: the file changed") &&
              strstr(e.text, cut[i].says));
        deq_file_close(&f);
    }
    /* other contents of the same size */
    scratch_put("f", "12345678");
    CHECK(!deq_file_open(scratch_path("f"), &f, &e));
    const int fd = open(scratch_path("f"), O_WRONLY);
    const struct timespec t[2] = {{.tv_sec = 1}, {.tv_sec = 1}}; /* a clock's tick may be longer than this test */
    CHECK(write(fd, "x", 1) == 1 && !futimens(fd, t));
    close(fd);
    CHECK(deq_file_read(&f, 4, got, 4, "part", &e) == DEQ_EIO);
    deq_file_close(&f);
    /* a name that leads to another file since is no change of this one */
    CHECK(!deq_file_open(scratch_path("f"), &f, &e));
    scratch_put("f", "replaced");
    CHECK(!deq_file_read(&f, 0, got, 8, "part", &e) && !memcmp(got, "x2345678", 8));
    CHECK(deq_file_read(&f, 4, got, 5, "part", &e) == DEQ_EIO && strstr(e.text, "ends before byte 9"));
    deq_file_close(&f);
    scratch_end("f", NULL);
}
