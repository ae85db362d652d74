/* The simulation's loop, its chance, its history, and the days of the daemon: it begins, answers each request of the
 * day alone, then all clients come, with reloads, faults and hours of rest, until a signal ends it; then it begins
 * again, with the states and the cache that it has kept. The same seed gives the same history, to the last byte. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/flags.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "server/conf.h"
#include "server/work/sched.h"
#include "tests/sim/sim.h"

enum { TRACE = 40, NOTE_BYTES = 160, ARGS = 96 };

struct sim sim;
static uint64_t drawn, last_event; /* the day's last */
static struct {
    uint64_t event, now_ns;
    char text[NOTE_BYTES];
} trace[TRACE];
static size_t notes;

/* --- Chance and history --- */

uint64_t sim_random(void)
{
    return deq_rng_u64(sim.seed, 1, drawn++);
}

uint64_t sim_below(uint64_t n)
{
    return n ? sim_random() % n : 0;
}

bool sim_one_in(uint64_t n)
{
    return n && sim_below(n) == 0;
}

uint64_t sim_between(uint64_t from, uint64_t to)
{
    return from + sim_below(to - from + 1);
}

void sim_mix(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        sim.digest = (sim.digest ^ p[i]) * 0x100000001b3u;
}

void sim_note(const char *format, ...)
{
    va_list ap;
    const size_t i = notes++ % TRACE;
    trace[i].event = sim.event;
    trace[i].now_ns = sim.now_ns;
    va_start(ap, format);
    vsnprintf(trace[i].text, NOTE_BYTES, format, ap);
    va_end(ap);
    sim_mix(trace[i].text, strlen(trace[i].text));
}

/* What the daemon keeps: files in sim.dir, and those of its cache one below. */
static void remove_files(const char *dir)
{
    char path[512];
    DIR *d = opendir(dir);
    for (const struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        (void)unlink(path);
    }
    if (d)
        closedir(d);
    (void)rmdir(dir);
}

static void remove_dir(void)
{
    remove_files(sim.cache_dir);
    remove_files(sim.dir);
}

void sim_fail(const char *format, ...)
{
    va_list ap;
    printf("\nsimulation: seed %llu, event %llu, %.6f s, thread \"%s\"\n", (unsigned long long)sim.seed,
           (unsigned long long)sim.event, (double)sim.now_ns * 1e-9, thread_name());
    for (size_t k = notes > TRACE ? notes - TRACE : 0; k < notes; k++)
        printf("  %10llu %12.6f  %s\n", (unsigned long long)trace[k % TRACE].event,
               (double)trace[k % TRACE].now_ns * 1e-9, trace[k % TRACE].text);
    printf("broken: ");
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    printf("\nagain:  make sim SEED=%llu EVENTS=%llu\n", (unsigned long long)sim.seed,
           (unsigned long long)DEQ_MIN(sim.event, last_event));
    remove_dir();
    exit(1);
}

void *sim_alloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        abort();
    return p;
}

void *sim_realloc(void *p, size_t bytes)
{
    void *q = realloc(p, bytes);
    if (!q)
        abort();
    return q;
}

/* What the daemon takes from the kernel's chance. */
ssize_t __wrap_getrandom(void *ret, size_t n, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)ret)[i] = (unsigned char)sim_random();
    return (ssize_t)n;
}

int __wrap_fsync(int fd)
{
    (void)fd;
    return 0;
}

/* What this process is like is no part of the history. */
int __wrap_getrusage(int who, struct rusage *ret)
{
    (void)who;
    *ret = (struct rusage){0};
    return 0;
}

FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode)
{
    return strncmp(path, "/proc/self/", 11) ? __real_fopen(path, mode) : NULL;
}

DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path)
{
    return strncmp(path, "/proc/self/", 11) ? __real_opendir(path) : NULL;
}

__attribute__((noreturn)) void __wrap__exit(int code)
{
    sim_fail("the daemon ends itself with %d: threads were still at work", code);
}

