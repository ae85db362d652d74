/* Figures of the engine on a model: evaluations a token, tokens a second, and how near one evaluation comes to the
 * machine's floor. make bench [MODEL=dir]. All figures of a table come from one run; compare ratios, not runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/mem.h"
#include "core/deq.h"
#include "core/math/gemm.h"
#include "core/math/kern.h"

static const char *const prompts[] = {
    "Once upon a time", "Tom and Jane were playing in the park. They", "The little dog was very",
    "One day, a girl named Lucy found a", "Mum said, \"You must", "There was a big tree in the",
};
enum { PROMPTS = 6 };

static struct deq_model *model;
static unsigned threads;
static size_t ended;
static uint64_t generated;
static double evaluations;

static enum deq_verdict on_event(void *ctx, const struct deq_event *e)
{
    (void)ctx;
    ended += e->kind == DEQ_EVENT_END;
    generated += e->kind == DEQ_EVENT_TOKEN;
    evaluations += e->kind == DEQ_EVENT_TOKEN ? e->evaluations : 0;
    return DEQ_CONTINUE;
}

struct figures {
    double seconds, tokens, steps, rows, head_rows, positions, evaluations;
};

/* `streams` sequences at once until `total` are done. prompt_tokens > 0: prompts only, of that length. */
static struct figures run(struct deq_request q, size_t streams, size_t total, size_t prompt_tokens)
{
    struct deq_err err;
    struct deq_engine *e;
    struct deq_tokens p[PROMPTS] = {0}, longer = {0};
    const struct deq_engine_opts o = {.threads = threads,
                                      .max_sequences = (uint32_t)streams,
                                      .max_rows = (uint32_t)DEQ_MAX(streams * q.solve.window, (size_t)64),
                                      .max_positions = 4096};
    if (deq_engine_new(model, &o, &e, &err)) {
        fprintf(stderr, "bench: %s\n", err.text);
        exit(1);
    }
    for (size_t i = 0; i < PROMPTS; i++)
        (void)deq_encode(model, prompts[i], strlen(prompts[i]), false, &p[i], NULL);
    while (longer.n < prompt_tokens)
        (void)deq_encode(model, prompts[longer.n % PROMPTS], strlen(prompts[longer.n % PROMPTS]), false, &longer, NULL);
    q.event = on_event;
    ended = 0;
    generated = 0;
    evaluations = 0;
    const double t = deq_now_s();
    for (size_t sent = 0; ended < total;) {
        while (sent < total && deq_active(e) < streams) {
            q.prompt = prompt_tokens ? longer.ids : p[sent % PROMPTS].ids;
            q.n_prompt = prompt_tokens ? prompt_tokens : p[sent % PROMPTS].n;
            q.sampling.seed = sent;
            if (deq_submit(e, &q, NULL, &err)) {
                fprintf(stderr, "bench: %s\n", err.text);
                exit(1);
            }
            sent++;
        }
        deq_step(e);
    }
    const struct deq_engine_stats s = deq_engine_stats(e);
    const struct figures f = {deq_now_s() - t, (double)generated, (double)s.steps, (double)s.rows,
                              (double)s.head_rows, (double)s.positions, evaluations};
    deq_engine_free(e);
    for (size_t i = 0; i < PROMPTS; i++)
        deq_tokens_free(&p[i]);
    deq_tokens_free(&longer);
    return f;
}

static void evaluations_table(void)
{
    static const float tols[] = {1e-1f, 3e-2f, 1e-2f, 1e-3f};
    static const uint32_t windows[] = {1, 2, 4, 8, 16};
    printf("evaluations a token, one stream, greedy, %d prompts of 100 tokens: steps / row evaluations / head rows, "
           "and tokens/s\n",
           PROMPTS);
    for (int warm = DEQ_WARM_ZERO; warm <= DEQ_WARM_PREDICTOR; warm++)
        for (size_t t = 0; t < DEQ_COUNT(tols); t++) {
            printf("  start %-9s tol %-5g", deq_warm_name((enum deq_warm)warm), (double)tols[t]);
            for (size_t w = 0; w < DEQ_COUNT(windows); w++) {
                struct deq_request q = deq_request_defaults(model);
                q.max_tokens = 100;
                q.ignore_eos = true;
                q.solve.tol = tols[t];
                q.solve.window = windows[w];
                q.solve.warm_start = (enum deq_warm)warm;
                q.solve.max_iter = 64;
                const struct figures f = run(q, 1, PROMPTS, 0);
                printf("  | w %-2u %5.2f /%5.2f /%5.2f %5.0f", windows[w], f.steps / f.positions, f.rows / f.positions,
                       f.head_rows / f.positions, f.tokens / f.seconds);
                fflush(stdout);
            }
            printf("\n");
        }
}

static void throughput_table(void)
{
    static const size_t streams[] = {1, 2, 4, 8, 16, 32};
    printf("generation, model's defaults, temperature 0.8, 128 tokens a request: tokens/s (evaluations a token)\n");
    for (uint32_t w = 1; w <= 16; w *= 2) {
        printf("  window %-2u", w);
        for (size_t i = 0; i < DEQ_COUNT(streams); i++) {
            struct deq_request q = deq_request_defaults(model);
            q.max_tokens = 128;
            q.ignore_eos = true;
            q.sampling.temperature = 0.8f;
            q.solve.window = w;
            const struct figures f = run(q, streams[i], DEQ_MAX(streams[i] * 2, (size_t)4), 0);
            printf("  %2zu streams: %6.0f (%.2f)", streams[i], f.tokens / f.seconds, f.rows / f.positions);
            fflush(stdout);
        }
        printf("\n");
    }
    printf("prefill of 1,024 tokens, one stream: tokens/s (steps a token, evaluations a token)\n ");
    for (uint32_t w = 1; w <= 64; w *= 2) {
        struct deq_request q = deq_request_defaults(model);
        q.max_tokens = 0;
        q.solve.window = w;
        const struct figures f = run(q, 1, w < 4 ? 1 : 3, 1024);
        printf(" window %u: %.0f (%.2f, %.2f) ", w, f.positions / f.seconds, f.steps / f.positions,
               f.rows / f.positions);
        fflush(stdout);
    }
    printf("\n");
}

