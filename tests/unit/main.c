/* Runs every registered test, or those that an argument names: a part of a test's name, or a file (test_sched.c). A
 * line a file, and one more at least every few seconds. DEQ_TIMES=1 prints how long each test took, of how much CPU
 * time, how much it checked, and at the end what is left of memory. */
#include "tests/unit/test.h"

#include <stdlib.h>
#include <time.h>

#include "core/base/bug.h"
#include "core/base/mem.h"

enum { TICK_S = 5 };

int test_passed, test_failed, test_skipped;
static struct test_case *first, **last = &first;

void test_register(struct test_case *t)
{
    *last = t;
    last = &t->next;
}

/* Counts; what failed begins a line that the caller ends with the values. */
static bool failed(bool ok, const char *file, int line, const char *what)
{
    *(ok ? &test_passed : &test_failed) += 1;
    if (!ok)
        printf("%s:%d: failed: %s: ", file, line, what);
    return !ok;
}

void test_equal_text(const char *file, int line, const char *what, const char *got, const char *want)
{
    if (failed(got && want ? !strcmp(got, want) : got == want, file, line, what))
        printf("\"%s\", not \"%s\"\n", got ? got : "(null)", want ? want : "(null)");
}

void test_equal_real(const char *file, int line, const char *what, double got, double want)
{
    if (failed(got == want, file, line, what))
        printf("%.17g, not %.17g\n", got, want);
}

void test_equal_unsigned(const char *file, int line, const char *what, uintmax_t got, uintmax_t want)
{
    if (failed(got == want, file, line, what))
        printf("%ju, not %ju\n", got, want);
}

void test_equal_integer(const char *file, int line, const char *what, intmax_t got, intmax_t want)
{
    if (failed(got == want, file, line, what))
        printf("%jd, not %jd\n", got, want);
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double test_growth(void (*work)(void *ctx, size_t n), void *ctx, size_t n)
{
    double least[2] = {INFINITY, INFINITY}, ratio = INFINITY;
    for (int tries = 0; tries < 6 && ratio > TEST_GROWTH_BOUND; tries++) {
        for (int big = 0; big < 2; big++) {
            const double begin = seconds(CLOCK_THREAD_CPUTIME_ID);
            work(ctx, big ? 8 * n : n);
            least[big] = fmin(least[big], seconds(CLOCK_THREAD_CPUTIME_ID) - begin);
        }
        ratio = least[1] / (least[0] + 1e-5);
    }
    return ratio;
}

/* What was run since the line before. */
static struct {
    const char *file;
    unsigned tests;
    double since;
} part;

static void close_part(const char *next_file)
{
    const double now = seconds(CLOCK_MONOTONIC);
    if (part.tests)
        printf("%-36s %3u tests %6.1f s\n", part.file, part.tests, now - part.since);
    fflush(stdout);
    part.file = next_file;
    part.tests = 0;
    part.since = now;
}

static bool named(const struct test_case *t, char *const *names)
{
    const char *file = strrchr(t->file, '/');
    bool found = !*names;
    for (; *names && !found; names++)
        found = strstr(t->name, *names) || (file && !strcmp(file + 1, *names));
    return found;
}

/* An invariant does not hold: what comes behind it says nothing. */
static void end_on_bug(const struct deq_bug *bug)
{
    printf("%s:%d: bug: %s\n", bug->file, bug->line, bug->condition);
    fflush(stdout);
    abort();
}

int main(int argc, char **argv)
{
    deq_bug_tell(end_on_bug);
    const bool times = getenv("DEQ_TIMES") != NULL;
    for (struct test_case *t = first; t; t = t->next) {
        if (!named(t, argv + 1))
            continue;
        const double begin = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        if (!part.file || strcmp(part.file, t->file) || begin - part.since > TICK_S)
            close_part(t->file);
        const int before = test_failed, checks = test_passed + test_failed;
        t->fn();
        part.tests++;
        if (times)
            printf("%7.2f s %7.2f s CPU %8d checks  %s\n", seconds(CLOCK_MONOTONIC) - begin,
                   seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, test_passed + test_failed - checks, t->name);
        if (test_failed != before || argc > 1)
            printf("%s: %s\n", t->name, test_failed != before ? "FAILED" : "ok");
        fflush(stdout);
    }
    close_part(NULL);
    if (times)
        printf("%llu bytes of memory left\n", (unsigned long long)deq_mem_live());
    printf("%d passed, %d failed, %d skipped\n", test_passed, test_failed, test_skipped);
    return test_failed != 0;
}
