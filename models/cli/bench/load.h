/* The load of `deq bench serve`: requests sent when they are due, streams read with a time for every chunk. What they
 * ask is made beforehand (prompts.h). Not a client library: it judges no text. It only gathers; the arithmetic is
 * in stats.h, the report in serve.c.
 *
 * A request's start is its *scheduled* arrival in open loop: when it leaves late, because this program or the server's
 * accept queue was busy, its wait counts (no coordinated omission: Tene, "How NOT to measure latency", 2013). With
 * max_concurrency the loop is closed, and start is the sending, as in vLLM.
 *
 * One thread. libcurl's multi interface tells through callbacks which sockets matter; epoll watches them, so that the
 * cost of an event does not grow with the number of open streams. The only file that sees libcurl is load.c. */
#ifndef DEQ_MODELS_CLI_BENCH_LOAD_H
#define DEQ_MODELS_CLI_BENCH_LOAD_H

#include <jansson.h>

#include "core/base/err.h"
#include "models/cli/bench/stats.h"
#include "models/cli/bench/sse.h"

enum { BENCH_PROMPTS_MAX = 1000000, BENCH_LEN_MAX = 1000000, BENCH_PERCENTILES_MAX = 16, BENCH_KINDS_MAX = 32 };

struct bench_settings {
    const char *model, *api_key, *text; /* each may be NULL */
    uint64_t n, concurrency, input_len, output_len; /* concurrency 0: open loop */
    double rate, burstiness, temperature, tol;    /* tol 0: not sent */
    uint32_t window, timeout_ms;                  /* window 0: not sent */
    uint64_t seed;
};

struct bench_call {
    struct bench *bench;
    void *easy;         /* libcurl's; while it is open */
    char *body;         /* until it is over */
    size_t body_len;
    double start, end;  /* scheduled or sent; over */
    double *chunk;      /* [n_chunks] when each arrived */
    size_t n_chunks, cap_chunks, text_chunks;
    size_t input_tokens, output_tokens; /* 0: the server did not tell */
    double iters_mean, residual_max;    /* NaN: the server did not tell */
    struct sse sse;
    struct deq_buf reply; /* of a status other than 200 */
    char problem[256];    /* text of an error event or of this side */
    const char *kind;     /* of failure, or NULL */
    bool done, success, refused;
};

struct bench_kind {
    char name[24];
    size_t n;
    struct deq_err first; /* one line of the first of them */
};

struct bench {
    struct bench_settings set;
    char url[1024]; /* without a closing / or /v1 */
    char model[256];
    struct curl_slist *headers;
    void *multi; /* libcurl's */
    int epoll;
    double curl_due; /* when libcurl wants to be called, INFINITY: not */
    uint64_t zero_ns;
    double *arrival; /* [n] s */
    struct bench_call *call; /* [n] */
    size_t sent, open, ok, failed, refused, tokens_seen, streams_max;
    struct bench_kind kind[BENCH_KINDS_MAX];
    size_t n_kinds;
    double duration;
    struct deq_err err;
};

/* Handles, descriptors and arrivals; False: err says why, and what to do. */
bool bench_load_prepare(struct bench *b);
/* One request of its own, GET without a body. NULL with err set, or the reply's JSON. */
json_t *bench_load_ask(struct bench *b, const char *path, const struct deq_buf *body);
/* Until all requests are over, SIGINT or SIGTERM comes, or this side fails (err is set). What was measured so far
 * stands in call[0..sent). */
void bench_load_run(struct bench *b);
void bench_load_free(struct bench *b);
bool bench_load_start(void); /* libcurl, once before all others */
void bench_load_stop(void);

#endif
