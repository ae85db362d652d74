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

enum reject_reason { REJECT_QUEUE_FULL, REJECT_TOKENS_FULL, REJECT_QUEUE_TIMEOUT, REJECT_DRAINING, REJECT_REASONS };
enum cancel_phase { CANCEL_QUEUED, CANCEL_RUNNING, CANCEL_PHASES };
enum { METRIC_FINISHES = 5, METRIC_CODES = 600 };

struct metrics {
    _Atomic uint64_t http_responses[METRIC_CODES]; /* by status */
    _Atomic uint64_t finished[METRIC_FINISHES];    /* by enum deq_finish */
    _Atomic uint64_t rejected[REJECT_REASONS];
    _Atomic uint64_t cancelled[CANCEL_PHASES];
    _Atomic uint64_t prompt_tokens, generation_tokens;
    _Atomic int64_t connections, waiting, running;
    struct histogram queue_s, ttft_s, itl_s, e2e_s, step_s, rows, iterations, residual;
    /* copied by the engine thread after every step */
    _Atomic uint64_t steps, rows_total, head_rows, positions, nonconverged, restarts, numeric_errors, pages, pages_used, rows_open,
        engine_memory_bytes, last_step_ns;
    const char *model_name, *fingerprint;
};

void metrics_init(struct metrics *m, const char *model_name, const char *fingerprint);
void metrics_observe(struct histogram *h, double value);
void metrics_engine(struct metrics *m, const struct deq_engine_stats *s);
bool metrics_render(const struct metrics *m, struct deq_buf *out);

#endif
