/* core/engine/sampler.c: penalties and biases; and over a vocabulary in clusters it asks only for what a pick depends
 * on, and what it picks does not depend on what else is known; every way of picking against its definition. */
#include "core/engine/sampler.h"

#include <stdlib.h>

#include "core/base/base.h"
#include "core/base/rng.h"
#include "core/math/kern.h"
#include "tests/unit/answers.h"
#include "tests/unit/test.h"

enum { V = 30, TAILS = 2 };

static const struct deq_vocab vocab = {.size = V, .n_cutoffs = TAILS, .cutoffs = {5, 12}};

/* Log-probabilities of a random distribution, of sharpness `scale`, and of its clusters. */
static void draw(uint64_t seed, double scale, float *logits, float *tails)
{
    double x[V], total = 0;
    for (uint32_t i = 0; i < V; i++)
        total += x[i] = exp(scale * deq_rng_normal(seed, 0, i));
    for (unsigned c = 0; c <= TAILS; c++) {
        double mass = 0;
        for (uint32_t i = deq_cluster_begin(&vocab, c); i < deq_cluster_begin(&vocab, c + 1); i++) {
            logits[i] = (float)log(x[i] / total);
            mass += x[i];
        }
        if (c)
            tails[c - 1] = (float)log(mass / total);
    }
}

static float weights[V];
static struct deq_sample_scratch scratch = {.weights = weights};

/* As the engine does it: a cluster's logits appear only when they were asked for. */
static uint32_t pick(const struct deq_sampling *s, const float *all, const float *tails, uint32_t choice,
                     size_t position, unsigned *ret_asked)
{
    float seen[V];
    struct deq_tails t = {.vocab = &vocab, .logprob = tails};
    for (uint32_t i = 0; i < V; i++)
        seen[i] = i < deq_cluster_size(&vocab, 0) ? all[i] : NAN;
    for (unsigned asked = 0;; asked++) {
        uint32_t need = 0;
        const uint32_t id = deq_sample_clusters(s, &t, seen, choice, position, &scratch, &need);
        if (id != UINT32_MAX) {
            *ret_asked = asked;
            return id;
        }
        CHECK(need >= 1 && need <= TAILS && !(t.known >> need & 1));
        if (asked > TAILS)
            return UINT32_MAX;
        t.known |= 1u << need;
        for (uint32_t i = deq_cluster_begin(&vocab, need); i < deq_cluster_begin(&vocab, need + 1); i++)
            seen[i] = all[i];
    }
}

TEST(sampler_clusters_greedy)
{
    const struct deq_sampling s = {.top_p = 1};
    unsigned asked_all = 0, rounds = 3000;
    for (uint64_t seed = 0; seed < rounds; seed++) {
        float logits[V], tails[TAILS];
        unsigned asked = 0;
        draw(seed, 1 + (double)(seed % 5), logits, tails);
        CHECK(pick(&s, logits, tails, 0, 0, &asked) == deq_argmax(logits, V));
        /* as good as greedy: a word weighs nothing beside its cluster as a whole */
        const struct deq_sampling cold = {.temperature = 1e-3f, .top_p = 1, .seed = seed};
        unsigned of_cold = 0;
        CHECK(logits[pick(&cold, logits, tails, 0, 0, &of_cold)] > logits[deq_argmax(logits, V)] - 0.05f);
        asked_all += asked;
    }
    CHECK_MSG(asked_all > 0 && asked_all < 2 * rounds, "%u clusters for %u picks", asked_all, rounds);
}

TEST(sampler_clusters_whole)
{
    CHECK(!deq_sample_needs_full(&(struct deq_sampling){.top_p = 1}));
    CHECK(!deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1}));
    CHECK(!deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1, .top_k = 1}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 0.9f}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1, .top_k = 40}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1, .min_p = 0.1f}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.top_p = 1, .presence_penalty = 1}));
    CHECK(!deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 0}));
}

