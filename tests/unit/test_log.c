/* Whoever reads the log may stop: nobody waits for it, what is lost is counted, and told when it goes on. */
#include "server/log.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/base.h"
#include "tests/unit/test.h"

enum { LINES = 100, PADDING = 3500 }; /* more than the ring and a pipe hold, as many as a second may have */

static unsigned count(const char *text, const char *word)
{
    unsigned n = 0;
    for (const char *s = text; (s = strstr(s, word)); s++)
        n++;
    return n;
}

static char text[1 << 20];
static size_t got;

/* Until the word stands in the text so many times. */
static void read_until(int fd, const char *word, size_t times)
{
    while (count(text, word) < times && got < sizeof text - 1 &&
           poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 10000) == 1) {
        const ssize_t n = read(fd, text + got, sizeof text - 1 - got);
        got += n > 0 ? (size_t)n : 0;
    }
}

/* Before log_start lines are written by who has them. */
TEST(log_fields_keep_their_type)
{
    char line[512] = "";
    int ends[2];
    const int usual = dup(STDERR_FILENO);
    REQUIRE(pipe(ends) == 0 && usual >= 0 && dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
    log_line(LOG_ERROR, "types", log_text("text", "a\"\xc3\xa9"), log_text("absent", NULL), log_int("int", INT64_MIN),
             log_real("real", 0.1), log_bool("yes", true), log_bool("no", false));
    CHECK(read(ends[0], line, sizeof line - 1) > 0);
    log_line(LOG_DEBUG, "not so much");
    log_line(LOG_ERROR, "wrong", log_text("text", "\xff"), log_int("int", 7));
    const size_t n = strlen(line);
    CHECK(read(ends[0], line + n, sizeof line - 1 - n) > 0);
    CHECK(dup2(usual, STDERR_FILENO) == STDERR_FILENO);
    close(usual);
    close(ends[0]);
    close(ends[1]);
    CHECK_MSG(strstr(line, "\"message\":\"types\",\"text\":\"a\\\"\\u00E9\",\"int\":-9223372036854775808,"
                           "\"real\":0.1,\"yes\":true,\"no\":false}\n"),
              "%s", line);
    CHECK_MSG(strstr(line, "\"message\":\"wrong\",\"int\":7,\"fields\":\"lost\"}\n"), "%s", line);
    CHECK(!strstr(line, "not so much"));
}

static void full_pipe(void)
{
    char pad[PADDING + 1];
    struct deq_err err;
    int ends[2];
    const int usual = dup(STDERR_FILENO);
    const uint64_t before = log_dropped();
    CHECK(pipe(ends) == 0 && usual >= 0);
    CHECK(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
    close(ends[1]);
    CHECK(log_start(&err) == DEQ_OK);
    memset(pad, 'x', PADDING);
    pad[PADDING] = 0;
    for (int i = 0; i < LINES; i++)
        log_line(LOG_ERROR, "full", log_int("i", i), log_text("pad", pad));
    const uint64_t lost = log_dropped() - before;
    CHECK_MSG(lost > 0 && lost < LINES, "lost: %llu", (unsigned long long)lost);
    /* read: whole lines in order, and how many there were not: at once, or bit by bit where the writer came late */
    read_until(ends[0], "\"message\":\"full\"", LINES - lost);
    read_until(ends[0], "log lines dropped", 1);
    log_line(LOG_ERROR, "after");
    read_until(ends[0], "\"after\"", 1);
    log_stop();
    log_line(LOG_ERROR, "late");
    CHECK(log_dropped() - before == lost + 1);
    CHECK(dup2(usual, STDERR_FILENO) == STDERR_FILENO);
    close(usual);
    CHECK(read(ends[0], pad, 1) == 0); /* nothing behind it */
    close(ends[0]);
    CHECK(count(text, "\"message\":\"full\"") + lost == LINES);
    uint64_t told = 0;
    size_t times = 0;
    static const char words[] = "\"message\":\"log lines dropped\",\"lines\":";
    for (const char *at = text; (at = strstr(at, words)); times++) {
        at += sizeof words - 1;
        told += strtoull(at, NULL, 10);
    }
    CHECK_MSG(told == lost, "told: %llu, lost: %llu", (unsigned long long)told, (unsigned long long)lost);
    CHECK(count(text, "\n") == LINES - lost + times + 1 && count(text, "\"after\"") == 1 &&
          count(text, "\"late\"") == 0);
}

/* A log that was stopped stays so: that happens to a child, and not to the tests behind. */
TEST(log_full_pipe)
{
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (!child) {
        full_pipe();
        fflush(stdout);
        _exit(test_failures != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
}
