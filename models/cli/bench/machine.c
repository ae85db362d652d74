#include "models/cli/bench/machine.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "models/cli/bench/stats.h"
#include "models/cli/cli.h"

static const char *const places[BENCH_PLACES] = {"L1", "L2", "L3", "DRAM"};
static const char *const keys[BENCH_PLACES] = {"l1", "l2", "l3", "dram"};

/* --- Samples --- */

void bench_series_add(struct bench_series *s, double x)
{
    if (s->n < BENCH_ROUNDS_MAX)
        s->x[s->n++] = x;
}

double bench_series_median(struct bench_series *s)
{
    bench_sort(s->x, s->n);
    return bench_percentile(s->x, s->n, 50);
}

static double processor_s(void)
{
    return (double)deq_thread_cpu_ns() * 1e-9;
}

double bench_now(const struct bench_machine *m)
{
    return m->threads == 1 ? processor_s() : deq_now_s();
}

void bench_calibrate(struct bench_machine *m, deq_pool_fn fn, void *ctx, uint64_t *times)
{
    for (*times = 1; bench_time(m, false, fn, ctx) < m->sample_s && *times < (uint64_t)1 << 40;)
        *times *= 2;
    bench_time(m, true, fn, ctx);
}

double bench_time(struct bench_machine *m, bool all, deq_pool_fn fn, void *ctx)
{
    if (!all) {
        const double t = processor_s();
        fn(ctx, 0, 1);
        return processor_s() - t;
    }
    const double t = bench_now(m);
    deq_pool_run(m->pool, fn, ctx);
    return bench_now(m) - t;
}

/* --- Probes --- */

struct probing {
    const struct deq_unit *unit; /* NULL: reading */
    void (*read)(const void *p, size_t bytes);
    const char *memory;
    size_t bytes;
    uint64_t times;
};

static void probe(void *ctx, unsigned thread, unsigned n)
{
    const struct probing *p = ctx;
    if (p->unit) {
        p->unit->run(p->times);
        return;
    }
    const size_t part = p->bytes / n / DEQ_PEAK_READ * DEQ_PEAK_READ;
    for (uint64_t i = 0; i < p->times; i++)
        p->read(p->memory + thread * part, part);
}


/* Of a run: multiply-adds, or bytes. */
static double done(const struct bench_machine *m, bool all, const struct probing *p)
{
    const unsigned n = all ? m->threads : 1;
    const size_t whole = p->bytes / n / DEQ_PEAK_READ * DEQ_PEAK_READ * n; /* what whole reads of each thread cover */
    return (double)p->times * (p->unit ? (double)p->unit->madds * n : (double)whole);
}

double bench_read_rate(struct bench_machine *m, size_t bytes)
{
    struct probing p = {.read = m->peak->read, .memory = m->memory,
                        .bytes = DEQ_MIN(DEQ_MAX(bytes, (size_t)DEQ_PEAK_READ * m->threads), m->memory_bytes)};
    struct bench_series s = {0};
    bench_calibrate(m, probe, &p, &p.times);
    for (unsigned r = 0; r < m->rounds; r++)
        bench_series_add(&s, done(m, true, &p) / bench_time(m, true, probe, &p));
    return bench_series_median(&s);
}

enum { CASES = 2 * (2 + BENCH_PLACES), BRIEF = 8 }; /* on one thread and on all; a short sample is an eighth of one */

void bench_machine_measure(struct bench_machine *m)
{
    struct probing p[CASES];
    struct bench_series s[CASES] = {{.n = 0}}, brief = {.n = 0};
    for (int i = 0; i < CASES; i++) {
        const bool all = i % 2;
        const size_t share = i < 4 ? 0 : m->read[i / 2 - 2].bytes / (i / 2 - 2 <= BENCH_L2 && !all ? m->threads : 1);
        p[i] = (struct probing){.unit = i < 2 ? &m->peak->floats : i < 4 ? &m->peak->integers : NULL,
                                .read = m->peak->read, .memory = m->memory, .bytes = share};
        if (p[i].unit || share)
            bench_calibrate(m, probe, &p[i], &p[i].times);
    }
    struct probing moment = p[1];
    moment.times = DEQ_MAX(moment.times / BRIEF, (uint64_t)1);
    for (unsigned r = 0; r < m->rounds; r++) {
        cli_progress("machine: round %u of %u", r + 1, m->rounds);
        for (int i = 0; i < CASES; i++)
            if (p[i].unit || p[i].bytes)
                bench_series_add(&s[i], done(m, i % 2, &p[i]) / bench_time(m, i % 2, probe, &p[i]));
        for (unsigned i = 0; i < BENCH_ROUNDS_MAX / m->rounds; i++)
            bench_series_add(&brief, done(m, true, &moment) / bench_time(m, true, probe, &moment));
    }
    double rate[CASES];
    for (int i = 0; i < CASES; i++)
        rate[i] = bench_series_median(&s[i]);
    m->floats = (struct bench_rate){rate[0], rate[1]};
    m->integers = (struct bench_rate){rate[2], rate[3]};
    for (int i = 0; i < BENCH_PLACES; i++)
        m->read[i].rate = (struct bench_rate){rate[4 + 2 * i], rate[5 + 2 * i]};
    m->scale = rate[1] / rate[0] / m->threads;
    const double middle = bench_series_median(&brief);
    m->steadiness = bench_percentile(brief.x, brief.n, 10) / middle;
}

