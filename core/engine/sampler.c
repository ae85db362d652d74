#include "core/engine/sampler.h"

#include <math.h>
#include <string.h>

#include "core/base/base.h"
#include "core/base/rng.h"
#include "core/math/elementary.h"
#include "core/math/kern.h"

enum { STREAM_SAMPLE = 1 }; /* choice k draws from stream 1 + k */

static const float FORBID = -100, FORCE = 100, FORCED_LOGIT = 1e4f;

enum { BLOCK = 64 };

uint32_t deq_argmax(const float *logits, uint32_t vocab_size)
{
    const float top = deq_kern()->max(logits, vocab_size);
    for (uint32_t at = 0; at < vocab_size && top > -INFINITY; at += BLOCK) { /* the lowest id wins; NaN never does */
        const uint32_t end = DEQ_MIN(at + BLOCK, vocab_size);
        unsigned here = 0;
        for (uint32_t i = at; i < end; i++)
            here |= logits[i] == top;
        for (uint32_t i = at; here && i < end; i++)
            if (logits[i] == top)
                return i;
    }
    return 0;
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

/* The sum of at most BLOCK weights: eight chains, so that it need not wait for every addition. */
static double block_mass(const float *w, uint32_t n)
{
    double s[8] = {0};
    for (uint32_t i = 0; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            s[j] += (double)w[i + j];
    for (uint32_t i = n / 8 * 8; i < n; i++)
        s[i % 8] += (double)w[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static double mass_of(const float *w, uint32_t n)
{
    double sum = 0;
    for (uint32_t at = 0; at < n; at += BLOCK)
        sum += block_mass(w + at, DEQ_MIN(n - at, (uint32_t)BLOCK));
    return sum;
}

/* The first word whose weight, with all before it, is more than x; n: there is none. */
static uint32_t find_mass(const float *w, uint32_t n, double x)
{
    double before = 0;
    for (uint32_t at = 0; at < n; at += BLOCK) {
        const uint32_t end = DEQ_MIN(at + BLOCK, n);
        const double behind = before + block_mass(w + at, end - at);
        double sum = before;
        for (uint32_t i = at; x < behind && i < end; i++) {
            sum += (double)w[i];
            if (x < sum)
                return i;
        }
        before = behind;
    }
    return n;
}

/* --- The most probable words, as many as are asked for: a heap, of which only so much is sorted --- */

/* most probable first, then lower id */
static bool ranks_before(const struct deq_candidate *x, const struct deq_candidate *y)
{
    return x->p > y->p || (x->p == y->p && x->id < y->id);
}

static void sift_down(struct deq_candidate *heap, uint32_t n, uint32_t i)
{
    const struct deq_candidate c = heap[i];
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && ranks_before(&heap[child + 1], &heap[child]);
        if (!ranks_before(&heap[child], &c))
            break;
        heap[i] = heap[child];
    }
    heap[i] = c;
}

/* All words with w >= floor, and their mass. */
static uint32_t collect(const float *w, uint32_t V, float floor, struct deq_candidate *out, double *ret_mass)
{
    uint32_t n = 0;
    double mass = 0;
    for (uint32_t at = 0; at < V; at += BLOCK) {
        const uint32_t end = DEQ_MIN(at + BLOCK, V);
        unsigned here = 0;
        for (uint32_t i = at; i < end; i++)
            here |= w[i] >= floor;
        for (uint32_t i = at; here && i < end; i++)
            if (w[i] > 0 && w[i] >= floor) {
                out[n++] = (struct deq_candidate){w[i], i};
                mass += (double)w[i];
            }
    }
    *ret_mass = mass;
    return n;
}

/* Candidates of which the i-th most probable is asked for: at[0 .. left) is a heap, and behind it lie those that were
 * taken from it, the most probable last. */
struct ranking {
    struct deq_candidate *at;
    uint32_t n, left;
};

static const struct deq_candidate *ranked(struct ranking *r, uint32_t i)
{
    while (r->n - r->left <= i) {
        const struct deq_candidate root = r->at[0];
        r->at[0] = r->at[--r->left];
        sift_down(r->at, r->left, 0);
        r->at[r->left] = root;
    }
    return &r->at[r->n - 1 - i];
}

/* Words from a floor on that leaves at least `mass` and `count` of them: what is below it is less probable than all
 * that is there. */
static struct ranking rank(const float *w, uint32_t V, double mass, uint32_t count, struct deq_candidate *room)
{
    struct ranking r = {.at = room};
    double sum = 0;
    /* NOLINTNEXTLINE(cert-flp30-c): not counted by it, only bounded */
    for (float floor = 0.02f;; floor *= 0.02f) {
        floor = floor < 1e-30f ? 0 : floor;
        r.n = r.left = collect(w, V, floor, room, &sum);
        if (floor == 0 || (sum >= mass && r.n >= count))
            break;
    }
    for (uint32_t i = r.n / 2; i-- > 0;)
        sift_down(room, r.n, i);
    return r;
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

static bool greedy(const struct deq_sampling *s)
{
    return s->temperature <= 0 || s->top_k == 1 || s->top_p <= 0 || !isfinite(1.0f / s->temperature);
}

/* A word of those that top_k and top_p leave; best: there is none. */
static uint32_t draw_ranked(const struct deq_sampling *s, const float *w, uint32_t V, double u, uint32_t best,
                            struct deq_candidate *room)
{
    const double total = mass_of(w, V);
    struct ranking r = rank(w, V, (double)s->top_p * total, s->top_k, room);
    uint32_t n = s->top_k ? DEQ_MIN(s->top_k, r.n) : r.n;
    if (s->top_p < 1) { /* of what top_k left, the shortest beginning that holds top_p */
        double kept = s->top_k ? 0 : total, sum = 0;
        for (uint32_t i = 0; s->top_k && i < n; i++)
            kept += (double)ranked(&r, i)->p;
        uint32_t m = 0;
        while (m < n && sum < (double)s->top_p * kept)
            sum += (double)ranked(&r, m++)->p;
        n = DEQ_MAX(m, 1u);
    }
    double sum = 0, at = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += ranked(&r, i)->p >= s->min_p ? (double)ranked(&r, i)->p : 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct deq_candidate *c = ranked(&r, i);
        at += c->p >= s->min_p ? (double)c->p : 0;
        if (u * sum < at)
            return c->id;
    }
    return best;
}

uint32_t deq_sample(const struct deq_sampling *s, const float *logits, uint32_t V, uint32_t choice, size_t position,
                    struct deq_sample_scratch *scratch)
{
    float *w = scratch->weights;
    const uint32_t best = deq_argmax(logits, V);
    const float top = logits[best];
    if (greedy(s) || !isfinite(top))
        return best;
    const double u = deq_rng_uniform(s->seed, STREAM_SAMPLE + (uint64_t)choice, position);
    weigh(logits, V, top, 1.0f / s->temperature, w);
    if (s->top_k || s->top_p < 1)
        return draw_ranked(s, w, V, u, best, scratch->candidates);
    for (uint32_t i = 0; s->min_p > 0 && i < V; i++) /* relative to the top, whose weight is 1 */
        w[i] = w[i] >= s->min_p ? w[i] : 0;
    const uint32_t id = find_mass(w, V, u * mass_of(w, V));
    return id < V ? id : best;
}

bool deq_sample_is_argmax(const struct deq_sampling *s)
{
    return greedy(s) && !deq_sample_adjusts(s);
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

/* The words of a cluster beside its best one: beside the most probable cluster as a whole they may weigh less than a
 * float holds. Returns what that one weighs there. */
static double weigh_cluster(const float *logits, uint32_t n, float top, float inv_temp, float *w)
{
    const float best = deq_kern()->max(logits, n);
    weigh(logits, n, best, inv_temp, w);
    return deq_exp((double)((best - top) * inv_temp));
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
    mass[0] = weigh_cluster(logits, n0, top, inv_temp, w);
    mass[0] *= mass_of(w, n0);
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
        const uint32_t begin = deq_cluster_begin(t->vocab, c), n = deq_cluster_size(t->vocab, c);
        const double scale = weigh_cluster(logits + begin, n, top, inv_temp, w + begin);
        const uint32_t i = find_mass(w + begin, n, x / scale);
        if (i < n)
            return begin + i;
        mass[c] = scale * mass_of(w + begin, n);
    }
    return greedy_clusters(t, logits, ret_need); /* a temperature so low that nothing weighs anything there */
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

/* Of two tokens, whether a is the less probable one. */
static bool ranks_behind(const float *logits, uint32_t a, uint32_t b)
{
    return logits[a] < logits[b] || (logits[a] == logits[b] && a > b);
}

/* ids: a heap whose root ranks behind all others, but for its root. */
static void sift_root(const float *logits, uint32_t *ids, uint32_t n)
{
    const uint32_t id = ids[0];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && ranks_behind(logits, ids[child + 1], ids[child]);
        if (!ranks_behind(logits, ids[child], id))
            break;
        ids[i] = ids[child];
    }
    ids[i] = id;
}

void deq_top_tokens(const float *logits, uint32_t V, uint32_t n, uint32_t *ids)
{
    n = DEQ_MIN(n, V);
    for (uint32_t i = 0; i < n; i++) { /* a heap grows at its end */
        uint32_t at = i;
        for (; at && ranks_behind(logits, i, ids[(at - 1) / 2]); at = (at - 1) / 2)
            ids[at] = ids[(at - 1) / 2];
        ids[at] = i;
    }
    for (uint32_t begin = n; n && begin < V; begin += BLOCK) { /* most blocks have none that is more probable */
        const uint32_t end = DEQ_MIN(begin + BLOCK, V);
        if (!(deq_kern()->max(logits + begin, end - begin) > logits[ids[0]]))
            continue;
        for (uint32_t i = begin; i < end; i++)
            if (logits[i] > logits[ids[0]]) {
                ids[0] = i;
                sift_root(logits, ids, n);
            }
    }
    for (uint32_t left = n; left > 1; left--) { /* the least probable goes to the end */
        const uint32_t least = ids[0];
        ids[0] = ids[left - 1];
        sift_root(logits, ids, left - 1);
        ids[left - 1] = least;
    }
}
