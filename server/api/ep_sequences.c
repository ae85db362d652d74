/* GET /v1/sequences and DELETE /v1/sequences/{id}: what waits and runs, and its end by whoever runs the server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/reply.h"
#include "server/log.h"

enum { LISTED_MAX = 1000 };

static void add_job(struct deq_buf *out, const struct sched_job *j)
{
    static const char *const states[] = {[SCHED_WAITING] = "waiting", [SCHED_RUNNING] = "running",
                                         [SCHED_PAUSED] = "paused"};
    deq_buf_fmt(out, "{\"id\":\"seq_%llu\",\"object\":\"sequence\",\"request_id\":", (unsigned long long)j->number);
    reply_string(out, j->request_id, strlen(j->request_id));
    deq_buf_fmt(out,
                ",\"state\":\"%s\",\"caller\":\"%016llx\",\"age_ms\":%.3f,\"queue_ms\":%.3f,\"choices\":%u,"
                "\"prompt_tokens\":%llu,\"max_tokens\":%u,\"completion_tokens\":%u,\"evaluations\":%llu,\"tol\":%.6g}",
                states[j->state], (unsigned long long)j->caller, (double)j->age_ns * 1e-6, (double)j->queue_ns * 1e-6,
                j->choices, (unsigned long long)j->prompt_tokens, j->max_tokens, j->tokens,
                (unsigned long long)j->evaluations, (double)j->tol);
}

void ep_sequences(struct service *s, struct served *m, struct exchange *x)
{
    struct sched_job *jobs = DEQ_NEW_ARRAY(struct sched_job, LISTED_MAX);
    (void)m;
    if (!jobs) {
        exchange_no_memory(x);
        return;
    }
    const size_t there = store_list(s->store, jobs, LISTED_MAX), n = DEQ_MIN(there, (size_t)LISTED_MAX);
    x->status = 200;
    deq_buf_str(&x->reply, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        deq_buf_str(&x->reply, i ? "," : "");
        add_job(&x->reply, &jobs[i]);
    }
    deq_buf_fmt(&x->reply, "],\"has_more\":%s}", there > n ? "true" : "false");
    deq_free(jobs);
}

void ep_end_sequence(struct service *s, struct served *m, struct exchange *x)
{
    const char *id = x->path + strlen("/v1/sequences/");
    const size_t prefix = strlen("seq_");
    (void)m;
    const size_t n = strlen(id);
    const bool named = n > prefix && n < prefix + 20 && !strncmp(id, "seq_", prefix) &&
                       strspn(id + prefix, "0123456789") == n - prefix;
    const uint64_t number = named ? strtoull(id + prefix, NULL, 10) : 0;
    if (!store_end_job(s->store, number)) {
        exchange_error(x, 404, "sequence_not_found", NULL,
                       "no such sequence waits or runs here; GET /v1/sequences lists those that do");
        return;
    }
    log_line(LOG_INFO, "sequence ended by an operator", log_text("request_id", x->request_id),
             log_int("sequence", (int64_t)number));
    x->status = 200;
    deq_buf_fmt(&x->reply, "{\"id\":\"seq_%llu\",\"object\":\"sequence\",\"deleted\":true}",
                (unsigned long long)number);
}