/* --- The daemon --- */

static char args[ARGS][600];
static int n_args;
static bool running;

__attribute__((format(printf, 1, 2))) static void set(const char *format, ...)
{
    va_list ap;
    snprintf(args[n_args++], sizeof args[0], "--set");
    va_start(ap, format);
    vsnprintf(args[n_args++], sizeof args[0], format, ap);
    va_end(ap);
}

static void write_keys(const char *path)
{
    FILE *f = fopen(path, "w");
    if (!f)
        abort();
    fputs("k0 d1a5ac9a015fac2ef7b341673635512a1511f41fe37d111b267f039eec5d4f58 admin priority\n"
          "k1 6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0 weight=3\n"
          "k2 015f7e6bc5aeaf483724089e9252cc13b50951a6b69412522765cff4d780306e\n"
          "k3 2f5052c9fd15b19a18c584d01363568198613f0c34e84409ef7938709a159ec2\n",
          f);
    fclose(f);
}

/* A configuration of the seed's, tight enough that its limits are met. */
static void configure(void)
{
    static const char *const models[] = {"tiny", "tiny", "tiny-trellis", "tiny-looped"};
    char keys[512];
    snprintf(args[n_args++], sizeof args[0], "deqd");
    set("model.path=tests/golden/%s", models[sim_below(4)]);
    set("server.sandbox=never");
    set("engine.threads=1");
    set("engine.pin=never");
    set("engine.max_sequences=%u", (unsigned)sim_between(2, 9));
    set("engine.max_rows=%u", (unsigned)sim_between(64, 96));
    set("engine.max_positions=512");
    if (sim_one_in(2))
        set("engine.cache_bytes=%uK", (unsigned)sim_between(400, 900));
    set("queue.max_requests=%u", (unsigned)sim_between(1, sim_one_in(3) ? 5 : 24));
    set("queue.timeout_ms=%u", (unsigned)sim_between(50, 4000));
    set("server.sandbox=never"); /* the harness is in here too */
    const uint64_t header_ms = sim_between(300, 2000), idle_ms = sim_between(1000, 3000);
    sim.head_ms = header_ms + idle_ms;
    set("server.header_timeout_ms=%u", (unsigned)header_ms);
    set("server.idle_timeout_ms=%u", (unsigned)idle_ms);
    set("server.body_timeout_ms=%u", (unsigned)sim_between(300, 2000));
    set("server.drain_delay_ms=%u", (unsigned)sim_below(500));
    set("server.shutdown_timeout_ms=%u", (unsigned)sim_below(3000));
    set("server.max_connections=%u", (unsigned)(sim_one_in(3) ? sim_between(8, 20) : 64));
    set("stream.buffer_bytes=%u", (unsigned)sim_between(4096, 16384));
    set("stream.flush_ms=%u", (unsigned)sim_below(20));
    set("stream.ping_ms=%u", (unsigned)sim_between(100, 2000));
    set("stream.stall_ms=%u", (unsigned)sim_between(300, 6000));
    set("stream.min_bytes_per_s=%u", (unsigned)sim_between(1, 4096));
    set("limits.answer_bytes=%uM", sim_one_in(3) ? 4 : 32);
    set("limits.max_logits_bytes=1M");
    set("limits.max_requests_per_key=%u", sim_one_in(3) ? (unsigned)sim_between(2, 8) : 0);
    set("depth.objective_ms=1");
    set("state.dir=%s", sim.dir);
    if (sim_one_in(2))
        set("engine.cache_dir=%s", sim.cache_dir);
    snprintf(keys, sizeof keys, "%s/keys", sim.dir);
    write_keys(keys);
    set("auth.keys_file=%s", keys);
    set("log.level=%s", sim_one_in(4) ? "debug" : "info");
}

int deqd_main(int argc, char **argv);

