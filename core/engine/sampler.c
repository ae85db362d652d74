#include "core/engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/base.h"
#include "core/base/rng.h"
#include "core/math/elementary.h"
#include "core/math/kern.h"

enum { STREAM_SAMPLE = 1 }; /* choice k draws from stream 1 + k */

static const float FORBID = -100, FORCE = 100, FORCED_LOGIT = 1e4f;

uint32_t deq_argmax(const float *logits, uint32_t vocab_size)
{
    uint32_t best = 0;
    float top = -INFINITY;
    for (uint32_t i = 0; i < vocab_size; i++)
        if (logits[i] > top) { /* strictly: the lowest id wins; NaN never does */
            top = logits[i];
            best = i;
        }
    return best;
}

/* most probable first, then lower id */
static int by_rank(const void *a, const void *b)
{
    const struct deq_candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* w = exp((logits - top) / T), a word's weight beside the most probable one's; what is not finite weighs 0. */
static void weigh(const float *logits, uint32_t n, float top, float inv_temp, float *w)
{
    for (uint32_t i = 0; i < n; i++) {
        const float x = (logits[i] - top) * inv_temp;
        /* a word of a cluster may be above the cluster by a rounding; NaN is not below */
        w[i] = x < 80 ? x : -INFINITY;
    }
    (void)deq_kern()->exp_sum(w, w, 0, n);
}

/* Collects and sorts the candidates with p >= floor until at least `mass` (of probability) and `count` of
 * them are there; returns how many. All with p >= floor are in, so what was left out is less probable
 * than anything that is in. */
static uint32_t ranked(const float *w, uint32_t V, double mass, uint32_t count, struct deq_candidate *out,
                       double *ret_total)
{
    double total = 0;
    for (uint32_t i = 0; i < V; i++)
        total += w[i];
    for (float floor = 0.02f;; floor *= 0.02f) {
        uint32_t n = 0;
        double sum = 0;
        if (floor < 1e-30f)
            floor = 0;
        for (uint32_t i = 0; i < V; i++) {
            if (w[i] > 0 && w[i] >= floor) {
                out[n++] = (struct deq_candidate){w[i], i};
                sum += w[i];
            }
        }
        if (floor == 0 || (sum >= mass * total && n >= count)) {
            qsort(out, n, sizeof *out, by_rank);
            *ret_total = total;
            return n;
        }
    }
}

bool deq_sample_adjusts(const struct deq_sampling *s)
{
    return s->n_bias || s->min_tokens || s->presence_penalty != 0 || s->frequency_penalty != 0 ||
           (s->repetition_penalty > 0 && s->repetition_penalty != 1);
}

static void count(uint32_t *counts, const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        counts[ids[i]]++;
}

/* once for each token that was counted; the counts are zeros again afterwards */
static void penalise(const struct deq_sampling *s, float *x, uint32_t *counts, const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t c = counts[ids[i]];
        if (!c)
            continue;
        x[ids[i]] -= s->frequency_penalty * (float)c + s->presence_penalty;
        counts[ids[i]] = 0;
    }
}

static void repeat(float penalty, float *x, uint32_t *counts, const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!counts[ids[i]])
            continue;
        x[ids[i]] = x[ids[i]] > 0 ? x[ids[i]] / penalty : x[ids[i]] * penalty;
        counts[ids[i]] = 0;
    }
}

void deq_sample_adjust(const struct deq_sampling *s, const struct deq_sample_history *h, const float *logits,
                       uint32_t V, struct deq_sample_scratch *scratch)
{
    float *x = scratch->adjusted;
    uint32_t *counts = scratch->counts;
    memcpy(x, logits, V * sizeof *x);
    for (size_t i = 0; i < s->n_bias; i++) {
        const float b = s->bias[i].bias;
        float *y = &x[s->bias[i].token];
        *y = b <= FORBID ? -INFINITY : *y + (b >= FORCE ? FORCED_LOGIT : b);
    }
    if (s->repetition_penalty > 0 && s->repetition_penalty != 1) {
        count(counts, h->prompt, h->n_prompt);
        count(counts, h->text, h->n_text);
        count(counts, h->guessed, h->n_guessed);
        repeat(s->repetition_penalty, x, counts, h->prompt, h->n_prompt);
        repeat(s->repetition_penalty, x, counts, h->text, h->n_text);
        repeat(s->repetition_penalty, x, counts, h->guessed, h->n_guessed);
    }
    if (s->presence_penalty != 0 || s->frequency_penalty != 0) {
        count(counts, h->text, h->n_text);
        count(counts, h->guessed, h->n_guessed);
        penalise(s, x, counts, h->text, h->n_text);
        penalise(s, x, counts, h->guessed, h->n_guessed);
    }
    if (h->n_text + h->n_guessed < s->min_tokens) {
        if (h->eos_id >= 0)
            x[h->eos_id] = -INFINITY;
        for (size_t i = 0; i < s->n_stop_ids; i++)
            x[s->stop_ids[i]] = -INFINITY;
    }
}