/* Each field alone: a pick is the argmax of the logits as they are, or of what a field made of them, or a draw. */
TEST(sampler_tells_an_argmax)
{
    static const struct deq_logit_bias bias = {1, 1};
    static const struct deq_sampling argmax[] = {{.top_p = 1},
                                                 {.temperature = 1, .top_p = 1, .top_k = 1},
                                                 {.temperature = 1, .top_p = 0},
                                                 {.temperature = 1e-40f, .top_p = 1}, /* 1/T is infinite */
                                                 {.top_p = 1, .repetition_penalty = 1}},
                                     drawn[] = {{.temperature = 1, .top_p = 1},
                                                {.temperature = 1, .top_p = 0.5f},
                                                {.temperature = 1, .top_p = 1, .top_k = 2}},
                                     adjusted[] = {{.bias = &bias, .n_bias = 1}, {.min_tokens = 1},
                                                   {.presence_penalty = 1},      {.frequency_penalty = 1},
                                                   {.repetition_penalty = 2},    {.repetition_penalty = 0.5f}};
    for (size_t i = 0; i < DEQ_COUNT(argmax); i++)
        CHECK_MSG(deq_sample_is_argmax(&argmax[i]) && !deq_sample_adjusts(&argmax[i]), "%zu", i);
    for (size_t i = 0; i < DEQ_COUNT(drawn); i++)
        CHECK_MSG(!deq_sample_is_argmax(&drawn[i]) && !deq_sample_adjusts(&drawn[i]), "%zu", i);
    for (size_t i = 0; i < DEQ_COUNT(adjusted); i++)
        CHECK_MSG(!deq_sample_is_argmax(&adjusted[i]) && deq_sample_adjusts(&adjusted[i]), "%zu", i);
}

TEST(sampler_adjusts_as_documented)
{
    enum { N = 6 };
    const float logits[N] = {1, 2, -1, 4, 5, 6};
    const uint32_t prompt[2] = {0, 5}, text[3] = {1, 1, 2}, guessed[1] = {3};
    uint32_t counts[N] = {0};
    float x[N];
    struct deq_sample_scratch room = {.adjusted = x, .counts = counts};
    struct deq_sample_history h = {
        .prompt = prompt, .n_prompt = 2, .text = text, .n_text = 3, .guessed = guessed, .n_guessed = 1, .eos_id = 4};
    const struct deq_logit_bias bias[3] = {{0, 0.5f}, {5, -100}, {4, 100}};
    struct deq_sampling s = {
        .presence_penalty = 0.25f, .frequency_penalty = 0.5f, .repetition_penalty = 2, .bias = bias, .n_bias = 1};
    deq_sample_adjust(&s, &h, logits, N, &room);
    /* bias; repetition on all that stands anywhere; then 0.5 * count + 0.25 on what was generated */
    const float want[N] = {0.75f, 1 - 1.25f, -2 - 0.75f, 2 - 0.75f, 5, 3};
    for (int i = 0; i < N; i++)
        CHECK_MSG(x[i] == want[i] && counts[i] == 0, "token %d: %g, expected %g", i, (double)x[i], (double)want[i]);
    s = (struct deq_sampling){.bias = bias, .n_bias = 3, .min_tokens = 4};
    deq_sample_adjust(&s, &h, logits, N, &room);
    CHECK(x[5] == -INFINITY && x[4] > 1000 && x[0] == 1.5f && x[1] == 2);
    s = (struct deq_sampling){.min_tokens = 5, .stop_ids = prompt, .n_stop_ids = 2};
    deq_sample_adjust(&s, &h, logits, N, &room);
    CHECK(x[4] == -INFINITY && x[0] == -INFINITY && x[5] == -INFINITY && x[1] == 2);
}