static void *daemon_main(void *arg)
{
    static char *argv[ARGS + 1];
    (void)arg;
    for (int i = 0; i < n_args; i++)
        argv[i] = args[i];
    const int code = deqd_main(n_args, argv);
    if (code)
        sim_fail("the daemon ended with %d", code);
    running = false;
    sim.serving = false;
    return NULL;
}

static void begin(void)
{
    sim_note("the daemon begins");
    check_begins();
    running = true;
    thread_start("main", daemon_main, NULL);
}

static void declare_memory(void)
{
    struct conf c;
    struct deq_memory m;
    struct deq_err err;
    enum conf_action action = CONF_RUN;
    char *argv[ARGS + 1];
    for (int i = 0; i < n_args; i++)
        argv[i] = args[i];
    const enum deq_rc rc = conf_read(n_args, argv, &c, &action, &err);
    const struct deq_engine_opts o = sched_engine_opts(&c);
    if (rc || deq_check(c.model_path, NULL, &o, &m, &err))
        sim_fail("configuration: %s", err.text);
    check_model(m.weight_bytes + m.engine_bytes + m.load_bytes);
}

/* --- The loop --- */

static void event(void)
{
    sim.event++;
    sim.now_ns += sim_below(3000);
    const bool clients_first = sim_one_in(3);
    const bool done = clients_first ? clients_go() || threads_go() : threads_go() || clients_go();
    if (!done) {
        const uint64_t next = DEQ_MIN(threads_next_ns(), clients_next_ns());
        if (next == UINT64_MAX)
            sim_fail("nothing can go on, and nothing is waited for");
        sim.now_ns = DEQ_MAX(sim.now_ns, next);
    }
    sim_mix(&sim.now_ns, sizeof sim.now_ns);
    check_event();
}

/* Until it is so, or for too long. */
static void until(bool (*so)(void), const char *what)
{
    const uint64_t began_ns = sim.now_ns;
    while (!so()) {
        event();
        if (sim.now_ns - began_ns > 600000000000u)
            sim_fail("ten minutes went by, and not: %s", what);
    }
}

static bool is_serving(void)
{
    return sim.serving;
}

static bool has_ended(void)
{
    return !running && !threads_alive();
}

static bool nobody_asks(void)
{
    return !clients_asking();
}

static bool nothing_is_held(void)
{
    return !check_jobs() && !check_answer_bytes();
}

/* --- What fails in the daemon: its allocations and jansson's, files, halves of reads and writes --- */

static struct {
    enum deq_fault kind;
    bool for_ever;
    uint64_t nth, met, until_ns; /* until_ns 0: nothing is to fail */
} fault;

/* The simulation's own allocations and files are not meant. */
static bool fails(void *ctx, enum deq_fault kind)
{
    (void)ctx;
    if (!thread_is_one() || kind != fault.kind || ++fault.met < fault.nth)
        return false;
    return fault.met == fault.nth || (fault.for_ever && (kind != DEQ_FAULT_EINTR || (fault.met - fault.nth) % 2 == 0));
}

static void disarm(void)
{
    if (sim.armed_from_ns)
        sim.armed_to_ns = sim.now_ns;
    sim.armed_from_ns = fault.until_ns = 0;
    deq_fault_ask(NULL, NULL);
    deq_mem_count_plain(false);
}

static void rest(void)
{
    sim_note("rest");
    disarm();
    clients_rest(true);
    until(nobody_asks, "every request has its end");
    until(nothing_is_held, "every job has its end, and every answer its memory back");
    for (int i = 0; i < 300; i++) /* the last threads let go */
        event();
    check_quiet();
    clients_rest(false);
}

static void stop_daemon(void)
{
    disarm();
    sim_note("the daemon is told to stop");
    clients_saw_drain();
    sim_signal(sim_one_in(3) ? SIGINT : SIGTERM);
    sim.serving = false;
    until(has_ended, "the daemon has ended");
    check_ended();
}

