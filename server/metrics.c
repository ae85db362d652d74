#include "server/metrics.h"

#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <stdio.h>

static const double seconds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2.5, 5, 10, 20, 40, 80};
static const double small_seconds[] = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5};
static const double row_counts[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
static const double iteration_counts[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64};
static const double residuals[] = {1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1};

#define HIST(b) {.bounds = b, .n = sizeof(b) / sizeof *(b)}

void metrics_init(struct metrics *m, const char *model_name, const char *fingerprint)
{
    static const struct histogram s = HIST(seconds), small = HIST(small_seconds), r = HIST(row_counts), it = HIST(iteration_counts),
                                  res = HIST(residuals);
    memset(m, 0, sizeof *m);
    m->queue_s = m->ttft_s = m->e2e_s = s;
    m->itl_s = m->step_s = small;
    m->rows = r;
    m->iterations = it;
    m->residual = res;
    m->model_name = model_name;
    m->fingerprint = fingerprint;
}

void metrics_observe(struct histogram *h, double value)
{
    unsigned i = 0;
    while (i < h->n && value > h->bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_micro, (uint64_t)(value * 1e6), memory_order_relaxed);
}

void metrics_engine(struct metrics *m, const struct deq_engine_stats *s)
{
    atomic_store_explicit(&m->steps, s->steps, memory_order_relaxed);
    atomic_store_explicit(&m->rows_total, s->rows, memory_order_relaxed);
    atomic_store_explicit(&m->head_rows, s->head_rows, memory_order_relaxed);
    atomic_store_explicit(&m->positions, s->positions, memory_order_relaxed);
    atomic_store_explicit(&m->nonconverged, s->nonconverged, memory_order_relaxed);
    atomic_store_explicit(&m->restarts, s->restarts, memory_order_relaxed);
    atomic_store_explicit(&m->numeric_errors, s->numeric_errors, memory_order_relaxed);
    atomic_store_explicit(&m->pages, s->pages, memory_order_relaxed);
    atomic_store_explicit(&m->pages_used, s->pages_used, memory_order_relaxed);
    atomic_store_explicit(&m->rows_open, s->rows_open, memory_order_relaxed);
    atomic_store_explicit(&m->engine_memory_bytes, s->memory_bytes, memory_order_relaxed);
}

static void head(struct deq_buf *b, const char *name, const char *type, const char *help)
{
    deq_buf_fmt(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(struct deq_buf *b, const char *name, const char *type, const char *help, double value)
{
    head(b, name, type, help);
    deq_buf_fmt(b, "%s %.17g\n", name, value);
}

static void hist(struct deq_buf *b, const char *name, const char *help, const struct histogram *h)
{
    uint64_t sum = 0;
    head(b, name, "histogram", help);
    for (unsigned i = 0; i <= h->n; i++) {
        sum += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        if (i < h->n)
            deq_buf_fmt(b, "%s_bucket{le=\"%g\"} %llu\n", name, h->bounds[i], (unsigned long long)sum);
        else
            deq_buf_fmt(b, "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)sum);
    }
    deq_buf_fmt(b, "%s_sum %.9g\n%s_count %llu\n", name, (double)atomic_load(&h->sum_micro) * 1e-6, name, (unsigned long long)sum);
}

static void process(struct deq_buf *b)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    one(b, "process_cpu_seconds_total", "counter", "User and system CPU time.",
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6);
    long pages = 0, unused = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%ld %ld", &unused, &pages) != 2)
            pages = 0;
        fclose(f);
    }
    one(b, "process_resident_memory_bytes", "gauge", "Resident memory.", (double)pages * (double)sysconf(_SC_PAGESIZE));
}

bool metrics_render(const struct metrics *m, struct deq_buf *b)
{
    static const char *const finishes[METRIC_FINISHES] = {"length", "stop", "stop", "cancelled", "numeric_error"};
    static const char *const reasons[REJECT_REASONS] = {"queue_full", "tokens_queue_full", "queue_timeout", "draining"};
    static const char *const phases[CANCEL_PHASES] = {"queued", "running"};
    head(b, "deqd_build_info", "gauge", "Version of the daemon.");
    deq_buf_fmt(b, "deqd_build_info{version=\"%s\"} 1\n", DEQ_VERSION);
    head(b, "deqd_model_info", "gauge", "The model that is served.");
    deq_buf_fmt(b, "deqd_model_info{model=\"%s\",fingerprint=\"%s\"} 1\n", m->model_name, m->fingerprint);
    one(b, "deqd_requests_running", "gauge", "Requests in the engine.", (double)atomic_load(&m->running));
    one(b, "deqd_requests_waiting", "gauge", "Requests in the queue.", (double)atomic_load(&m->waiting));
    one(b, "deqd_http_connections", "gauge", "Open client connections.", (double)atomic_load(&m->connections));
    head(b, "deqd_http_responses_total", "counter", "Responses by status.");
    for (int i = 100; i < METRIC_CODES; i++)
        if (atomic_load(&m->http_responses[i]))
            deq_buf_fmt(b, "deqd_http_responses_total{code=\"%d\"} %llu\n", i, (unsigned long long)atomic_load(&m->http_responses[i]));
    head(b, "deqd_requests_total", "counter", "Requests that left the engine, by the reason.");
    for (int i = 0; i < METRIC_FINISHES; i++)
        if (i != DEQ_FINISH_STOP) /* the two kinds of stop are one series */
            deq_buf_fmt(b, "deqd_requests_total{finish_reason=\"%s\"} %llu\n", finishes[i],
                        (unsigned long long)(atomic_load(&m->finished[i]) +
                                             (i == DEQ_FINISH_EOS ? atomic_load(&m->finished[DEQ_FINISH_STOP]) : 0)));
    head(b, "deqd_requests_rejected_total", "counter", "Requests refused without work.");
    for (int i = 0; i < REJECT_REASONS; i++)
        deq_buf_fmt(b, "deqd_requests_rejected_total{reason=\"%s\"} %llu\n", reasons[i], (unsigned long long)atomic_load(&m->rejected[i]));
    head(b, "deqd_requests_cancelled_total", "counter", "Requests whose client left.");
    for (int i = 0; i < CANCEL_PHASES; i++)
        deq_buf_fmt(b, "deqd_requests_cancelled_total{phase=\"%s\"} %llu\n", phases[i], (unsigned long long)atomic_load(&m->cancelled[i]));
    one(b, "deqd_prompt_tokens_total", "counter", "Prompt tokens of admitted requests.", (double)atomic_load(&m->prompt_tokens));
    one(b, "deqd_generation_tokens_total", "counter", "Generated tokens.", (double)atomic_load(&m->generation_tokens));
    hist(b, "deqd_queue_seconds", "Time in the queue.", &m->queue_s);
    hist(b, "deqd_time_to_first_token_seconds", "From arrival to the first token.", &m->ttft_s);
    hist(b, "deqd_inter_token_latency_seconds", "Between two tokens of a request.", &m->itl_s);
    hist(b, "deqd_e2e_seconds", "From arrival to the end.", &m->e2e_s);
    hist(b, "deqd_step_seconds", "One step of the engine.", &m->step_s);
    hist(b, "deqd_batch_rows", "Rows of one evaluation.", &m->rows);
    hist(b, "deqd_solver_iterations", "Evaluations of a generated position.", &m->iterations);
    hist(b, "deqd_solver_residual", "Relative residual of a generated position when it was committed.", &m->residual);
    one(b, "deqd_steps_total", "counter", "Evaluations of the cell on a batch.", (double)atomic_load(&m->steps));
    one(b, "deqd_rows_total", "counter", "Rows in those evaluations.", (double)atomic_load(&m->rows_total));
    one(b, "deqd_head_rows_total", "counter", "Rows through the output head.", (double)atomic_load(&m->head_rows));
    one(b, "deqd_positions_total", "counter", "Positions committed.", (double)atomic_load(&m->positions));
    one(b, "deqd_solver_nonconverged_total", "counter", "Positions committed above their tolerance.", (double)atomic_load(&m->nonconverged));
    one(b, "deqd_solver_diverged_total", "counter", "Sequences ended because a state was not finite.", (double)atomic_load(&m->numeric_errors));
    one(b, "deqd_guess_restarts_total", "counter", "Rows started again because a guessed token changed.", (double)atomic_load(&m->restarts));
    one(b, "deqd_rows_open", "gauge", "Rows being solved.", (double)atomic_load(&m->rows_open));
    one(b, "deqd_cache_pages", "gauge", "Pages of the key/value cache.", (double)atomic_load(&m->pages));
    one(b, "deqd_cache_pages_used", "gauge", "Pages in use.", (double)atomic_load(&m->pages_used));
    one(b, "deqd_engine_memory_bytes", "gauge", "Reserved for rows, cache and scratch.", (double)atomic_load(&m->engine_memory_bytes));
    struct timespec mono;
    clock_gettime(CLOCK_MONOTONIC, &mono);
    const double now = (double)mono.tv_sec + (double)mono.tv_nsec * 1e-9;
    one(b, "deqd_last_step_age_seconds", "gauge", "Since the engine's last sign of life.",
        now - (double)atomic_load(&m->last_step_ns) * 1e-9);
    process(b);
    return !b->failed;
}