/* One field at a time, at the ends of what it says. */
TEST(sampler_adjusts_by_each_field)
{
    enum { N = 5 };
    static const struct deq_logit_bias bias[] = {{2, -99.5f}, {2, 99.5f}, {2, -100}, {2, 100}};
    static const struct {
        struct deq_sampling s;
        float want[N];
    } t[] = {{{.n_bias = 1, .bias = &bias[0]}, {0.5f, 2, -96.5f, -4, 5}},
             {{.n_bias = 1, .bias = &bias[1]}, {0.5f, 2, 102.5f, -4, 5}},
             {{.n_bias = 1, .bias = &bias[2]}, {0.5f, 2, -INFINITY, -4, 5}},
             {{.n_bias = 1, .bias = &bias[3]}, {0.5f, 2, 1e4f + 3, -4, 5}},
             {{.presence_penalty = 1}, {0.5f, 1, 3, -5, 5}},
             {{.frequency_penalty = 1}, {0.5f, 0, 3, -5, 5}},
             {{.repetition_penalty = 2}, {0.25f, 1, 3, -8, 5}},
             {{.repetition_penalty = 0.5f}, {1, 4, 3, -2, 5}},
             {{.repetition_penalty = 1}, {0.5f, 2, 3, -4, 5}},
             {{.min_tokens = 4}, {-INFINITY, 2, 3, -4, 5}}, /* 3 are there: id 0 ends the text */
             {{.min_tokens = 3}, {0.5f, 2, 3, -4, 5}}};
    const float logits[N] = {0.5f, 2, 3, -4, 5};
    const uint32_t prompt[1] = {0}, text[2] = {1, 1}, guessed[1] = {3};
    uint32_t counts[N] = {0};
    float x[N + 2] = {0};
    struct deq_sample_scratch room = {.adjusted = x + 1, .counts = counts};
    struct deq_sample_history h = {
        .prompt = prompt, .n_prompt = 1, .text = text, .n_text = 2, .guessed = guessed, .n_guessed = 1};
    for (size_t k = 0; k < DEQ_COUNT(t); k++) {
        deq_sample_adjust(&t[k].s, &h, logits, N, &room);
        for (size_t i = 0; i < N; i++)
            CHECK_MSG(x[1 + i] == t[k].want[i] && !counts[i], "%zu, token %zu: %g", k, i, (double)x[1 + i]);
    }
    h.eos_id = -1; /* a vocabulary without an end */
    deq_sample_adjust(&t[9].s, &h, logits, N, &room);
    CHECK(!memcmp(x + 1, logits, sizeof logits) && x[0] == 0 && x[N + 1] == 0);
}

static int by_rank(const void *a, const void *b)
{
    const struct deq_candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* top_k, top_p, min_p and the draw as they are defined: everything sorted, sums one word after the other. */
static uint32_t plain_sample(const struct deq_sampling *s, const float *logits, uint32_t n, uint32_t choice,
                             size_t position)
{
    enum { MOST_WORDS = 1000 };
    static float w[MOST_WORDS];
    static struct deq_candidate c[MOST_WORDS];
    uint32_t best = 0, left = 0, m = 0;
    float top = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        if (logits[i] > top)
            top = logits[best = i];
    if (!isfinite(top))
        return best;
    for (uint32_t i = 0; i < n; i++)
        w[i] = isfinite(logits[i]) ? (logits[i] - top) * (1.0f / s->temperature) : -INFINITY;
    (void)deq_kern_level("ref")->exp_sum(w, w, 0, n);
    double total = 0, kept = 0, sum = 0, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        total += (double)w[i];
        if (w[i] > 0)
            c[left++] = (struct deq_candidate){w[i], i};
    }
    if (s->top_k || s->top_p < 1)
        qsort(c, left, sizeof *c, by_rank);
    left = s->top_k ? DEQ_MIN(left, s->top_k) : left;
    for (uint32_t i = 0; i < left; i++)
        kept += (double)c[i].p;
    while (m < left && sum < (double)s->top_p * (s->top_k ? kept : total))
        sum += (double)c[m++].p;
    left = s->top_p < 1 ? DEQ_MAX(m, 1u) : left;
    sum = 0;
    for (uint32_t i = 0; i < left; i++)
        sum += c[i].p >= s->min_p ? (double)c[i].p : 0;
    for (uint32_t i = 0; i < left; i++) {
        at += c[i].p >= s->min_p ? (double)c[i].p : 0;
        if (deq_rng_uniform(s->seed, 1 + choice, position) * sum < at)
            return c[i].id;
    }
    return best;
}