/* --- Floors --- */

struct limit {
    const struct deq_packed *w;
    const float *x;
    float *y;
    size_t m;
    int rounds;
    float sink;
};

static void multiply(void *ctx, unsigned thread, unsigned n)
{
    struct limit *l = ctx;
    (void)n;
    for (int i = 0; i < l->rounds; i++)
        deq_multiply(&(struct deq_operand){l->x + thread * 4096 * 16, l->w->k * sizeof(float)}, l->m, l->w,
                     l->y + thread * 4096 * 16, 64, 0, 1, NULL, NULL);
}

static void read_all(void *ctx, unsigned thread, unsigned n)
{
    struct limit *l = ctx;
    const size_t count = deq_packed_bytes(l->w) / 4, from = count * thread / n, to = count * (thread + 1) / n;
    float s = 0;
    for (int i = 0; i < l->rounds; i++)
        s += deq_kern()->max((const float *)l->w->data + from, to - from);
    l->sink += s > 0;
}

static void floors(void)
{
    const struct deq_model_info info = deq_model_info(model);
    const double P = (double)info.step_madds, bytes = P * (strcmp(info.dtype, "bf16") ? 4 : 2);
    struct deq_pool *pool;
    struct deq_packed small, large;
    float *w = DEQ_NEW_ARRAY(float, (size_t)P + 64 * 64), *x = DEQ_NEW_ARRAY(float, 2 * threads * 4096 * 16);
    if (deq_pool_new(threads, &pool, NULL) || deq_pack(w, 64, 64, DEQ_FORMAT_F32, &small, NULL) ||
        deq_pack(w, 64, (size_t)(bytes / 4 / 64), DEQ_FORMAT_F32, &large, NULL))
        exit(1);
    /* the kernel's own peak: one panel that stays in the first cache */
    struct limit l = {.w = &small, .x = x, .y = x + threads * 4096 * 16, .m = 48, .rounds = 40000};
    double t = deq_now_s();
    deq_pool_run(pool, multiply, &l);
    const double flops = 2.0 * 64 * 64 * 48 * l.rounds * threads / (deq_now_s() - t);
    /* reading as many bytes as the cell's weights have, again and again: from whatever cache they fit in */
    l = (struct limit){.w = &large, .rounds = 300};
    deq_pool_run(pool, read_all, &l);
    t = deq_now_s();
    deq_pool_run(pool, read_all, &l);
    const double bandwidth = bytes * l.rounds / (deq_now_s() - t);
    printf("machine, %u threads, kernels %s: %.0f GFLOP/s (matrix kernel in the first cache), "
           "%.0f GB/s (reading %.1f MB)\n",
           threads, info.kernels, flops * 1e-9, bandwidth * 1e-9, bytes * 1e-6);
    printf("one evaluation of f (%.2f M weights, %.2f MB) on n rows against max(2 P n / flops, bytes / bandwidth); "
           "the rest is attention, norms, solver, head:\n ",
           P * 1e-6, bytes * 1e-6);
    static const uint32_t rows[] = {1, 2, 4, 8, 16, 32, 64, 256};
    for (size_t i = 0; i < DEQ_COUNT(rows); i++) {
        struct deq_request q = deq_request_defaults(model);
        q.max_tokens = 0;
        q.solve.tol = 1e-6f; /* rows stay: steps are full */
        q.solve.max_iter = 40;
        q.solve.window = DEQ_MIN(rows[i], 64u);
        const size_t streams = rows[i] / q.solve.window;
        const struct figures f = run(q, streams, streams, rows[i] < 8 ? 16 : 128);
        const double n = f.rows / f.steps, measured = f.seconds / f.steps;
        const double a = 2 * P * n / flops, b = bytes / bandwidth, floor = a > b ? a : b;
        printf(" n %.1f: %.0f us, %.1fx of %.0f us (%s) ", n, measured * 1e6, measured / floor, floor * 1e6,
               a > b ? "flops" : "bytes");
        fflush(stdout);
    }
    printf("\n");
    deq_pool_free(pool);
    deq_packed_free(&small);
    deq_packed_free(&large);
    deq_free(w);
    deq_free(x);
}

int main(int argc, char **argv)
{
    struct deq_err err;
    threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    if (argc > 2)
        threads = (unsigned)strtoul(argv[2], NULL, 10);
    if (deq_model_load(argc > 1 ? argv[1] : "models/stories", &model, &err)) {
        fprintf(stderr, "bench: %s\n", err.text);
        return 1;
    }
    const struct deq_model_info i = deq_model_info(model);
    printf("model %s: %llu parameters, %s, tol %g, window %u, start %s\n", argc > 1 ? argv[1] : "models/stories",
           (unsigned long long)i.parameters, i.dtype, (double)i.tol, i.window, deq_warm_name(i.warm_start));
    floors();
    evaluations_table();
    throughput_table();
    deq_model_free(model);
    return 0;
}
