/* core/base/stdio.c: streams that the caller closed or nobody reads, in children, whose streams they are. */
#include "core/base/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/test.h"

/* What `child` returns, as its exit code; -1: it was ended by a signal. */
static int exit_of(int (*child)(void))
{
    int status = 0;
    fflush(stdout);
    const pid_t pid = fork();
    if (!pid)
        _exit(child());
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* No file gets the number of a stream; what stands there fails, as a closed one does. */
static int all_closed(void)
{
    for (int fd = 0; fd <= 2; fd++)
        close(fd);
    deq_stdio_init();
    char c;
    const int next = open("/dev/null", O_RDONLY);
    return next > 2 && read(0, &c, 1) < 0 && write(1, "x", 1) < 0 && write(2, "x", 1) < 0 && errno == EBADF ? 7 : 1;
}

/* Writing to a pipe whose reader left is an error with its reason, kept until the end, and no death. */
static int nobody_reads(void)
{
    struct deq_err err = {0};
    int ends[2];
    if (pipe(ends) || dup2(ends[1], 1) != 1)
        return 1;
    close(ends[0]);
    close(ends[1]);
    deq_stdio_init();
    printf("a line\n");
    const bool told = !deq_stdio_flush();
    printf("another\n");
    const enum deq_rc rc = deq_stdio_close(&err);
    return told && rc == DEQ_EIO && strstr(err.text, "standard output: cannot write: Broken pipe") ? 7 : 1;
}

static int all_well(void)
{
    const int none = open("/dev/null", O_WRONLY);
    if (dup2(none, 1) != 1)
        return 1;
    deq_stdio_init();
    printf("a line\n");
    return deq_stdio_flush() && !deq_stdio_close(NULL) ? 7 : 1;
}

TEST(stdio_of_programs)
{
    CHECK_EQ(exit_of(all_well), 7);
    CHECK_EQ(exit_of(all_closed), 7);
    CHECK_EQ(exit_of(nobody_reads), 7);
}
