/* core/base/fault.c: which place goes wrong, as what, and how it is asked for. */
#include "core/base/fault.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

/* Of six places, one a letter. */
static const char *met(enum deq_fault kind, uint64_t nth, bool for_ever)
{
    static char seen[7];
    deq_fault_set(kind, nth, for_ever);
    for (size_t i = 0; i < 6; i++)
        seen[i] = deq_fault(kind) ? 'x' : '.';
    CHECK_EQ(deq_fault_places(kind), nth ? 6 : 0);
    deq_fault_set(kind, 0, false);
    CHECK(!deq_fault(kind));
    return seen;
}

TEST(fault_nth_place)
{
    for (int k = 0; k < DEQ_FAULT_COUNT; k++) {
        const enum deq_fault kind = (enum deq_fault)k;
        CHECK_EQ(met(kind, 3, false), "..x...");
        CHECK_EQ(deq_fault_hits(kind), 1);
        CHECK_EQ(met(kind, 3, true), kind == DEQ_FAULT_EINTR ? "..x.x." : "..xxxx");
    }
}

static bool second(void *ctx, enum deq_fault kind)
{
    return kind == DEQ_FAULT_ALLOC && ++*(unsigned *)ctx == 2;
}

TEST(fault_judged_by_a_test)
{
    unsigned n = 0;
    deq_fault_ask(second, &n);
    void *a = deq_alloc(1), *b = deq_alloc(1), *c = deq_alloc(1);
    CHECK(a && !b && c && !deq_fault(DEQ_FAULT_IO));
    deq_fault_ask(NULL, NULL);
    CHECK_EQ(n, 3);
    deq_free(a);
    deq_free(c);
}

TEST(fault_of_files)
{
    REQUIRE(scratch_begin());
    scratch_put("f", "0123456789");
    char text[16];
    const int fd = open(scratch_path("f"), O_RDWR);
    REQUIRE(fd >= 0);
    deq_fault_set(DEQ_FAULT_IO, 1, true);
    CHECK(DEQ_SYS(EMFILE, open(scratch_path("f"), O_RDONLY)) < 0 && errno == EMFILE);
    CHECK(deq_sys_read(fd, text, 10) < 0 && errno == EIO);
    CHECK(deq_sys_pread(fd, text, 10, 0) < 0 && errno == EIO);
    CHECK(deq_sys_write(fd, "x", 1) < 0 && errno == ENOSPC);
    CHECK(deq_sys_pwrite(fd, "x", 1, 0) < 0 && errno == ENOSPC);
    deq_fault_set(DEQ_FAULT_IO, 0, false);
    deq_fault_set(DEQ_FAULT_SHORT, 1, true);
    CHECK_EQ(deq_sys_pread(fd, text, 10, 0), 5);
    CHECK_EQ(deq_sys_read(fd, text, 1), 1); /* something is moved always */
    deq_fault_set(DEQ_FAULT_SHORT, 0, false);
    deq_fault_set(DEQ_FAULT_EINTR, 1, false);
    CHECK(deq_sys_read(fd, text, 1) < 0 && errno == EINTR);
    CHECK_EQ(deq_sys_read(fd, text, 1), 1);
    deq_fault_set(DEQ_FAULT_EINTR, 0, false);
    deq_fault_set(DEQ_FAULT_IO, 1, false); /* told as failed, it is closed */
    CHECK(deq_sys_close(fd) < 0 && errno == EIO && fcntl(fd, F_GETFD) < 0);
    deq_fault_set(DEQ_FAULT_IO, 0, false);
    CHECK(scratch_is("f", "0123456789"));
    scratch_end("f", NULL);
}

TEST(fault_of_the_environment)
{
    static const char *const wrong[] = {"alloc", "alloc:", "alloc:0", "alloc:x", "alloc:1x", "alloc:-1", "disk:1",
                                        "io:1 ,alloc:1"};
    struct deq_err err;
    char *was = getenv("DEQ_FAULT");
    REQUIRE(!was);
    CHECK(deq_fault_environment(&err) == DEQ_OK && !deq_fault_asked);
    for (size_t i = 0; i < DEQ_COUNT(wrong); i++) {
        setenv("DEQ_FAULT", wrong[i], 1);
        CHECK_MSG(deq_fault_environment(&err) == DEQ_EINVAL && strstr(err.text, wrong[i]), "%s", wrong[i]);
        deq_fault_set(DEQ_FAULT_ALLOC, 0, false);
    }
    setenv("DEQ_FAULT", "thread:2,io:1+", 1);
    CHECK(deq_fault_environment(&err) == DEQ_OK);
    CHECK(!deq_fault(DEQ_FAULT_THREAD) && deq_fault(DEQ_FAULT_THREAD) && !deq_fault(DEQ_FAULT_THREAD));
    CHECK(deq_fault(DEQ_FAULT_IO) && deq_fault(DEQ_FAULT_IO) && !deq_fault(DEQ_FAULT_ALLOC));
    unsetenv("DEQ_FAULT");
    for (int k = 0; k < DEQ_FAULT_COUNT; k++)
        deq_fault_set((enum deq_fault)k, 0, false);
    deq_mem_count_plain(false);
}