TEST(sampler_picks_by_its_definition)
{
    static const uint32_t sizes[] = {1, 7, 63, 64, 65, 200, 1000};
    static const float top_p[] = {1, 0.9f, 0.3f, 1e-6f}, min_p[] = {0, 0.05f, 1}, temperature[] = {0.3f, 1, 7};
    static const uint32_t top_k[] = {0, 2, 40, 5000};
    static float logits[1000], w[1001];
    static struct deq_candidate room[1001];
    struct deq_sample_scratch own = {.candidates = room, .weights = w};
    unsigned differ = 0, not_best = 0;
    for (size_t round = 0; round < 7 * 4 * 3 * 3 * 4 * 3; round++) {
        const uint32_t n = sizes[round % 7];
        const struct deq_sampling s = {.temperature = temperature[round / 7 % 3],
                                       .top_p = top_p[round / 21 % 4],
                                       .min_p = min_p[round / 84 % 3],
                                       .top_k = top_k[round / 252 % 4],
                                       .seed = 5};
        for (uint32_t i = 0; i < n; i++) { /* every third round has many ties, and what is impossible */
            const double x = 3 * deq_rng_normal(6, round, i);
            logits[i] = round % 3 ? (float)x : i % 5 == 4 ? -INFINITY : i % 9 == 7 ? NAN : (float)nearbyint(x);
        }
        const uint32_t choice = round % 5, best = deq_argmax(logits, n);
        w[n] = room[n].p = 1e-3f; /* what is behind the arrays stays as it is */
        room[n].id = n;
        const uint32_t id = deq_sample(&s, logits, n, choice, round, &own);
        differ += w[n] != 1e-3f || room[n].p != 1e-3f || room[n].id != n;
        differ += id != plain_sample(&s, logits, n, choice, round);
        not_best += id != best;
        for (uint32_t i = 0; i < n; i++)
            differ += logits[i] > logits[best] || (i < best && logits[i] >= logits[best]);
    }
    CHECK_MSG(!differ && not_best > 500, "%u differ, %u are not the most probable", differ, not_best);
    for (uint32_t i = 0; i < 200; i++)
        logits[i] = i < 64 ? 1 : 2;
    CHECK_EQ(deq_argmax(logits, 200), 64u); /* of a block that is all the same, too */
    const float impossible[3] = {NAN, -INFINITY, -INFINITY};
    CHECK(deq_argmax(impossible, 3) == 0 && deq_argmax(impossible + 1, 2) == 0 && deq_argmax(logits, 0) == 0);
}

/* Shares that are met exactly: of n equal words top_p = k/n leaves the first k. A min_p that nothing has leaves the
 * most probable word. */
TEST(sampler_keeps_to_exact_shares)
{
    enum { N = 8 };
    const float equal[N] = {1, 1, 1, 1, 1, 1, 1, 1}, other[N] = {0, 1, 5, 2, 4, 3, 1, 0};
    float w[N];
    struct deq_candidate candidates[N];
    struct deq_sample_scratch own = {.candidates = candidates, .weights = w};
    for (uint32_t k = 1; k <= N; k++) {
        const struct deq_sampling s = {.temperature = 1, .top_p = (float)k / N, .seed = 3},
                                  of_top = {.temperature = 1, .top_p = 0.5f, .top_k = k, .seed = 3};
        uint32_t most = 0, most_of_top = 0;
        for (size_t at = 0; at < 200; at++) {
            most = DEQ_MAX(most, deq_sample(&s, equal, N, 0, at, &own));
            most_of_top = DEQ_MAX(most_of_top, deq_sample(&of_top, equal, N, 0, at, &own));
        }
        CHECK_EQ(most, k - 1);
        CHECK_EQ(most_of_top, (k + 1) / 2 - 1);
    }
    const struct deq_sampling all = {.temperature = 1, .top_p = 1, .min_p = 2},
                              some = {.temperature = 1, .top_p = 0.9f, .min_p = 2};
    for (size_t at = 0; at < 20; at++) {
        CHECK_EQ(deq_sample(&all, other, N, 0, at, &own), 2u);
        CHECK_EQ(deq_sample(&some, other, N, 0, at, &own), 2u);
    }
}

