/* Gives the tests to cmocka: all of them, or those that an argument names by a piece of FILE:NAME, such as
 * test_sched.c:fair, with * and ? as in a shell. CMOCKA_MESSAGE_OUTPUT=TAP or XML reports to other programs.
 * DEQ_TIMES=1 prints how long each test took, of how much CPU time, how much it checked, and at the end what is left
 * of memory. */
#include "tests/unit/test.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/bug.h"
#include "core/base/flags.h"
#include "core/base/mem.h"

unsigned long test_checks, test_failures;
static unsigned long all_failures; /* of a thread that outlives its test too */
static struct CMUnitTest *tests;
static size_t n_tests, n_run;

/* The first failure of the test under way: what cmocka is told at its end. */
static struct {
    char text[1000]; /* cmocka takes 1023 characters */
    const char *file;
    int line;
} first;

/* Any thread's; format may be NULL. */
__attribute__((format(printf, 4, 0))) static void
fails(const char *file, int line, const char *what, const char *format, va_list values)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    char text[sizeof first.text];
    const int n = snprintf(text, sizeof text, "%s%s", what, format ? ": " : "");
    if (format && (size_t)n < sizeof text)
        vsnprintf(text + n, sizeof text - (size_t)n, format, values);
    test_holds();
    pthread_mutex_lock(&lock);
    all_failures++;
    printf("%s:%d: failed: %s\n", file, line, text);
    if (!test_failures++) {
        memcpy(first.text, text, sizeof text);
        first.file = file;
        first.line = line;
    }
    pthread_mutex_unlock(&lock);
}

void test_fails_with(const char *file, int line, const char *what, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fails(file, line, what, format, values);
    va_end(values);
}

void test_fails(const char *file, int line, const char *what)
{
    test_fails_with(file, line, what, NULL);
}

void test_equal_text(const char *file, int line, const char *what, const char *got, const char *want)
{
    if (got && want ? !strcmp(got, want) : got == want)
        test_holds();
    else
        test_fails_with(file, line, what, "\"%s\", not \"%s\"", got ? got : "(null)", want ? want : "(null)");
}

void test_equal_real(const char *file, int line, const char *what, double got, double want)
{
    if (got == want)
        test_holds();
    else
        test_fails_with(file, line, what, "%.17g, not %.17g", got, want);
}

void test_equal_unsigned(const char *file, int line, const char *what, uintmax_t got, uintmax_t want)
{
    if (got == want)
        test_holds();
    else
        test_fails_with(file, line, what, "%ju, not %ju", got, want);
}

void test_equal_integer(const char *file, int line, const char *what, intmax_t got, intmax_t want)
{
    if (got == want)
        test_holds();
    else
        test_fails_with(file, line, what, "%jd, not %jd", got, want);
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

/* How signals are met without cmocka, which would jump out of the thread that one reached and go on, and take it from a
 * sanitizer that has more to say: a program that crashes ends. */
static const int signals[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS};
static struct sigaction usual[DEQ_COUNT(signals)];

/* Ends the test under way. */
static void tell_failure(void)
{
    fflush(stdout);
    _assert_true(false, first.text, first.file, first.line);
}

void test_skip(const char *format, ...)
{
    va_list reason;
    if (test_failures)
        tell_failure();
    printf("skipped: ");
    va_start(reason, format);
    vprintf(format, reason);
    va_end(reason);
    printf("\n");
    fflush(stdout);
    skip();
    abort();
}

static void run(void **state)
{
    const struct test_case *t = *state;
    for (size_t i = 0; i < DEQ_COUNT(signals); i++)
        sigaction(signals[i], &usual[i], NULL);
    const double begin = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    const unsigned long before = test_checks;
    test_failures = 0;
    n_run++;
    t->fn();
    if (getenv("DEQ_TIMES"))
        printf("%7.2f s %7.2f s CPU %8lu checks  %s\n", seconds(CLOCK_MONOTONIC) - begin,
               seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, test_checks - before, t->name);
    if (test_checks == before)
        test_fails(t->name, 0, "a test checks something");
    if (test_failures)
        tell_failure();
    fflush(stdout);
}

void test_register(struct test_case *t)
{
    tests = realloc(tests, (n_tests + 1) * sizeof *tests);
    if (!tests)
        abort();
    tests[n_tests++] = (struct CMUnitTest){.name = t->name, .test_func = run, .initial_state = t};
}

/* An invariant does not hold: what comes behind it says nothing. */
static void end_on_bug(const struct deq_bug *bug)
{
    printf("%s:%d: bug: %s\n", bug->file, bug->line, bug->condition);
    fflush(stdout);
    abort();
}

/* A test that calls exit(0) is no success. Its children may end so. */
static pid_t unfinished;
static void ended_early(void)
{
    if (getpid() != unfinished)
        return;
    printf("a test ended the program\n");
    fflush(stdout);
    _exit(1);
}

enum { PARTS_MAX = 256 };
static const struct deq_command command = {
    "unit [PART]...", "Runs the tests whose FILE:NAME has a PART in it, or all.", {NULL, 0}, 0, PARTS_MAX,
};

int main(int argc, char **argv)
{
    static const char *part[PARTS_MAX] = {""};
    struct deq_err err;
    size_t parts;
    bool help;
    int failed = 0;
    if (deq_flags_parse(&command, argc, argv, NULL, part, &parts, &help, &err))
        return fprintf(stderr, "unit: %s\n", err.text), 2;
    if (help)
        return deq_flags_help(&command, stdout), 0;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what a test said before it crashed, in pipes and files too */
    unfinished = getpid();
    if (atexit(ended_early))
        return 2;
    deq_bug_tell(end_on_bug);
    for (size_t i = 0; i < DEQ_COUNT(signals); i++)
        sigaction(signals[i], NULL, &usual[i]);
    for (size_t i = 0; i < DEQ_MAX(parts, 1u); i++) {
        const size_t before = n_run;
        char pattern[256];
        snprintf(pattern, sizeof pattern, "*%s*", part[i]);
        cmocka_set_test_filter(pattern);
        failed += _cmocka_run_group_tests("unit", tests, n_tests, NULL, NULL);
        if (n_run == before) {
            printf("no test is named %s\n", pattern);
            failed++;
        }
    }
    unfinished = 0;
    if (all_failures && !failed)
        printf("a check failed behind the end of its test\n");
    printf("%lu checks\n", test_checks);
    if (getenv("DEQ_TIMES"))
        printf("%llu bytes of memory left\n", (unsigned long long)deq_mem_live());
    free(tests);
    return failed || all_failures;
}
