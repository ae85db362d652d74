#include "server/api/timings.h"

#include <stdio.h>

static double ms(uint64_t ns)
{
    return (double)ns * 1e-6;
}

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static uint64_t between(uint64_t from, uint64_t to)
{
    return from && to > from ? to - from : 0;
}

void timings_add(struct timings *t, const struct job *j, uint64_t now_ns)
{
    t->queue_ns = DEQ_MAX(t->queue_ns, between(j->arrived_ns, j->admitted_ns));
    t->prompt_ns = DEQ_MAX(t->prompt_ns, between(j->admitted_ns, j->first_token_ns ? j->first_token_ns : now_ns));
    t->predicted_ns = DEQ_MAX(t->predicted_ns, between(j->first_token_ns, j->last_token_ns));
    t->cache_n += j->admission.cached_tokens;
    t->prompt_n += job_prompt_tokens(j) - j->admission.cached_tokens;
}

void timings_json(const struct timings *t, struct deq_buf *out)
{
    const double prompt = ms(t->prompt_ns), predicted = ms(t->predicted_ns);
    deq_buf_fmt(out,
                "{\"queue_ms\":%.3f,\"cache_n\":%llu,\"prompt_n\":%llu,\"prompt_ms\":%.3f,\"prompt_per_token_ms\":%.6g,"
                "\"prompt_per_second\":%.6g,\"prompt_evaluations\":%llu,\"predicted_n\":%llu,\"predicted_ms\":%.3f,"
                "\"predicted_per_token_ms\":%.6g,\"predicted_per_second\":%.6g,\"predicted_evaluations\":%llu}",
                ms(t->queue_ns), (unsigned long long)t->cache_n, (unsigned long long)t->prompt_n, prompt,
                over(prompt, (double)t->prompt_n), over(1e3 * (double)t->prompt_n, prompt),
                (unsigned long long)t->prompt_evaluations, (unsigned long long)t->predicted_n, predicted,
                over(predicted, (double)t->predicted_n), over(1e3 * (double)t->predicted_n, predicted),
                (unsigned long long)t->predicted_evaluations);
}

void timings_tell(const struct timings *t, struct channel *c)
{
    char text[CHANNEL_TIMING_BYTES];
    snprintf(text, sizeof text,
             "queue;dur=%.3f, prompt;dur=%.3f, decode;dur=%.3f, evaluations;desc=\"%llu of %llu prompt tokens, %llu of "
             "%llu tokens\"",
             ms(t->queue_ns), ms(t->prompt_ns), ms(t->predicted_ns), (unsigned long long)t->prompt_evaluations,
             (unsigned long long)t->prompt_n, (unsigned long long)t->predicted_evaluations,
             (unsigned long long)t->predicted_n);
    channel_timing(c, text);
}

void timings_tell_queue(const struct job *j, struct channel *c)
{
    char text[CHANNEL_TIMING_BYTES];
    snprintf(text, sizeof text, "queue;dur=%.3f", ms(between(j->arrived_ns, j->admitted_ns)));
    channel_timing(c, text);
}
