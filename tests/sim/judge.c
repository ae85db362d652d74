/* Whether what a client got is what it may get. A text that differs from what the same request gets alone is a failure
 * always; so is an answer that is cut or an error, unless something was done that excuses it: the client's own way, a
 * drain, an allocation that was made to fail, an operator, limits of queue and time. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/client.h"

enum { SLACK_MS = 1500 };

static uint64_t whole, judged;

void judge_count(uint64_t *ret_whole, uint64_t *ret_judged)
{
    *ret_whole = whole;
    *ret_judged = judged;
}

static const char *body_of(const struct client *c)
{
    const char *body = c->ask->body ? c->ask->body : "";
    return body + strspn(body, " ");
}

static bool sends_all(const struct client *c)
{
    return c->manner != NEVER_SENDS && c->manner != DRIPS;
}

static bool excused(const struct client *c)
{
    return sim.armed_to_ns >= c->asked_ns || c->before.drains != clients_past.drains;
}

/* "code" of an error's body, or "". */
static void code_of(const char *body, size_t n, char ret[64])
{
    static const char key[] = "\"code\":\"";
    const char *at = n ? memmem(body, n, key, sizeof key - 1) : NULL;
    const char *end = at ? memchr(at + 8, '"', (size_t)(body + n - at - 8)) : NULL;
    ret[0] = 0;
    if (end && end - at - 8 < 64)
        snprintf(ret, 64, "%.*s", (int)(end - at - 8), at + 8);
}

static bool may_be(const struct client *c, const char *code)
{
    static const char *const always[] = {"queue_full", "tokens_queue_full", "key_rate_limited", "queue_timeout",
                                         "too_many_connections", "out_of_memory", "state_not_found",
                                         "sequence_not_found", "reload_in_progress", "reload_failed", "model_loading"};
    for (size_t i = 0; i < DEQ_COUNT(always); i++)
        if (!strcmp(code, always[i]))
            return true;
    if (c->ask == &c->other && (c->status == 400 || c->status == 404 || c->status == 405)) /* what it asked for */
        return true;
    if (!strcmp(c->ask->path, "/health") && c->status == 503)
        return excused(c) || !sim.serving;
    if (c->ask->alone && *code && strstr(c->ask->alone, code)) /* alone too */
        return true;
    if (!strcmp(code, "solver_diverged")) /* in another text than alone, by right: it may have come to the token */
        return !c->ask->judged;
    if (!strcmp(code, "slow_reader"))
        return c->manner == SLOW || c->manner == STALLED || c->manner == LEAVES;
    if (!strcmp(code, "draining"))
        return c->before.drains != clients_past.drains || !sim.serving;
    if (!strcmp(code, "deadline_exceeded"))
        return c->deadline_ms != 0;
    if (!strcmp(code, "ended_by_operator"))
        return c->before.deletes != clients_past.deletes;
    if (!strcmp(code, "request_timeout"))
        return !sends_all(c);
    return c->status >= 500 && sim.armed_to_ns >= c->asked_ns;
}

/* Ends with the first place where both differ. */
static void other_than_alone(const struct client *c, const char *said)
{
    size_t i = 0;
    while (said[i] && said[i] == c->ask->alone[i])
        i++;
    i -= DEQ_MIN(i, 80u);
    sim_fail("another answer than alone to %s %s\n  said  %u ...%.240s\n  alone %u ...%.240s\n  in full: %s",
             c->ask->path, body_of(c), c->status, said + i, c->ask->alone_status, c->ask->alone + i, c->got);
}

/* Of a stream, as far as it came. Where the solver diverges, how much is said before is a matter of time. */
static bool as_alone(const struct client *c, const char *said)
{
    const char *alone = c->ask->alone;
    return !alone || c->status != 200 || strstr(alone, "\"error\":{") || answer_begins(said, alone);
}

/* A whole answer, or an error in its place. */
void judge_whole(const struct client *c)
{
    char code[64];
    char *said = answer_canonical(c->ask, c->got, c->n_got, false);
    const bool error = said && (c->status >= 400 || strstr(said, "\"error\":{"));
    whole++;
    code_of(c->got, c->n_got, code);
    if (c->status == 429 && !c->retry_ms)
        sim_fail("429 without Retry-After");
    if (c->ask->alone && c->status == c->ask->alone_status && said && !strcmp(said, c->ask->alone)) {
        judged++;
    } else if (error) {
        if (!may_be(c, code))
            sim_fail("%s %s: %u \"%s\", which nothing excuses: %s\n  asked: %s\n  alone: %u %s", c->ask->method,
                     c->ask->path, c->status, code, c->got, body_of(c), c->ask->alone_status,
                     c->ask->alone ? c->ask->alone : "");
        if (!as_alone(c, said))
            other_than_alone(c, said);
    } else if (c->ask->alone) {
        /* the best of texts that were cut are others */
        const bool best = c->ask->body && strstr(c->ask->body, "\"best_of\"");
        const bool late = c->deadline_ms && c->status == 200 && said && (best || as_alone(c, said));
        if (!late)
            other_than_alone(c, said ? said : c->got);
        judged++;
    } else if (!said && c->ask->judged) {
        sim_fail("%s %s: %u, which is no JSON: %.100s", c->ask->method, c->ask->path, c->status, c->got);
    }
    free(said);
}

void judge_cut(const struct client *c)
{
    const bool own = c->manner != PROMPT && c->manner != HALF_CLOSES;
    const bool idle = c->reused && !c->head_there && c->asked_ns - c->idle_ns > 900 * (uint64_t)MS;
    if (!own && !idle && !excused(c))
        sim_fail("%s %s: the connection ended without an answer", c->ask->method, c->ask->path);
    if (!c->ask->alone || c->status != 200 || !c->ask->stream || !c->read)
        return;
    char *said = answer_canonical(c->ask, c->got, c->n_got, true);
    if (said && !as_alone(c, said))
        other_than_alone(c, said);
    free(said);
}

void judge_deadline(const struct client *c)
{
    const uint64_t late_ns = SLACK_MS * (uint64_t)MS + 3 * sim.longest_step_ns;
    if (sim.now_ns > c->sent_ns + c->deadline_ms * MS + late_ns)
        sim_fail("%s %s: its deadline was %llu ms, and its answer there after %llu", c->ask->method, c->ask->path,
                 (unsigned long long)c->deadline_ms, (unsigned long long)(sim.now_ns - c->sent_ns) / MS);
}
