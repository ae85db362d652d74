/* Counters, gauges and histograms, and their Prometheus text. Writers are any thread; everything is atomic, so a scrape takes no lock of the engine. */
#ifndef DEQ_SERVER_METRICS_H
#define DEQ_SERVER_METRICS_H

#include <stdatomic.h>

#include "core/base/buf.h"
#include "core/deq.h"

enum { HIST_BUCKETS_MAX = 24 };

struct histogram {
    const double *bounds; /* [n] upper bounds, ascending */
    unsigned n;
    _Atomic uint64_t count[HIST_BUCKETS_MAX + 1];
    _Atomic uint64_t sum_micro; /* sum of observations * 1e6 */
};

enum reject_reason { REJECT_QUEUE_FULL, REJECT_TOKENS_FULL, REJECT_KEY_LIMIT, REJECT_QUEUE_TIMEOUT, REJECT_DEADLINE, REJECT_DRAINING, REJECT_REASONS };
enum cancel_phase { CANCEL_QUEUED, CANCEL_PREFILL, CANCEL_DECODE, CANCEL_PHASES };
enum { METRIC_FINISHES = 6, METRIC_CODES = 600 };

struct metrics {
    _Atomic uint64_t http_responses[2][METRIC_CODES]; /* of the interface, of probes and scrapes; by status */
    _Atomic uint64_t finished[METRIC_FINISHES];    /* by enum deq_finish */
    _Atomic uint64_t rejected[REJECT_REASONS];
    _Atomic uint64_t cancelled[CANCEL_PHASES];
    _Atomic uint64_t prompt_tokens, generation_tokens, paused, gave_way;
    _Atomic uint64_t start_tokens[3], start_evaluations[3]; /* generated tokens and their evaluations, by enum deq_warm */
    _Atomic uint64_t outside_ns; /* CPU time of engine threads outside steps: scheduling, JSON, hand-over */
    _Atomic uint64_t reloads[2]; /* failed, done */
    _Atomic int64_t connections, waiting, running;
    struct histogram queue_s, ttft_s, itl_s, e2e_s, prefill_s, decode_s, tpot_s, step_s, rows, step_tokens, iterations, prompt_iterations, residual,
        prompt_length, generation_length, max_tokens, choices;
    /* sums over the engines, added to by their threads after every step */
    _Atomic uint64_t steps, rows_total, head_rows, positions, nonconverged, restarts, numeric_errors, starts[3], starts_cached, prefix_queries,
        prefix_hits, prefix_approximate, prefix_evictions;
    _Atomic int64_t pages, pages_used, pages_reserved, sequences, max_sequences, rows_open, max_rows, engine_memory_bytes, prefix_entries, prefix_bytes;
};

/* What the daemon knows beside the counters, at the time of a scrape. */
struct metrics_now {
    bool ready; /* as /health/ready answers */
    uint32_t max_waiting, max_connections;
    uint64_t answer_bytes, max_answer_bytes;
    uint64_t started_ms; /* wall time */
    const char *model_name; /* NULL while nothing is loaded: the rest is of the model */
    const char *fingerprint;
    uint64_t last_step_ns;
    uint32_t max_positions;
    uint64_t weight_bytes;
};

void metrics_init(struct metrics *m);
void metrics_observe(struct histogram *h, double value);
/* An engine went from one state to the next. */
void metrics_engine(struct metrics *m, const struct deq_engine_stats *from, const struct deq_engine_stats *to);
void metrics_render(const struct metrics *m, const struct metrics_now *now, struct deq_buf *out);

#endif