uint32_t deq_sample(const struct deq_sampling *s, const float *logits, uint32_t V, uint32_t choice, size_t position,
                    struct deq_sample_scratch *scratch)
{
    struct deq_candidate *c = scratch->candidates;
    const uint32_t best = deq_argmax(logits, V);
    const float top = logits[best];
    if (s->temperature <= 0 || s->top_k == 1 || s->top_p <= 0 || !isfinite(top))
        return best;
    const float inv_temp = 1.0f / s->temperature;
    if (!isfinite(inv_temp))
        return best;
    const double u = deq_rng_uniform(s->seed, STREAM_SAMPLE + (uint64_t)choice, position);
    const bool rank = s->top_k || s->top_p < 1;
    double total = 0;
    uint32_t n = 0;
    weigh(logits, V, top, inv_temp, scratch->weights);
    if (rank) {
        n = ranked(scratch->weights, V, s->top_p, s->top_k, c, &total);
        if (s->top_k && s->top_k < n)
            n = s->top_k;
        if (s->top_p < 1) { /* of what top_k left, the shortest beginning that holds top_p */
            double kept = 0, sum = 0;
            for (uint32_t i = 0; i < n; i++)
                kept += c[i].p;
            const double base = s->top_k ? kept : total;
            uint32_t m = 0;
            while (m < n && sum < s->top_p * base)
                sum += c[m++].p;
            n = DEQ_MAX(m, 1u);
        }
    } else { /* order of ids: no sort is needed */
        for (uint32_t i = 0; i < V; i++)
            if (scratch->weights[i] > 0)
                c[n++] = (struct deq_candidate){scratch->weights[i], i};
    }
    const float floor = s->min_p > 0 ? s->min_p : 0; /* relative to the top, whose p is 1 here */
    double sum = 0, at = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += c[i].p >= floor ? c[i].p : 0;
    for (uint32_t i = 0; i < n; i++) {
        if (c[i].p < floor)
            continue;
        at += c[i].p;
        if (u * sum < at)
            return c[i].id;
    }
    return best;
}

static bool greedy(const struct deq_sampling *s)
{
    return s->temperature <= 0 || s->top_k == 1 || s->top_p <= 0 || !isfinite(1.0f / s->temperature);
}

bool deq_sample_needs_full(const struct deq_sampling *s)
{
    return deq_sample_adjusts(s) || (!greedy(s) && (s->top_k || s->top_p < 1 || s->min_p > 0));
}

static uint32_t greedy_clusters(const struct deq_tails *t, const float *logits, uint32_t *ret_need)
{
    uint32_t best = deq_argmax(logits, deq_cluster_size(t->vocab, 0));
    for (unsigned c = 1; c < deq_clusters(t->vocab); c++) {
        if (!(t->logprob[c - 1] > logits[best]))
            continue;
        if (!(t->known >> c & 1)) {
            *ret_need = c;
            return UINT32_MAX;
        }
        const uint32_t begin = deq_cluster_begin(t->vocab, c),
                       i = begin + deq_argmax(logits + begin, deq_cluster_size(t->vocab, c));
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

uint32_t deq_sample_clusters(const struct deq_sampling *s, const struct deq_tails *t, const float *logits,
                             uint32_t choice, size_t position, struct deq_sample_scratch *scratch, uint32_t *ret_need)
{
    if (greedy(s))
        return greedy_clusters(t, logits, ret_need);
    const unsigned C = deq_clusters(t->vocab);
    const uint32_t n0 = deq_cluster_size(t->vocab, 0);
    const float inv_temp = 1.0f / s->temperature;
    float top = logits[deq_argmax(logits, n0)];
    for (unsigned c = 1; c < C; c++)
        top = fmaxf(top, t->logprob[c - 1]);
    float *w = scratch->weights;
    double mass[DEQ_CUTOFFS_MAX + 1] = {0}, total = 0;
    weigh(logits, n0, top, inv_temp, w);
    for (uint32_t i = 0; i < n0; i++)
        mass[0] += w[i];
    for (unsigned c = 1; c < C; c++) /* a little more than the most, so that rounding never cuts a word off */
        mass[c] = 1.0001 * deq_exp((double)((t->logprob[c - 1] - top) * inv_temp)) *
                  deq_exp(deq_log(deq_cluster_size(t->vocab, c)) * fmax(0, 1 - (double)inv_temp));
    for (uint64_t attempt = 0; attempt <= C; attempt++) { /* every rejection makes one mass exact */
        total = 0;
        for (unsigned c = 0; c < C; c++)
            total += mass[c];
        double x = total * deq_rng_uniform(s->seed, STREAM_SAMPLE + (uint64_t)choice + (attempt << 32), position);
        unsigned c = 0;
        while (c + 1 < C && x >= mass[c])
            x -= mass[c++];
        if (c && !(t->known >> c & 1)) {
            *ret_need = c;
            return UINT32_MAX;
        }
        const uint32_t begin = deq_cluster_begin(t->vocab, c), end = begin + deq_cluster_size(t->vocab, c);
        double at = 0;
        weigh(logits + begin, end - begin, top, inv_temp, w + begin);
        for (uint32_t i = begin; i < end; i++) {
            at += w[i];
            if (x < at)
                return i;
        }
        mass[c] = at;
    }
    return deq_argmax(logits, n0);
}

struct deq_log_normaliser deq_log_normaliser(const float *logits, uint32_t V)
{
    const struct deq_kern *k = deq_kern();
    const float max = k->max(logits, V);
    return (struct deq_log_normaliser){max, deq_log((double)k->exp_sum(NULL, logits, max, V))};
}

float deq_logprob(const struct deq_log_normaliser *n, float logit)
{
    return (float)((double)(logit - n->max) - n->log_sum);
}

void deq_top_tokens(const float *logits, uint32_t V, uint32_t n, uint32_t *ids)
{
    uint32_t have = 0;
    n = DEQ_MIN(n, V);
    for (uint32_t i = 0; i < V && n; i++) {
        if (have == n && !(logits[i] > logits[ids[n - 1]]))
            continue;
        uint32_t at = have < n ? have++ : n - 1;
        while (at > 0 && logits[i] > logits[ids[at - 1]]) {
            ids[at] = ids[at - 1];
            at--;
        }
        ids[at] = i;
    }
}