/* A cluster that is just as probable as the best word has no better one, and is not asked for; of words that are
 * equally probable the lowest id wins, whichever cluster it is in. */
TEST(sampler_clusters_that_tie)
{
    const struct deq_sampling s = {.top_p = 1};
    float logits[V];
    unsigned asked = 0;
    for (uint32_t i = 0; i < V; i++)
        logits[i] = -9;
    logits[3] = logits[7] = logits[20] = -1;
    CHECK_EQ(pick(&s, logits, (const float[TAILS]){-1, -1}, 0, 0, &asked), 3u);
    CHECK_EQ(asked, 0u);
    CHECK_EQ(pick(&s, logits, (const float[TAILS]){-0.9f, -0.9f}, 0, 0, &asked), 3u);
    CHECK_EQ(asked, 2u);
    logits[3] = -2;
    CHECK_EQ(pick(&s, logits, (const float[TAILS]){-0.9f, -0.9f}, 0, 0, &asked), 7u);
    CHECK_EQ(asked, 2u);
    CHECK_EQ(pick(&s, logits, (const float[TAILS]){-0.9f, -1}, 0, 0, &asked), 7u);
    CHECK_EQ(asked, 1u);
}

/* A draw is one number of the choice's stream, along the envelope's masses: the shortlist's words, then cluster after
 * cluster. What falls on a word is that word; what falls on none is drawn again, with the cluster's own mass. At low
 * temperatures it is the best word, wherever that is. */
TEST(sampler_clusters_draw_by_their_definition)
{
    static const float temperatures[] = {0.02f, 0.5f, 1, 2, 5};
    unsigned drawn = 0, again = 0;
    for (uint64_t round = 0; round < 5000; round++) {
        const struct deq_sampling s = {.temperature = temperatures[round % 5], .top_p = 1, .seed = round / 100};
        const double inv = 1 / (double)s.temperature;
        const uint32_t choice = round / 5 % 3;
        float logits[V], tails[TAILS];
        double top = -INFINITY, mass[TAILS + 1], own[TAILS + 1] = {0}, weight[V], near = INFINITY;
        unsigned asked = 0, c = 0;
        draw(round, 1.5, logits, tails);
        for (uint32_t i = 0; i < V; i++)
            top = fmax(top, (double)logits[i]);
        for (uint32_t i = 0; i < V; i++)
            own[deq_cluster_of(&vocab, i)] += weight[i] = exp(((double)logits[i] - top) * inv);
        for (c = 0; c <= TAILS; c++)
            mass[c] = c ? 1.0001 * exp(((double)tails[c - 1] - top) * inv) *
                              pow(deq_cluster_size(&vocab, c), fmax(0, 1 - inv))
                        : own[0];
        uint32_t want = V;
        for (uint64_t attempt = 0; want == V; attempt++) {
            const double total = mass[0] + mass[1] + mass[2];
            double x = total * deq_rng_uniform(s.seed, 1 + choice + (attempt << 32), round), at = 0;
            near = fmin(near, x / total);
            for (c = 0; c < TAILS && x >= mass[c]; c++)
                x -= mass[c];
            for (uint32_t i = deq_cluster_begin(&vocab, c); want == V && i < deq_cluster_begin(&vocab, c + 1); i++) {
                at += weight[i];
                near = fmin(near, fabs(x - at) / total);
                want = x < at ? i : V;
            }
            mass[c] = own[c];
            again += attempt == 1;
        }
        if (near < 1e-4) /* too near to a boundary for arithmetic in other steps */
            continue;
        drawn++;
        const uint32_t id = pick(&s, logits, tails, choice, round, &asked);
        CHECK_MSG(id == want && asked >= (c > 0), "round %d, T %g: %u, not %u; %u asked for", (int)round,
                  (double)s.temperature, id, want, asked);
    }
    CHECK_MSG(drawn > 4000 && again > 100, "%u, %u drawn again", drawn, again);
}

