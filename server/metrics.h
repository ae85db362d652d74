/* Counters, gauges and histograms, and their Prometheus text. Writers are any thread; everything is atomic, so a scrape
 * takes no lock of the engine. */
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

enum reject_reason {
    REJECT_QUEUE_FULL,
    REJECT_TOKENS_FULL,
    REJECT_KEY_LIMIT,
    REJECT_QUEUE_TIMEOUT,
    REJECT_DEADLINE,
    REJECT_DRAINING,
    REJECT_COUNT
};
enum cancel_phase { CANCEL_QUEUED, CANCEL_PREFILL, CANCEL_DECODE, CANCEL_COUNT };
enum { METRIC_CODES = 600 };

struct metrics {
    _Atomic uint64_t http_responses[2][METRIC_CODES]; /* of the interface, of probes and scrapes; by status */
    _Atomic uint64_t finished[DEQ_FINISH_COUNT];
    _Atomic uint64_t rejected[REJECT_COUNT];
    _Atomic uint64_t cancelled[CANCEL_COUNT];
    _Atomic uint64_t prompt_tokens, generation_tokens, paused, gave_way, ended;
    _Atomic uint64_t start_tokens[DEQ_WARM_COUNT], start_evaluations[DEQ_WARM_COUNT]; /* of generated tokens */
    _Atomic uint64_t outside_ns; /* CPU time of engine threads outside steps: scheduling, hand-over */
    _Atomic uint64_t reloads[2]; /* failed, done */
    _Atomic uint64_t state_reads[2], state_writes[2]; /* files of states and of the prefix cache: failed, done */
    _Atomic uint64_t restored_blocks; /* of the prefix cache, when its engine began */
    _Atomic uint64_t depth_level, depth_changes[2], depth_tokens; /* changes: closed, opened */
    _Atomic int64_t connections, waiting, running;
    struct histogram queue_s, ttft_s, itl_s, e2e_s, prefill_s, decode_s, tpot_s, step_s, rows, step_tokens, iterations,
        prompt_iterations, residual, prompt_length, generation_length, max_tokens, choices;
#define METRICS_ENGINE_SUM(name, dimension, kind, help) _Atomic uint64_t name dimension;
    struct {
        DEQ_ENGINE_STATS(METRICS_ENGINE_SUM)
    } engine; /* sums over the engines, added to by their threads after every step */
#undef METRICS_ENGINE_SUM
};

/* What the daemon knows beside the counters, at the time of a scrape. */
struct metrics_now {
    bool ready; /* as /health/ready answers */
    uint32_t max_waiting, max_connections;
    uint64_t answer_bytes, max_answer_bytes;
    double depth_objective_s, depth_factor; /* of the level */
    uint64_t started_ms; /* wall time */
    const char *model_name; /* NULL while nothing is loaded: the rest is of the model */
    const char *fingerprint;
    uint64_t last_step_ns;
    uint32_t max_positions;
    struct deq_form_stats forms; /* of the model that is served: they begin again with a new one */
    uint64_t weight_bytes;
};

void metrics_init(struct metrics *m);
void metrics_observe(struct histogram *h, double value);
/* An engine went from one state to the next; from a state of zeros when it is new. */
void metrics_engine(struct metrics *m, const struct deq_engine_stats *from, const struct deq_engine_stats *to);
/* An engine ended in that state: its gauges go, what it counted stays. */
void metrics_engine_gone(struct metrics *m, const struct deq_engine_stats *last);
void metrics_render(const struct metrics *m, const struct metrics_now *now, struct deq_buf *out);

#endif
