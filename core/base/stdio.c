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
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY); /* the wrong way: using it fails, as on a closed one */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

enum deq_rc deq_stdio_close(struct deq_err *err)
{
    const int failed = ferror(stdout);
    errno = 0;
    if (!fclose(stdout) && !failed)
        return DEQ_OK;
    return deq_fail(err, DEQ_EIO, "standard output: cannot write%s%s", errno ? ": " : "", errno ? strerror(errno) : "");
}