static void arm(void)
{
    static const enum deq_fault kinds[] = {DEQ_FAULT_ALLOC, DEQ_FAULT_ALLOC, DEQ_FAULT_IO, DEQ_FAULT_SHORT,
                                           DEQ_FAULT_EINTR};
    if (fault.until_ns && sim.now_ns > fault.until_ns)
        disarm();
    if (fault.until_ns || !sim_one_in(1500))
        return;
    fault.kind = kinds[sim_below(DEQ_COUNT(kinds))];
    fault.nth = sim_between(1, fault.kind == DEQ_FAULT_ALLOC ? 60 : 8);
    fault.for_ever = sim_one_in(4);
    fault.met = 0;
    fault.until_ns = sim.now_ns + sim_between(1000000, 60000000);
    if (fault.kind == DEQ_FAULT_ALLOC || fault.kind == DEQ_FAULT_IO) { /* the others change nothing that is seen */
        sim.armed_from_ns = sim.now_ns;
        sim.armed_to_ns = fault.until_ns;
    }
    sim_note("%s %llu from now fails", deq_fault_name(fault.kind), (unsigned long long)fault.nth);
    deq_mem_count_plain(true);
    deq_fault_ask(fails, NULL);
}

static void day(void)
{
    sim.chaos = true;
    while (sim.event < last_event) {
        event();
        arm();
        if (sim_one_in(40000)) {
            sim_note("SIGHUP");
            sim_signal(SIGHUP);
        }
        if (sim_one_in(50000))
            rest();
        if (sim_one_in(60000)) {
            stop_daemon();
            begin();
            until(is_serving, "the daemon serves again");
        }
    }
    rest();
    stop_daemon();
}

struct flags {
    uint64_t seed, events;
    const char *dir;
};
static const struct deq_opt options[] = {
    {"--seed", DEQ_OPT_U64, offsetof(struct flags, seed), 0, 1e15, "1", NULL, "of all that is left to chance"},
    {"--events", DEQ_OPT_U64, offsetof(struct flags, events), 0, 1e15, "200000", NULL, "after which the day ends"},
    {"--dir", DEQ_OPT_ARG, offsetof(struct flags, dir), 0, 0, "build/sim-state", "DIR",
     "for states and cache; it is emptied"},
};
static const struct deq_command command = {
    "sim [options]",
    "A day of the daemon in a simulated world. The same seed gives the same history.",
    {options, DEQ_COUNT(options)},
    0,
    0,
};

int main(int argc, char **argv)
{
    static char dir[256], cache_dir[264];
    uint64_t asked, whole, judged;
    struct flags f = {0};
    struct deq_err err;
    size_t n;
    bool help;
    if (deq_flags_parse(&command, argc, argv, &f, NULL, &n, &help, &err))
        return fprintf(stderr, "sim: %s\n", err.text), 2;
    if (help)
        return deq_flags_help(&command, stdout), 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sim.seed = f.seed;
    last_event = f.events;
    sim.now_ns = 1000000000;
    snprintf(dir, sizeof dir, "%s", f.dir);
    snprintf(cache_dir, sizeof cache_dir, "%s/cache", dir);
    sim.dir = dir;
    sim.cache_dir = cache_dir;
    remove_dir();
    if ((mkdir(dir, 0700) && errno != EEXIST) || mkdir(cache_dir, 0700))
        return perror(dir), 1;
    sim.switch_one_in = (unsigned)(sim_one_in(4) ? 0 : 1u << sim_between(2, 8));
    configure();
    asks_begin();
    declare_memory();
    begin();
    until(is_serving, "the daemon serves");
    client_begin();
    while (clients_rehearse())
        event();
    day();
    clients_count(&asked, &whole, &judged);
    printf("simulation: seed %llu, %llu events, %.0f s, %llu requests, %llu answers, %llu equal to the same alone, "
           "digest %016llx\n",
           (unsigned long long)sim.seed, (unsigned long long)sim.event, (double)sim.now_ns * 1e-9,
           (unsigned long long)asked, (unsigned long long)whole, (unsigned long long)judged,
           (unsigned long long)sim.digest);
    remove_dir();
    return 0;
}