bool bench_machine_quiet(const struct bench_machine *m)
{
    return m->scale > 0.95 && m->steadiness > 0.9;
}

/* --- Opening --- */

static size_t cache_bytes(int name, size_t otherwise)
{
    const long n = sysconf(name);
    return n > 0 ? (size_t)n : otherwise;
}

/* Half of what a core's caches hold, for each thread; of the last one, which is everybody's, four times what the cores'
 * own hold but no more than half; and what no cache holds. */
static void choose_places(struct bench_machine *m, bool quick)
{
    const size_t l1 = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, 32 << 10), l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE, 512 << 10),
                 l3 = cache_bytes(_SC_LEVEL3_CACHE_SIZE, 0), most = (size_t)(quick ? 64 : 512) << 20;
    m->read[BENCH_L1].bytes = l1 / 2 * m->threads;
    m->read[BENCH_L2].bytes = l2 / 2 * m->threads;
    m->read[BENCH_L3].bytes = DEQ_MIN(4 * l2 * m->threads, l3 / 2);
    m->read[BENCH_DRAM].bytes = DEQ_MIN(DEQ_MAX(4 * l3, most / 2), most);
    m->memory_bytes = m->read[BENCH_DRAM].bytes;
}

static void touch(void *ctx, unsigned thread, unsigned n)
{
    const struct bench_machine *m = ctx;
    const size_t part = m->memory_bytes / n;
    memset(m->memory + thread * part, 1, part); /* pages that nobody wrote are one page of zeros */
}

enum deq_rc bench_machine_open(struct bench_machine *m, unsigned threads, bool quick, struct deq_err *err)
{
    *m = (struct bench_machine){.threads = threads, .rounds = quick ? 2 : 9, .sample_s = quick ? 2e-4 : 4e-3,
                                .peak = deq_peak()};
    choose_places(m, quick);
    m->memory = deq_alloc(m->memory_bytes);
    const enum deq_rc rc = m->memory ? deq_pool_new(threads, &m->pool, err)
                                     : deq_fail(err, DEQ_ENOMEM, "no memory of %zu bytes to read", m->memory_bytes);
    if (rc)
        bench_machine_close(m);
    else
        deq_pool_run(m->pool, touch, m);
    return rc;
}

void bench_machine_close(struct bench_machine *m)
{
    deq_pool_free(m->pool);
    deq_free(m->memory);
    *m = (struct bench_machine){0};
}

/* --- Report --- */

void bench_machine_print(const struct bench_machine *m)
{
    printf("machine, kernels %s, 1 thread / %u: %s %.0f / %.0f, %s %.0f / %.0f Gop/s; reading", m->peak->level,
           m->threads, m->peak->floats.instruction, 2e-9 * m->floats.one, 2e-9 * m->floats.all,
           m->peak->integers.instruction, 2e-9 * m->integers.one, 2e-9 * m->integers.all);
    for (int i = 0; i < BENCH_PLACES; i++)
        if (m->read[i].bytes)
            printf(" %s (%.3g MB) %.0f / %.0f%s", places[i], (double)m->read[i].bytes * 1e-6,
                   1e-9 * m->read[i].rate.one, 1e-9 * m->read[i].rate.all, i + 1 < BENCH_PLACES ? "," : " GB/s\n");
    printf("%s: %u threads did %.2f times as much as one, the slowest tenth of samples %.2f of the middle one\n",
           bench_machine_quiet(m) ? "quiet" : "NOT QUIET, figures are of little worth", m->threads,
           m->scale * m->threads, m->steadiness);
}

json_t *bench_machine_json(const struct bench_machine *m)
{
    json_t *read = json_object();
    for (int i = 0; read && i < BENCH_PLACES; i++)
        if (m->read[i].bytes)
            json_object_set_new(read, keys[i], json_pack("{s:I, s:f, s:f}", "bytes", (json_int_t)m->read[i].bytes,
                                                         "gb_per_s_one", 1e-9 * m->read[i].rate.one, "gb_per_s_all",
                                                         1e-9 * m->read[i].rate.all));
    return json_pack("{s:s, s:i, s:{s:s, s:f, s:f}, s:{s:s, s:f, s:f}, s:o, s:f, s:f, s:b}", "kernels", m->peak->level,
                     "threads", (int)m->threads, "floats", "instruction", m->peak->floats.instruction, "gop_per_s_one",
                     2e-9 * m->floats.one, "gop_per_s_all", 2e-9 * m->floats.all, "integers", "instruction",
                     m->peak->integers.instruction, "gop_per_s_one", 2e-9 * m->integers.one, "gop_per_s_all",
                     2e-9 * m->integers.all, "read", read, "scale", m->scale, "steadiness", m->steadiness, "quiet",
                     bench_machine_quiet(m));
}