static float most[300];

static int by_logit(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return most[x] != most[y] ? (most[x] > most[y] ? -1 : 1) : x < y ? -1 : 1;
}

/* The most probable tokens are those that a sort would put first, ties too, however many are asked for. */
TEST(sampler_finds_the_most_probable)
{
    enum { N = DEQ_COUNT(most), GUARD = 12345 };
    static const uint32_t counts[] = {0, 1, 2, 3, 5, 20, 63, 64, 65, 200, N - 1, N, N + 1}, sizes[] = {1, 64, 65, N};
    uint32_t sorted[N], ids[N + 1];
    for (unsigned kind = 0; kind < 16; kind++) { /* ascending, descending, random with and almost without ties */
        const uint32_t n = sizes[kind / 4];
        for (uint32_t i = 0; i < n; i++) {
            sorted[i] = i;
            const uint32_t any = (uint32_t)deq_rng_below(7, kind, i, kind % 4 == 2 ? 9 : 1u << 20);
            most[i] = kind % 4 == 0 ? (float)i : kind % 4 == 1 ? -(float)i : (float)any;
        }
        qsort(sorted, n, sizeof *sorted, by_logit);
        for (size_t c = 0; c < DEQ_COUNT(counts); c++) {
            const uint32_t found = DEQ_MIN(counts[c], n);
            ids[found] = GUARD;
            deq_top_tokens(most, n, counts[c], ids);
            CHECK_MSG(!memcmp(ids, sorted, found * sizeof *ids) && ids[found] == GUARD, "kind %u, %u tokens of %u",
                      kind, counts[c], n);
        }
    }
}

TEST(sampler_log_probabilities)
{
    const float logits[4] = {3, 1, -INFINITY, 2};
    const double sum = exp(3) + exp(1) + exp(2);
    const struct deq_log_normaliser n = deq_log_normaliser(logits, 4);
    for (int i = 0; i < 4; i++)
        CHECK(i == 2 ? deq_logprob(&n, logits[i]) == -INFINITY
                     : fabs((double)deq_logprob(&n, logits[i]) - ((double)logits[i] - log(sum))) < 1e-6);
}

/* Penalties, bias and forbidden tokens look back at the text; whether a token of it is final or still a
 * guess makes no difference. */
