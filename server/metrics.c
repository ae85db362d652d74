#include "server/metrics.h"

#include <dirent.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <stdio.h>

#include "core/base/clock.h"
#include "server/log.h"

static const double seconds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2.5, 5, 10, 20, 40, 80, 160, 640};
static const double small_seconds[] = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 10};
static const double row_counts[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
static const double iteration_counts[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64};
static const double residuals[] = {1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1};
static const double lengths[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
static const double choice_counts[] = {1, 2, 5, 10, 20};

#define HIST(b) ((struct histogram){.bounds = b, .n = sizeof(b) / sizeof *(b)})

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

void metrics_engine(struct metrics *m, const struct deq_engine_stats *from, const struct deq_engine_stats *to)
{
#define ADD(counter, field)                                                                           \
    do {                                                                                              \
        if (to->field != from->field)                                                                 \
            atomic_fetch_add_explicit(&m->counter, to->field - from->field, memory_order_relaxed);    \
    } while (0)
    ADD(steps, steps);
    ADD(rows_total, rows);
    ADD(head_rows, head_rows);
    ADD(positions, positions);
    ADD(nonconverged, nonconverged);
    ADD(restarts, restarts);
    ADD(numeric_errors, numeric_errors);
    ADD(starts[0], starts[0]);
    ADD(starts[1], starts[1]);
    ADD(starts[2], starts[2]);
    ADD(starts_cached, starts_cached);
    ADD(prefix_queries, prefix_queries_tok);
    ADD(prefix_hits, prefix_hits_tok);
    ADD(prefix_approximate, prefix_approximate_tok);
    ADD(prefix_evictions, prefix_evictions);
#undef ADD
#define MOVE(gauge, field)                                                                                                           \
    do {                                                                                                                             \
        if (to->field != from->field)                                                                                                \
            atomic_fetch_add_explicit(&m->gauge, (int64_t)to->field - (int64_t)from->field, memory_order_relaxed);                   \
    } while (0)
    MOVE(pages, pages);
    MOVE(pages_used, pages_used);
    MOVE(pages_reserved, pages_reserved);
    MOVE(sequences, sequences);
    MOVE(max_sequences, max_sequences);
    MOVE(rows_open, rows_open);
    MOVE(max_rows, max_rows);
    MOVE(engine_memory_bytes, memory_bytes);
    MOVE(prefix_entries, prefix_entries);
    MOVE(prefix_bytes, prefix_bytes);
#undef MOVE
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

/* labels: "" or "a=\"b\"" */
static void hist_labels(struct deq_buf *b, const char *name, const char *labels, const struct histogram *h)
{
    uint64_t sum = 0;
    const char *comma = labels[0] ? "," : "", *open = labels[0] ? "{" : "", *close = labels[0] ? "}" : "";
    for (unsigned i = 0; i <= h->n; i++) {
        sum += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        if (i < h->n)
            deq_buf_fmt(b, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma, h->bounds[i], (unsigned long long)sum);
        else
            deq_buf_fmt(b, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, (unsigned long long)sum);
    }
    deq_buf_fmt(b, "%s_sum%s%s%s %.9g\n%s_count%s%s%s %llu\n", name, open, labels, close, (double)atomic_load(&h->sum_micro) * 1e-6, name, open,
                labels, close, (unsigned long long)sum);
}

static void hist(struct deq_buf *b, const char *name, const char *help, const struct histogram *h)
{
    head(b, name, "histogram", help);
    hist_labels(b, name, "", h);
}

static void process(const struct metrics_now *now, struct deq_buf *b)
{
    struct rusage u;
    struct rlimit fds;
    one(b, "process_start_time_seconds", "gauge", "When the process started, since the epoch.", (double)now->started_ms * 1e-3);
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
    DIR *d = opendir("/proc/self/fd");
    if (d) {
        long n = -3; /* ".", ".." and the directory's own */
        while (readdir(d))
            n++;
        closedir(d);
        one(b, "process_open_fds", "gauge", "Open file descriptors.", (double)n);
    }
    if (!getrlimit(RLIMIT_NOFILE, &fds) && fds.rlim_cur != RLIM_INFINITY)
        one(b, "process_max_fds", "gauge", "Their limit.", (double)fds.rlim_cur);
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
    const double pages = (double)atomic_load(&m->pages);
    GAUGE("num_requests_running", "As deqd_requests_running.", atomic_load(&m->running));
    GAUGE("num_requests_waiting", "As deqd_requests_waiting.", atomic_load(&m->waiting));
    GAUGE("kv_cache_usage_perc", "Share of the cache's pages that is reserved, 0 to 1.", pages > 0 ? (double)atomic_load(&m->pages_reserved) / pages : 0);
    COUNTER("prompt_tokens_total", "As deqd_prompt_tokens_total.", atomic_load(&m->prompt_tokens));
    COUNTER("generation_tokens_total", "As deqd_generation_tokens_total.", atomic_load(&m->generation_tokens));
    COUNTER("num_preemptions_total", "Always 0: no request is set aside to go on later.", 0);
    COUNTER("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", atomic_load(&m->prefix_queries));
    COUNTER("prefix_cache_hits_total", "Prompt tokens found there.", atomic_load(&m->prefix_hits));
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
    const struct {
        const char *reason;
        uint64_t n;
    } reasons[] = {{"stop", atomic_load(&m->finished[DEQ_FINISH_EOS]) + atomic_load(&m->finished[DEQ_FINISH_STOP])},
                   {"length", atomic_load(&m->finished[DEQ_FINISH_LENGTH]) + atomic_load(&m->finished[DEQ_FINISH_DEADLINE])},
                   {"abort", atomic_load(&m->finished[DEQ_FINISH_CANCELED])}};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        deq_buf_fmt(b, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", labels, reasons[i].reason, (unsigned long long)reasons[i].n);
    head(b, "vllm:cache_config_info", "gauge", "Of the key/value cache.");
    deq_buf_fmt(b, "vllm:cache_config_info{%s,block_size=\"16\",num_gpu_blocks=\"%lld\",enable_prefix_caching=\"True\"} 1\n", labels,
                (long long)atomic_load(&m->pages));
#undef GAUGE
#undef COUNTER
#undef HISTOGRAM
}

void metrics_render(const struct metrics *m, const struct metrics_now *now, struct deq_buf *b)
{
    static const char *const finishes[METRIC_FINISHES] = {"length", "stop", "stop", "cancelled", "numeric_error", "deadline"};
    static const char *const reasons[REJECT_REASONS] = {"queue_full", "tokens_queue_full", "key_rate_limited", "queue_timeout", "deadline", "draining"};
    static const char *const phases[CANCEL_PHASES] = {"queued", "prefill", "decode"};
    static const char *const starts[3] = {"zero", "previous", "predictor"};
    head(b, "deqd_build_info", "gauge", "Version of the daemon.");
    deq_buf_fmt(b, "deqd_build_info{version=\"%s\"} 1\n", DEQ_VERSION);
    one(b, "deqd_ready", "gauge", "1 while /health/ready answers 200: neither starting nor draining, and the engine alive.", now->ready);
    if (now->model_name) {
        head(b, "deqd_model_info", "gauge", "The model that is served.");
        deq_buf_fmt(b, "deqd_model_info{model=\"%s\",fingerprint=\"%s\"} 1\n", now->model_name, now->fingerprint);
        one(b, "deqd_model_weight_bytes", "gauge", "Packed weights.", (double)now->weight_bytes);
        one(b, "deqd_max_model_len", "gauge", "Positions of one sequence.", now->max_positions);
    }
    one(b, "deqd_requests_running", "gauge", "Requests in the engine.", (double)atomic_load(&m->running));
    one(b, "deqd_requests_waiting", "gauge", "Requests in the queue.", (double)atomic_load(&m->waiting));
    one(b, "deqd_max_requests_waiting", "gauge", "Places in the queue.", now->max_waiting);
    one(b, "deqd_http_connections", "gauge", "Open client connections.", (double)atomic_load(&m->connections));
    one(b, "deqd_max_http_connections", "gauge", "Beyond so many, new ones are answered 503.", now->max_connections);
    responses(b, "deqd_http_responses_total", "Responses by status, without those to probes and scrapes.", m->http_responses[0]);
    responses(b, "deqd_http_probe_responses_total", "Responses of /health* and /metrics by status.", m->http_responses[1]);
    head(b, "deqd_requests_total", "counter", "Choices that left the engine, by the reason.");
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
    one(b, "deqd_prompt_tokens_cached_total", "counter", "Prompt tokens taken from the prefix cache.", (double)atomic_load(&m->prefix_hits));
    one(b, "deqd_prompt_tokens_approximate_total", "counter", "Of them, produced by generation.", (double)atomic_load(&m->prefix_approximate));
    one(b, "deqd_stream_paused_total", "counter", "Times that a sequence waited for a slow reader.", (double)atomic_load(&m->paused));
    one(b, "deqd_stream_gave_way_total", "counter", "Streams that ended because their readers were slow and others waited for their places.", (double)atomic_load(&m->gave_way));
    hist(b, "deqd_queue_seconds", "Time in the queue.", &m->queue_s);
    hist(b, "deqd_time_to_first_token_seconds", "From arrival to the first token.", &m->ttft_s);
    hist(b, "deqd_inter_token_latency_seconds", "Between two tokens of a request.", &m->itl_s);
    hist(b, "deqd_e2e_seconds", "From arrival to the end.", &m->e2e_s);
    hist(b, "deqd_prefill_seconds", "From admission to the first token.", &m->prefill_s);
    hist(b, "deqd_decode_seconds", "From the first token to the end.", &m->decode_s);
    hist(b, "deqd_step_seconds", "One step of the engine.", &m->step_s);
    one(b, "deqd_engine_overhead_seconds_total", "counter", "CPU time of the engine's thread outside steps: scheduling, JSON, hand-over.",
        (double)atomic_load(&m->outside_ns) * 1e-9);
    hist(b, "deqd_batch_rows", "Rows of one evaluation.", &m->rows);
    head(b, "deqd_solver_iterations", "histogram", "Evaluations of a position: of prompts whose logits are asked for, and of generation.");
    hist_labels(b, "deqd_solver_iterations", "phase=\"decode\"", &m->iterations);
    hist_labels(b, "deqd_solver_iterations", "phase=\"prefill\"", &m->prompt_iterations);
    hist(b, "deqd_solver_residual", "Relative residual of a generated position when it was committed.", &m->residual);
    one(b, "deqd_steps_total", "counter", "Evaluations of the cell on a batch.", (double)atomic_load(&m->steps));
    one(b, "deqd_rows_total", "counter", "Rows in those evaluations.", (double)atomic_load(&m->rows_total));
    one(b, "deqd_head_rows_total", "counter", "Rows through the output head.", (double)atomic_load(&m->head_rows));
    one(b, "deqd_positions_total", "counter", "Positions committed.", (double)atomic_load(&m->positions));
    one(b, "deqd_solver_nonconverged_total", "counter", "Positions committed above their tolerance.", (double)atomic_load(&m->nonconverged));
    one(b, "deqd_solver_diverged_total", "counter", "Sequences ended because a state was not finite.", (double)atomic_load(&m->numeric_errors));
    one(b, "deqd_guess_restarts_total", "counter", "Rows started again because a guessed token changed.", (double)atomic_load(&m->restarts));
    head(b, "deqd_warm_start_total", "counter", "Rows that entered, by where their iterates began.");
    for (int i = 0; i < 3; i++)
        deq_buf_fmt(b, "deqd_warm_start_total{source=\"%s\"} %llu\n", starts[i], (unsigned long long)atomic_load(&m->starts[i]));
    head(b, "deqd_start_tokens_total", "counter", "Generated tokens, by where the iterates of their position began.");
    for (int i = 0; i < 3; i++)
        deq_buf_fmt(b, "deqd_start_tokens_total{source=\"%s\"} %llu\n", starts[i], (unsigned long long)atomic_load(&m->start_tokens[i]));
    head(b, "deqd_start_evaluations_total", "counter", "Evaluations of those positions.");
    for (int i = 0; i < 3; i++)
        deq_buf_fmt(b, "deqd_start_evaluations_total{source=\"%s\"} %llu\n", starts[i], (unsigned long long)atomic_load(&m->start_evaluations[i]));
    one(b, "deqd_warm_start_cached_total", "counter", "Of them, from a state of the prefix cache.", (double)atomic_load(&m->starts_cached));
    one(b, "deqd_state_cache_entries", "gauge", "Blocks in the prefix cache.", (double)atomic_load(&m->prefix_entries));
    one(b, "deqd_state_cache_bytes", "gauge", "Their size.", (double)atomic_load(&m->prefix_bytes));
    one(b, "deqd_state_cache_queries_tokens_total", "counter", "Prompt tokens looked up.", (double)atomic_load(&m->prefix_queries));
    one(b, "deqd_state_cache_hits_total", "counter", "Prompt tokens found.", (double)atomic_load(&m->prefix_hits));
    one(b, "deqd_state_cache_evictions_total", "counter", "Blocks that made room.", (double)atomic_load(&m->prefix_evictions));
    head(b, "deqd_reloads_total", "counter", "Reloads of the model.");
    deq_buf_fmt(b, "deqd_reloads_total{result=\"failed\"} %llu\ndeqd_reloads_total{result=\"done\"} %llu\n",
                (unsigned long long)atomic_load(&m->reloads[0]), (unsigned long long)atomic_load(&m->reloads[1]));
    one(b, "deqd_log_lines_dropped_total", "counter", "Lines of the log that could not be written, or found no room to wait.", (double)log_dropped());
    one(b, "deqd_sequences", "gauge", "Choices in the engine.", (double)atomic_load(&m->sequences));
    one(b, "deqd_max_sequences", "gauge", "Their limit, the eighth for callers who have none included; further requests wait.", (double)atomic_load(&m->max_sequences));
    one(b, "deqd_rows_open", "gauge", "Rows being solved.", (double)atomic_load(&m->rows_open));
    one(b, "deqd_max_rows", "gauge", "Rows of the largest batch.", (double)atomic_load(&m->max_rows));
    one(b, "deqd_cache_pages", "gauge", "Pages of the key/value cache.", (double)atomic_load(&m->pages));
    one(b, "deqd_cache_pages_used", "gauge", "Pages that sequences hold.", (double)atomic_load(&m->pages_used));
    one(b, "deqd_cache_pages_reserved", "gauge", "Pages that sequences may come to hold.", (double)atomic_load(&m->pages_reserved));
    one(b, "deqd_engine_memory_bytes", "gauge", "Reserved for rows, cache and scratch.", (double)atomic_load(&m->engine_memory_bytes));
    one(b, "deqd_answer_memory_bytes", "gauge", "Held by requests' bodies and by answers until they are read, or reserved for them.", (double)now->answer_bytes);
    one(b, "deqd_max_answer_memory_bytes", "gauge", "Its limit (limits.answer_bytes): what does not fit waits, or is refused with 503.", (double)now->max_answer_bytes);
    if (now->model_name) {
        const double age = ((double)deq_now_ns() - (double)now->last_step_ns) * 1e-9;
        one(b, "deqd_last_step_age_seconds", "gauge", "Since the engine's last sign of life.", age > 0 ? age : 0);
        one(b, "deqd_last_step_timestamp_seconds", "gauge", "When it was.", (double)deq_wall_ms() * 1e-3 - (age > 0 ? age : 0));
        vllm(m, now, b);
    }
    process(now, b);
}
