#include "server/metrics.h"

#include <dirent.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <stdio.h>

#include "core/base/bug.h"
#include "core/base/clock.h"
#include "server/log.h"

static const double seconds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3,
                                 0.6,    1,     2.5,    5,     10,   20,   40,   80,   160,  640};
static const double small_seconds[] = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025,
                                       0.05,   0.075,  0.1,    0.25,  0.5,   1,     2.5,  10};
static const double row_counts[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
static const double iteration_counts[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64};
static const double residuals[] = {1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1};
static const double lengths[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
static const double choice_counts[] = {1, 2, 5, 10, 20};

#define HIST(b) ((struct histogram){.bounds = (b), .n = sizeof(b) / sizeof *(b)})

void metrics_init(struct metrics *m)
{
    memset(m, 0, sizeof *m);
    m->queue_s = m->ttft_s = m->e2e_s = m->prefill_s = m->decode_s = HIST(seconds);
    m->itl_s = m->tpot_s = m->step_s = HIST(small_seconds);
    m->rows = m->step_tokens = HIST(row_counts);
    m->iterations = m->prompt_iterations = HIST(iteration_counts);
    m->residual = HIST(residuals);
    m->prompt_length = m->generation_length = m->max_tokens = HIST(lengths);
    m->choices = HIST(choice_counts);
}

void metrics_observe(struct histogram *h, double value)
{
    unsigned i = 0;
    while (i < h->n && value > h->bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_micro, (uint64_t)(value * 1e6), memory_order_relaxed);
}

static void move(_Atomic uint64_t *sum, const uint64_t *from, const uint64_t *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (to[i] != from[i]) /* a gauge may fall: the sum is right modulo 2^64, and never below zero */
            atomic_fetch_add_explicit(&sum[i], to[i] - from[i], memory_order_relaxed);
}

void metrics_engine(struct metrics *m, const struct deq_engine_stats *from, const struct deq_engine_stats *to)
{
#define MOVE(name, dimension, kind, help)                                                             \
    move((_Atomic uint64_t *)&m->engine.name, (const uint64_t *)&from->name, (const uint64_t *)&to->name, \
         sizeof to->name / sizeof(uint64_t));
    DEQ_ENGINE_STATS(MOVE)
#undef MOVE
}

void metrics_engine_gone(struct metrics *m, const struct deq_engine_stats *last)
{
    struct deq_engine_stats none = *last;
#define CLEAR_GAUGE(name, dimension, kind, help) \
    if ((kind) == DEQ_GAUGE)                     \
        memset(&none.name, 0, sizeof none.name);
    DEQ_ENGINE_STATS(CLEAR_GAUGE)
#undef CLEAR_GAUGE
    metrics_engine(m, last, &none);
}

/* --- Text --- */

static void head(struct deq_buf *b, const char *name, const char *type, const char *help)
{
    deq_buf_fmt(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(struct deq_buf *b, const char *name, const char *type, const char *help, double value)
{
    head(b, name, type, help);
    deq_buf_fmt(b, "%s %.17g\n", name, value);
}

static void counter(struct deq_buf *b, const char *name, const char *help, const _Atomic uint64_t *value)
{
    one(b, name, "counter", help, (double)atomic_load(value));
}

static void gauge(struct deq_buf *b, const char *name, const char *help, double value)
{
    one(b, name, "gauge", help, value);
}

/* labels: "" or "a=\"b\"" */
static void hist_labels(struct deq_buf *b, const char *name, const char *labels, const struct histogram *h)
{
    unsigned long long sum = 0;
    const char *comma = labels[0] ? "," : "", *open = labels[0] ? "{" : "", *close = labels[0] ? "}" : "";
    for (unsigned i = 0; i <= h->n; i++) {
        sum += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        if (i < h->n)
            deq_buf_fmt(b, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma, h->bounds[i], sum);
        else
            deq_buf_fmt(b, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, sum);
    }
    deq_buf_fmt(b, "%s_sum%s%s%s %.9g\n", name, open, labels, close, (double)atomic_load(&h->sum_micro) * 1e-6);
    deq_buf_fmt(b, "%s_count%s%s%s %llu\n", name, open, labels, close, sum);
}

static void hist(struct deq_buf *b, const char *name, const char *help, const struct histogram *h)
{
    head(b, name, "histogram", help);
    hist_labels(b, name, "", h);
}

/* A series for each value of a label. */
static void labelled(struct deq_buf *b, const char *name, const char *help, const char *label, const char *const *words,
                     const _Atomic uint64_t *values, size_t n)
{
    head(b, name, "counter", help);
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(b, "%s{%s=\"%s\"} %llu\n", name, label, words[i], (unsigned long long)atomic_load(&values[i]));
}

static void by_start(struct deq_buf *b, const char *name, const char *help, const _Atomic uint64_t *values)
{
    const char *words[DEQ_WARM_COUNT];
    for (int i = 0; i < DEQ_WARM_COUNT; i++)
        words[i] = deq_warm_name((enum deq_warm)i);
    labelled(b, name, help, "source", words, values, DEQ_WARM_COUNT);
}

/* Kind and help of what the engine counts. */
struct stat_words {
    enum deq_stat_kind kind;
    const char *help;
};
#define STAT(name, dimension, kind, help) struct stat_words name;
#define STAT_WORDS(name, dimension, kind, help) .name = {kind, help},
static const struct {
    DEQ_ENGINE_STATS(STAT)
} stats = {DEQ_ENGINE_STATS(STAT_WORDS)};
#undef STAT
#undef STAT_WORDS

static void engine_stat(struct deq_buf *b, const char *name, const struct stat_words *s, uint64_t value)
{
    one(b, name, s->kind == DEQ_COUNTER ? "counter" : "gauge", s->help, (double)value);
}
#define ENGINE(series, name) engine_stat(b, series, &stats.name, atomic_load(&m->engine.name))

static void process(const struct metrics_now *now, struct deq_buf *b)
{
    struct rusage u;
    struct rlimit fds;
    gauge(b, "process_start_time_seconds", "When the process started, since the epoch.",
          (double)now->started_ms * 1e-3);
    getrusage(RUSAGE_SELF, &u);
    one(b, "process_cpu_seconds_total", "counter", "User and system CPU time.",
        (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6);
    long pages = 0, unused = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%ld %ld", &unused, &pages) != 2) /* NOLINT(cert-err34-c): the kernel's numbers */
            pages = 0;
        fclose(f);
    }
    gauge(b, "process_resident_memory_bytes", "Resident memory.", (double)pages * (double)sysconf(_SC_PAGESIZE));
    DIR *d = opendir("/proc/self/fd");
    if (d) {
        long n = -3; /* ".", ".." and the directory's own */
        while (readdir(d))
            n++;
        closedir(d);
        gauge(b, "process_open_fds", "Open file descriptors.", (double)n);
    }
    if (!getrlimit(RLIMIT_NOFILE, &fds) && fds.rlim_cur != RLIM_INFINITY)
        gauge(b, "process_max_fds", "Their limit.", (double)fds.rlim_cur);
}

/* The usual codes are there from the start: an increase from nothing to one would be none to a rate. */
static void responses(struct deq_buf *b, const char *name, const char *help, const _Atomic uint64_t *by_code)
{
    static const int usual[] = {200, 400, 401, 404, 429, 500, 503, 504};
    head(b, name, "counter", help);
    for (int code = 100; code < METRIC_CODES; code++) {
        const uint64_t n = atomic_load(&by_code[code]);
        bool shown = n > 0;
        for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
            shown = shown || usual[i] == code;
        if (shown)
            deq_buf_fmt(b, "%s{code=\"%d\"} %llu\n", name, code, (unsigned long long)n);
    }
}

/* The names that dashboards of vLLM ask for, over the same numbers. */
static void vllm(const struct metrics *m, const struct metrics_now *now, struct deq_buf *b)
{
    char labels[128];
    snprintf(labels, sizeof labels, "model_name=\"%s\",engine=\"0\"", now->model_name);
#define GAUGE(name, help, value)                                       \
    head(b, "vllm:" name, "gauge", help);                              \
    deq_buf_fmt(b, "vllm:" name "{%s} %.17g\n", labels, (double)(value))
#define COUNTER(name, help, value)                                     \
    head(b, "vllm:" name, "counter", help);                            \
    deq_buf_fmt(b, "vllm:" name "{%s} %.17g\n", labels, (double)(value))
#define HISTOGRAM(name, help, h)                                       \
    head(b, "vllm:" name, "histogram", help);                          \
    hist_labels(b, "vllm:" name, labels, h)
    const double pages = (double)atomic_load(&m->engine.pages);
    const double reserved = (double)atomic_load(&m->engine.pages_reserved);
    GAUGE("num_requests_running", "As deqd_requests_running.", atomic_load(&m->running));
    GAUGE("num_requests_waiting", "As deqd_requests_waiting.", atomic_load(&m->waiting));
    GAUGE("kv_cache_usage_perc", "Share of the cache's pages that is reserved, 0 to 1.",
          pages > 0 ? reserved / pages : 0);
    COUNTER("prompt_tokens_total", "As deqd_prompt_tokens_total.", atomic_load(&m->prompt_tokens));
    COUNTER("generation_tokens_total", "As deqd_generation_tokens_total.", atomic_load(&m->generation_tokens));
    COUNTER("num_preemptions_total", "Always 0: no request is set aside to go on later.", 0);
    COUNTER("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
            atomic_load(&m->engine.prefix_queries_tok));
    COUNTER("prefix_cache_hits_total", "Prompt tokens found there.", atomic_load(&m->engine.prefix_hits_tok));
    HISTOGRAM("time_to_first_token_seconds", "As deqd_time_to_first_token_seconds.", &m->ttft_s);
    HISTOGRAM("inter_token_latency_seconds", "As deqd_inter_token_latency_seconds.", &m->itl_s);
    HISTOGRAM("time_per_output_token_seconds", "Older name of vllm:inter_token_latency_seconds.", &m->itl_s);
    HISTOGRAM("request_time_per_output_token_seconds", "Mean time of a token after the first, a request.", &m->tpot_s);
    HISTOGRAM("e2e_request_latency_seconds", "As deqd_e2e_seconds.", &m->e2e_s);
    HISTOGRAM("request_queue_time_seconds", "As deqd_queue_seconds.", &m->queue_s);
    HISTOGRAM("request_prefill_time_seconds", "As deqd_prefill_seconds.", &m->prefill_s);
    HISTOGRAM("request_decode_time_seconds", "As deqd_decode_seconds.", &m->decode_s);
    HISTOGRAM("request_prompt_tokens", "Prompt tokens of a request.", &m->prompt_length);
    HISTOGRAM("request_generation_tokens", "Generated tokens of a request.", &m->generation_length);
    HISTOGRAM("request_max_num_generation_tokens", "max_tokens of a request.", &m->max_tokens);
    HISTOGRAM("request_params_max_tokens", "max_tokens of a request.", &m->max_tokens);
    HISTOGRAM("request_params_n", "Choices of a request.", &m->choices);
    HISTOGRAM("iteration_tokens_total", "Positions committed by a step.", &m->step_tokens);
    head(b, "vllm:request_success_total", "counter", "Choices that came to their end, by the reason.");
    static const char *const reasons[] = {"stop", "length", "abort"};
    const _Atomic uint64_t *const n = m->finished;
    const uint64_t success[] = {atomic_load(&n[DEQ_FINISH_EOS]) + atomic_load(&n[DEQ_FINISH_STOP]),
                                atomic_load(&n[DEQ_FINISH_LENGTH]) + atomic_load(&n[DEQ_FINISH_DEADLINE]) +
                                    atomic_load(&n[DEQ_FINISH_BUDGET]),
                                atomic_load(&n[DEQ_FINISH_CANCELED])};
    for (size_t i = 0; i < DEQ_COUNT(reasons); i++)
        deq_buf_fmt(b, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", labels, reasons[i],
                    (unsigned long long)success[i]);
    head(b, "vllm:cache_config_info", "gauge", "Of the cache of positions.");
    deq_buf_fmt(b, "vllm:cache_config_info{%s,block_size=\"16\",num_gpu_blocks=\"%.0f\",", labels, pages);
    deq_buf_str(b, "enable_prefix_caching=\"True\"} 1\n");
#undef GAUGE
#undef COUNTER
#undef HISTOGRAM
}

/* --- Sections, in the order in which they are printed --- */

static void identity(const struct metrics_now *now, struct deq_buf *b)
{
    head(b, "deqd_build_info", "gauge", "Version of the daemon.");
    deq_buf_fmt(b, "deqd_build_info{version=\"%s\"} 1\n", DEQ_VERSION);
    gauge(b, "deqd_ready", "1 while /health/ready answers 200: neither starting nor draining, and the engine alive.",
          now->ready);
    if (!now->model_name)
        return;
    head(b, "deqd_model_info", "gauge", "The model that is served.");
    deq_buf_fmt(b, "deqd_model_info{model=\"%s\",fingerprint=\"%s\"} 1\n", now->model_name, now->fingerprint);
    gauge(b, "deqd_model_weight_bytes", "Packed weights.", (double)now->weight_bytes);
    gauge(b, "deqd_max_model_len", "Positions of one sequence.", now->max_positions);
}

/* Ends of one name are one series. */
static void finishes(const struct metrics *m, struct deq_buf *b)
{
    head(b, "deqd_requests_total", "counter", "Choices that left the engine, by the reason.");
    for (int i = 0; i < DEQ_FINISH_COUNT; i++) {
        const char *const name = deq_finish_name((enum deq_finish)i);
        uint64_t n = 0;
        bool told = false;
        for (int k = 0; k < DEQ_FINISH_COUNT; k++)
            if (!strcmp(deq_finish_name((enum deq_finish)k), name)) {
                n += atomic_load(&m->finished[k]);
                told = told || k < i;
            }
        if (!told)
            deq_buf_fmt(b, "deqd_requests_total{finish_reason=\"%s\"} %llu\n", name, (unsigned long long)n);
    }
}

static void requests(const struct metrics *m, const struct metrics_now *now, struct deq_buf *b)
{
    static const char *const reasons[] = {[REJECT_QUEUE_FULL] = "queue_full",
                                          [REJECT_TOKENS_FULL] = "tokens_queue_full",
                                          [REJECT_KEY_LIMIT] = "key_rate_limited",
                                          [REJECT_QUEUE_TIMEOUT] = "queue_timeout",
                                          [REJECT_DEADLINE] = "deadline",
                                          [REJECT_DRAINING] = "draining"};
    static const char *const phases[] = {[CANCEL_QUEUED] = "queued",
                                         [CANCEL_PREFILL] = "prefill",
                                         [CANCEL_DECODE] = "decode"};
    _Static_assert(DEQ_COUNT(reasons) == REJECT_COUNT && DEQ_COUNT(phases) == CANCEL_COUNT, "a word for each");
    gauge(b, "deqd_requests_running", "Requests in the engine.", (double)atomic_load(&m->running));
    gauge(b, "deqd_requests_waiting", "Requests in the queue.", (double)atomic_load(&m->waiting));
    gauge(b, "deqd_max_requests_waiting", "Places in the queue.", now->max_waiting);
    gauge(b, "deqd_http_connections", "Open client connections.", (double)atomic_load(&m->connections));
    gauge(b, "deqd_max_http_connections", "Beyond so many, new ones are answered 503.", now->max_connections);
    responses(b, "deqd_http_responses_total", "Responses by status, without those to probes and scrapes.",
              m->http_responses[0]);
    responses(b, "deqd_http_probe_responses_total", "Responses of /health* and /metrics by status.",
              m->http_responses[1]);
    finishes(m, b);
    labelled(b, "deqd_requests_rejected_total", "Requests refused without work.", "reason", reasons, m->rejected,
             REJECT_COUNT);
    labelled(b, "deqd_requests_cancelled_total", "Requests whose client left.", "phase", phases, m->cancelled,
             CANCEL_COUNT);
}

static void tokens(const struct metrics *m, struct deq_buf *b)
{
    counter(b, "deqd_prompt_tokens_total", "Prompt tokens of admitted requests.", &m->prompt_tokens);
    counter(b, "deqd_generation_tokens_total", "Generated tokens.", &m->generation_tokens);
    counter(b, "deqd_prompt_tokens_cached_total", "Prompt tokens taken from the prefix cache.",
            &m->engine.prefix_hits_tok);
    ENGINE("deqd_prompt_tokens_approximate_total", prefix_approximate_tok);
    counter(b, "deqd_stream_paused_total", "Times that a sequence waited for a slow reader.", &m->paused);
    counter(b, "deqd_stream_gave_way_total",
            "Streams that ended because their readers were slow and others waited for their places.", &m->gave_way);
    counter(b, "deqd_sequences_ended_total", "Sequences that an operator ended.", &m->ended);
}

static void times(const struct metrics *m, struct deq_buf *b)
{
    hist(b, "deqd_queue_seconds", "Time in the queue.", &m->queue_s);
    hist(b, "deqd_time_to_first_token_seconds", "From arrival to the first token.", &m->ttft_s);
    hist(b, "deqd_inter_token_latency_seconds", "Between two tokens of a request.", &m->itl_s);
    hist(b, "deqd_e2e_seconds", "From arrival to the end.", &m->e2e_s);
    hist(b, "deqd_prefill_seconds", "From admission to the first token.", &m->prefill_s);
    hist(b, "deqd_decode_seconds", "From the first token to the end.", &m->decode_s);
    hist(b, "deqd_step_seconds", "One step of the engine.", &m->step_s);
    one(b, "deqd_engine_overhead_seconds_total", "counter",
        "CPU time of the engine's thread outside steps: scheduling, hand-over.",
        (double)atomic_load(&m->outside_ns) * 1e-9);
}

static void solver(const struct metrics *m, struct deq_buf *b)
{
    hist(b, "deqd_batch_rows", "Rows of one evaluation.", &m->rows);
    head(b, "deqd_solver_iterations", "histogram",
         "Evaluations of a position: of prompts whose logits or states are asked for, and of generation.");
    hist_labels(b, "deqd_solver_iterations", "phase=\"decode\"", &m->iterations);
    hist_labels(b, "deqd_solver_iterations", "phase=\"prefill\"", &m->prompt_iterations);
    hist(b, "deqd_solver_residual", "Relative residual of a generated position when it was committed.", &m->residual);
    ENGINE("deqd_steps_total", steps);
    ENGINE("deqd_rows_total", rows);
    ENGINE("deqd_explicit_rows_total", explicit_rows);
    ENGINE("deqd_coda_rows_total", coda_rows);
    ENGINE("deqd_head_rows_total", head_rows);
    ENGINE("deqd_near_rows_total", near_rows);
    ENGINE("deqd_screen_rows_total", screen_rows);
    ENGINE("deqd_positions_total", positions);
    ENGINE("deqd_solver_nonconverged_total", nonconverged);
    ENGINE("deqd_solver_diverged_total", numeric_errors);
    ENGINE("deqd_guess_restarts_total", restarts);
    by_start(b, "deqd_warm_start_total", stats.starts.help, m->engine.starts);
    by_start(b, "deqd_start_tokens_total", "Generated tokens, by where the iterates of their position began.",
             m->start_tokens);
    by_start(b, "deqd_start_evaluations_total", "Evaluations of those positions.", m->start_evaluations);
    ENGINE("deqd_warm_start_cached_total", starts_cached);
}

static void prefix_cache(const struct metrics *m, struct deq_buf *b)
{
    static const char *const results[] = {"failed", "done"};
    ENGINE("deqd_state_cache_entries", prefix_entries);
    ENGINE("deqd_state_cache_bytes", prefix_bytes);
    ENGINE("deqd_state_cache_queries_tokens_total", prefix_queries_tok);
    ENGINE("deqd_state_cache_hits_total", prefix_hits_tok);
    ENGINE("deqd_state_cache_evictions_total", prefix_evictions);
    gauge(b, "deqd_state_cache_restored_entries", "Blocks in the prefix cache that an earlier run had left.",
          (double)atomic_load(&m->restored_blocks));
    ENGINE("deqd_prompt_tokens_state_total", state_tok);
    labelled(b, "deqd_state_reads_total", "Files of saved states and of the prefix cache that were read or refused.",
             "result", results, m->state_reads, DEQ_COUNT(results));
    labelled(b, "deqd_state_writes_total", "Files of saved states and of the prefix cache that were written, or not.",
             "result", results, m->state_writes, DEQ_COUNT(results));
}

static void depth(const struct metrics *m, const struct metrics_now *now, struct deq_buf *b)
{
    static const char *const ways[] = {"close", "open"};
    gauge(b, "deqd_depth_objective_seconds", "Within which 99 of 100 tokens are to come (depth.objective_ms).",
          now->depth_objective_s);
    gauge(b, "deqd_depth_tolerance_factor",
          "By how much the tolerance of requests with elastic depth is opened, at most limits.tol_max; 1: not.",
          now->depth_factor);
    labelled(b, "deqd_depth_changes_total", "Steps of that factor.", "direction", ways, m->depth_changes,
             DEQ_COUNT(ways));
    counter(b, "deqd_depth_opened_tokens_total", "Tokens generated at an opened tolerance.", &m->depth_tokens);
}

static void forms(const struct metrics_now *now, struct deq_buf *b)
{
    const struct deq_form_stats *f = &now->forms;
    one(b, "deqd_forms_made_total", "counter", "Forms of structured outputs that were compiled.", (double)f->made);
    one(b, "deqd_forms_found_total", "counter", "Forms that were asked for and found among those that are kept.",
        (double)f->found);
    one(b, "deqd_forms_refused_total", "counter", "Forms that are wrong, not supported or too large (invalid_form).",
        (double)f->refused);
    gauge(b, "deqd_forms_kept", "Compiled forms that are kept for the next request that has them.", f->kept);
}

static void room(const struct metrics *m, const struct metrics_now *now, struct deq_buf *b)
{
    ENGINE("deqd_sequences", sequences);
    gauge(b, "deqd_max_sequences", "Their limit, the eighth for callers who have none included; further requests wait.",
          (double)atomic_load(&m->engine.max_sequences));
    ENGINE("deqd_rows_open", rows_open);
    ENGINE("deqd_rows_reserved", rows_reserved);
    ENGINE("deqd_max_rows", max_rows);
    ENGINE("deqd_cache_pages", pages);
    ENGINE("deqd_cache_pages_used", pages_used);
    ENGINE("deqd_cache_pages_reserved", pages_reserved);
    ENGINE("deqd_engine_memory_bytes", memory_bytes);
    gauge(b, "deqd_answer_memory_bytes",
          "Held by requests' bodies and by answers until they are read, or reserved for them.",
          (double)now->answer_bytes);
    gauge(b, "deqd_max_answer_memory_bytes",
          "Its limit (limits.answer_bytes): what does not fit waits, or is refused with 503.",
          (double)now->max_answer_bytes);
}

static void liveness(const struct metrics_now *now, struct deq_buf *b)
{
    const double since = ((double)deq_now_ns() - (double)now->last_step_ns) * 1e-9, age = since > 0 ? since : 0;
    gauge(b, "deqd_last_step_age_seconds", "Since the engine's last sign of life.", age);
    gauge(b, "deqd_last_step_timestamp_seconds", "When it was.", (double)deq_wall_ms() * 1e-3 - age);
}

void metrics_render(const struct metrics *m, const struct metrics_now *now, struct deq_buf *b)
{
    static const char *const results[] = {"failed", "done"};
    identity(now, b);
    requests(m, now, b);
    tokens(m, b);
    times(m, b);
    solver(m, b);
    depth(m, now, b);
    forms(now, b);
    prefix_cache(m, b);
    labelled(b, "deqd_reloads_total", "Reloads of the model.", "result", results, m->reloads, DEQ_COUNT(results));
    one(b, "deqd_log_lines_dropped_total", "counter",
        "Lines of the log that could not be written, or found no room to wait.", (double)log_dropped());
    one(b, "deqd_bugs_total", "counter", "Conditions that must always hold and did not: a mistake in deqd, to report.",
        (double)deq_bugs());
    room(m, now, b);
    if (now->model_name) {
        liveness(now, b);
        vllm(m, now, b);
    }
    process(now, b);
}