TEST_EACH_KIND(engine_adjusted_sampling)
{
    struct deq_tokens p = encode_text(m, "ROMEO: ");
    struct answer x = {0};
    const struct deq_logit_bias bias[2] = {{300, 3.5f}, {101, -100}}, force = {77, 100};
    struct deq_engine *e = tiny_engine(m, 1, 1);
    REQUIRE(e);
    for (int kind = 0; kind < 6; kind++) {
        struct deq_request q = tiny_request(m, &p, 80, &x);
        struct answer base = {0};
        q.sampling.presence_penalty = kind == 0 ? 1.5f : 0;
        q.sampling.frequency_penalty = kind == 1 ? 0.7f : 0;
        q.sampling.repetition_penalty = kind == 2 ? 1.4f : 0;
        q.sampling.bias = kind == 3 ? bias : kind == 4 ? &force : NULL;
        q.sampling.n_bias = kind == 3 ? 2 : kind == 4 ? 1 : 0;
        if (kind == 5)
            q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 0.9f, .seed = 3, .presence_penalty = 0.5f,
                                               .frequency_penalty = 0.5f, .repetition_penalty = 1.1f, .bias = bias,
                                               .n_bias = 2};
        q.solve.tol = 1e-5f; /* so tight that no near-tie of two starts decides a pick */
        const struct deq_sampling adjusted = q.sampling;
        q.sampling = (struct deq_sampling){.temperature = adjusted.temperature, .top_p = adjusted.top_p,
                                           .seed = adjusted.seed};
        const struct answer plain = ask(e, &q, NULL);
        q.sampling = adjusted;
        for (uint32_t w = 1; w <= 16; w *= 4) {
            q.solve.window = w;
            const struct answer a = ask(e, &q, NULL);
            if (w == 1)
                base = a;
            CHECK_MSG(a.n == 80 && !memcmp(a.token, base.token, 80 * sizeof *a.token), "kind %d, window %u", kind, w);
        }
        CHECK_MSG(memcmp(base.token, plain.token, 80 * sizeof *base.token), "kind %d changes nothing", kind);
        for (size_t i = 0; i < base.n; i++)
            CHECK(kind == 3 ? base.token[i] != 101 : kind != 4 || base.token[i] == 77);
        if (kind == 0) { /* against its definition: the pick is the best of logits - 1.5 on what was said */
            size_t repeats = 0, plain_repeats = 0;
            for (size_t i = 0; i < 80; i++)
                for (size_t k = 0; k < i; k++) {
                    repeats += base.token[i] == base.token[k];
                    plain_repeats += plain.token[i] == plain.token[k];
                }
            CHECK(repeats < plain_repeats);
        }
    }
    struct deq_request q = tiny_request(m, &p, 40, &x);
    q.ignore_eos = false;
    const uint32_t first = ask(e, &q, NULL).token[0];
    q.sampling.stop_ids = &first;
    q.sampling.n_stop_ids = 1;
    q.sampling.min_tokens = 10;
    const struct answer a = ask(e, &q, NULL);
    for (size_t i = 0; i < 10; i++)
        CHECK(a.token[i] != first && a.token[i] != 0);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* At every temperature the picks are distributed as softmax(logits / T), whatever is known. */
TEST(sampler_clusters_distribution)
{
    static const float temperatures[] = {0.3f, 0.8f, 1.0f, 1.6f, 5.0f};
    enum { N = 60000 };
    for (size_t k = 0; k < DEQ_COUNT(temperatures); k++)
        for (uint64_t seed = 1; seed < 4; seed++) {
            const struct deq_sampling s = {.temperature = temperatures[k], .top_p = 1, .seed = seed};
            const struct deq_tails all = {.vocab = &vocab, .known = ~0u};
            float logits[V], tails[TAILS];
            double p[V], total = 0, chi = 0;
            uint32_t count[V] = {0};
            unsigned without = 0, differ = 0;
            int freedom = -1;
            draw(seed, 1.5, logits, tails);
            for (size_t i = 0; i < N; i++) {
                unsigned asked = 0;
                uint32_t need;
                struct deq_tails t = all;
                t.logprob = tails;
                const uint32_t id = pick(&s, logits, tails, 3, i, &asked);
                differ += id != deq_sample_clusters(&s, &t, logits, 3, i, &scratch, &need);
                without += !asked;
                count[DEQ_MIN(id, (uint32_t)V - 1)]++;
            }
            for (uint32_t i = 0; i < V; i++)
                total += p[i] = exp((double)logits[i] / (double)s.temperature);
            for (uint32_t i = 0; i < V; i++) {
                const double e = N * p[i] / total;
                if (e < 5) /* too rare for the statistic */
                    continue;
                chi += (count[i] - e) * (count[i] - e) / e;
                freedom++;
            }
            /* mean `freedom`, deviation sqrt(2 freedom): six of them are passed once in a billion */
            CHECK_MSG(!differ && chi < freedom + 6 * sqrt(2.0 * freedom) + 6,
                      "T %g: chi square %g of %d, %u picks depend on what is known", (double)s.temperature, chi,
                      freedom, differ);
            double shortlist = 0; /* at temperature 1 the envelope is the distribution: a cluster is asked for as
                                   * often as it is picked from */
            for (uint32_t i = 0; i < deq_cluster_size(&vocab, 0); i++)
                shortlist += p[i] / total;
            if (s.temperature == 1)
                CHECK_MSG(fabs(without - N * shortlist) < 6 * sqrt(N * 0.25),
                          "%u of %d picks from the shortlist alone, expected %g", without, N, N * shortlist);
        }
}

