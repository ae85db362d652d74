#include "tests/fault/walk.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/mem.h"

static struct {
    const char *what;
    enum deq_fault kind;
    uint64_t nth;
    bool for_ever, armed;
} now;

void walk_arm(void)
{
    now.armed = true;
    deq_mem_count_plain(true);
    deq_fault_set(now.kind, now.nth, now.for_ever);
}

void walk_disarm(void)
{
    deq_fault_set(now.kind, 0, false);
    deq_mem_count_plain(false);
}

bool walk_once(void)
{
    return !now.for_ever;
}

bool walk_expects(enum deq_rc rc)
{
    switch (now.kind) {
    case DEQ_FAULT_ALLOC: return rc == DEQ_ENOMEM;
    case DEQ_FAULT_IO:
    case DEQ_FAULT_THREAD: return rc == DEQ_EIO;
    default: return false;
    }
}

static unsigned descriptors(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

/* Threads that were at work let go a little later than their last word. */
static bool all_back(uint64_t blocks, unsigned fds)
{
    const struct timespec nap = {.tv_nsec = 50000};
    bool back = false;
    for (int tries = 0; tries < 20000 && !(back = deq_mem_blocks() == blocks && descriptors() == fds); tries++)
        nanosleep(&nap, NULL);
    return back;
}

/* A run that crashes says which it was. */
static void on_crash(int sig)
{
    char text[200];
    const int n = snprintf(text, sizeof text, "%s: crashed (%s:%llu%s)\n", now.what, deq_fault_name(now.kind),
                           (unsigned long long)now.nth, now.for_ever ? "+" : "");
    (void)!write(STDOUT_FILENO, text, (size_t)n);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void one(bool (*run)(void *ctx), void *ctx)
{
    const uint64_t blocks = deq_mem_blocks();
    const unsigned fds = descriptors();
    now.armed = false;
    const bool ok = run(ctx);
    CHECK(now.armed && !deq_fault_asked);
    const bool met = deq_fault_hits(now.kind), seamless = now.kind == DEQ_FAULT_SHORT || now.kind == DEQ_FAULT_EINTR;
    const bool back = all_back(blocks, fds);
    CHECK_MSG(ok || (met && !seamless), "%s, %s:%llu%s: failed", now.what, deq_fault_name(now.kind),
              (unsigned long long)now.nth, now.for_ever ? "+" : "");
    CHECK_MSG(back, "%s, %s:%llu%s: %lld blocks and %d descriptors more than before", now.what,
              deq_fault_name(now.kind), (unsigned long long)now.nth, now.for_ever ? "+" : "",
              (long long)(deq_mem_blocks() - blocks), (int)(descriptors() - fds));
}

void walk(const char *what, unsigned kinds, bool (*run)(void *ctx), void *ctx)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT};
    const char *const wanted = getenv("DEQ_FAULTS");
    const bool all = wanted && !strcmp(wanted, "all");
    struct sigaction before[DEQ_COUNT(crashes)];
    for (size_t i = 0; i < DEQ_COUNT(crashes); i++) {
        sigaction(crashes[i], NULL, &before[i]);
        if (before[i].sa_handler == SIG_DFL) /* a sanitizer says more */
            signal(crashes[i], on_crash);
    }
    now.what = what;
    for (int k = 0; k < DEQ_FAULT_COUNT; k++) {
        uint64_t places = 0, tried = 0;
        now.kind = (enum deq_fault)k;
        for (int for_ever = 0; for_ever < 2 && kinds & 1u << k; for_ever++) {
            now.for_ever = for_ever;
            bool met = true;
            for (now.nth = 1; met; now.nth += all ? 1 : 1 + 3 * now.nth) {
                one(run, ctx);
                places = DEQ_MAX(places, deq_fault_places(now.kind));
                met = deq_fault_hits(now.kind);
                tried += met;
            }
        }
        if (all && tried)
            printf("%-24s %-7s %8llu places, %8llu runs\n", what, deq_fault_name(now.kind),
                   (unsigned long long)places, (unsigned long long)tried);
        fflush(stdout);
    }
    for (size_t i = 0; i < DEQ_COUNT(crashes); i++)
        sigaction(crashes[i], &before[i], NULL);
}
