#include "core/base/stdio.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void deq_stdio_init(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) /* the lowest free number is given out, so it is this one */
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            /* the wrong way: using it fails, as on a closed one */
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    /* A write in the midst of printing fails without a word of why; what fits in here is written by a flush. A terminal
     * stays line by line. */
    static char room[1 << 16];
    if (!isatty(STDOUT_FILENO))
        setvbuf(stdout, room, _IOFBF, sizeof room);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

/* errno of the first flush that failed; what was not written is gone then, and a later one knows no reason */
static int reason;

bool deq_stdio_flush(void)
{
    errno = 0;
    if (fflush(stdout) && !reason)
        reason = errno;
    return !ferror(stdout);
}

enum deq_rc deq_stdio_close(struct deq_err *err)
{
    const bool ok = deq_stdio_flush();
    errno = 0;
    if (!fclose(stdout) && ok)
        return DEQ_OK;
    reason = reason ? reason : errno;
    return deq_fail(err, DEQ_EIO, "standard output: cannot write%s%s", reason ? ": " : "",
                    reason ? strerror(reason) : "");
}