/* Of a vocabulary in clusters: what is drawn has the distribution p^(1/T), and does not depend on which clusters were
 * known before. Greedy: the argmax. */
TEST(sampler_clusters_are_the_whole_distribution)
{
    enum { WORDS = 60, DRAWS = 40000 };
    const struct deq_vocab voc = {.size = WORDS, .n_cutoffs = 3, .cutoffs = {6, 16, 40}};
    const uint32_t all = 14;
    float weight[WORDS];
    struct deq_sample_scratch room = {.weights = weight};
    for (unsigned round = 0; round < 8; round++) {
        float logits[WORDS], tail[3];
        double sum = 0, by[4] = {0};
        for (uint32_t i = 0; i < WORDS; i++) { /* log-probabilities, in rounds that differ in where the mass lies */
            const unsigned c = deq_cluster_of(&voc, i);
            logits[i] = 3 * (float)deq_rng_uniform(round, 9, i) + (c == round % 4 ? 2.0f : 0.0f);
            sum += exp((double)logits[i]);
        }
        for (uint32_t i = 0; i < WORDS; i++) {
            logits[i] -= (float)log(sum);
            by[deq_cluster_of(&voc, i)] += exp((double)logits[i]);
        }
        for (int c = 0; c < 3; c++)
            tail[c] = (float)log(by[c + 1]);
        const struct deq_tails whole = {.vocab = &voc, .logprob = tail, .known = all};
        for (int k = 0; k < 4; k++) {
            const struct deq_sampling s = {.temperature = (float[]){0, 0.5f, 1, 2}[k], .top_p = 1, .seed = round};
            const uint32_t n = s.temperature > 0 ? DRAWS : 1;
            uint32_t count[WORDS] = {0}, differ = 0, need = 0;
            for (uint32_t at = 0; at < n; at++) {
                const uint32_t token = deq_sample_clusters(&s, &whole, logits, 0, at, &room, &need);
                struct deq_tails t = {.vocab = &voc, .logprob = tail};
                float seen[WORDS]; /* what is not known stands there as something else */
                for (uint32_t i = 0; i < WORDS; i++)
                    seen[i] = i < 6 ? logits[i] : 50;
                uint32_t lazy = deq_sample_clusters(&s, &t, seen, 0, at, &room, &need);
                for (int guard = 0; lazy == UINT32_MAX && guard < 4; guard++) {
                    differ += need < 1 || need > 3 || t.known >> need & 1;
                    for (uint32_t i = deq_cluster_begin(&voc, need); i < deq_cluster_begin(&voc, need + 1); i++)
                        seen[i] = logits[i];
                    t.known |= 1u << need;
                    lazy = deq_sample_clusters(&s, &t, seen, 0, at, &room, &need);
                }
                differ += lazy != token;
                count[token < WORDS ? token : 0]++;
            }
            CHECK_MSG(!differ, "round %u, temperature %g: %u picks depend on what is known", round,
                      (double)s.temperature, differ);
            if (s.temperature <= 0) {
                CHECK(count[deq_argmax(logits, WORDS)] == 1);
                continue;
            }
            double total = 0, chi2 = 0;
            for (uint32_t i = 0; i < WORDS; i++)
                total += exp((double)logits[i] / (double)s.temperature);
            for (uint32_t i = 0; i < WORDS; i++) {
                const double expected = n * exp((double)logits[i] / (double)s.temperature) / total;
                chi2 += (count[i] - expected) * (count[i] - expected) / expected;
            }
            /* 59 degrees of freedom: 110 is passed once in 15,000 times, and the draws are fixed by their seed */
            CHECK_MSG(chi2 < 110, "round %u, temperature %g: chi-squared %g", round, (double)s.temperature, chi2);
        }
    }
}
