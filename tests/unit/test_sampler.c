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
        asked_all += asked;
    }
    CHECK_MSG(asked_all > 0 && asked_all < 2 * rounds, "%u clusters for %u picks", asked_all, rounds);
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

TEST(sampler_clusters_whole)
{
    CHECK(!deq_sample_needs_full(&(struct deq_sampling){.top_p = 1}));
    CHECK(!deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1}));
    CHECK(!deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1, .top_k = 1}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 0.9f}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1, .top_k = 40}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.temperature = 1, .top_p = 1, .min_p = 0.1f}));
    CHECK(deq_sample_needs_full(&(struct deq_sampling){.top_p = 1, .presence_penalty = 1}));
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

TEST(sampler_adjusts_as_documented)
{
    enum { N = 6 };
    const float logits[N] = {1, 2, -1, 4, 5, 6};
    const uint32_t prompt[2] = {0, 5}, text[3] = {1, 1, 2}, guessed[1] = {3};
    uint32_t counts[N] = {0};
    float x[N];
    struct deq_sample_scratch room = {.adjusted = x, .counts = counts};
    struct deq_sample_history h = {.prompt = prompt, .n_prompt = 2, .text = text, .n_text = 3, .guessed = guessed,
                                   .n_guessed = 1, .eos_id = 4};
    const struct deq_logit_bias bias[3] = {{0, 0.5f}, {5, -100}, {4, 100}};
    struct deq_sampling s = {.presence_penalty = 0.25f, .frequency_penalty = 0.5f, .repetition_penalty = 2,
                             .bias = bias, .n_bias = 1};
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
    CHECK(!deq_sample_adjusts(&(struct deq_sampling){.repetition_penalty = 1}) &&
          deq_sample_adjusts(&(struct deq_sampling){.min_tokens = 1}));
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

static int by_rank(const void *a, const void *b)
{
    const struct deq_candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* top_k, top_p, min_p and the draw as they are defined: everything sorted, sums one word after the other. */
static uint32_t plain_sample(const struct deq_sampling *s, const float *logits, uint32_t n, size_t position)
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
        if (deq_rng_uniform(s->seed, 1, position) * sum < at)
            return c[i].id;
    }
    return best;
}

TEST(sampler_picks_by_its_definition)
{
    static const uint32_t sizes[] = {1, 7, 63, 64, 65, 200, 1000};
    static const float top_p[] = {1, 0.9f, 0.3f, 1e-6f}, min_p[] = {0, 0.05f, 1}, temperature[] = {0.3f, 1, 7};
    static const uint32_t top_k[] = {0, 2, 40, 5000};
    static float logits[1000], w[1000];
    static struct deq_candidate room[1000];
    struct deq_sample_scratch own = {.candidates = room, .weights = w};
    unsigned differ = 0, not_best = 0;
    for (size_t round = 0; round < 7 * 4 * 3 * 3 * 4 * 3; round++) {
        const uint32_t n = sizes[round % 7];
        const struct deq_sampling s = {.temperature = temperature[round / 7 % 3], .top_p = top_p[round / 21 % 4],
                                       .min_p = min_p[round / 84 % 3], .top_k = top_k[round / 252 % 4], .seed = 5};
        for (uint32_t i = 0; i < n; i++) { /* every third round has many ties, and what is impossible */
            const double x = 3 * deq_rng_normal(6, round, i);
            logits[i] = round % 3 ? (float)x : i % 5 == 4 ? -INFINITY : i % 9 == 7 ? NAN : (float)nearbyint(x);
        }
        const uint32_t id = deq_sample(&s, logits, n, 0, round, &own), best = deq_argmax(logits, n);
        differ += id != plain_sample(&s, logits, n, round);
        not_best += id != best;
        for (uint32_t i = 0; i < n; i++)
            differ += logits[i] > logits[best] || (i < best && logits[i] >= logits[best]);
    }
    CHECK_MSG(!differ && not_best > 500, "%u differ, %u are not the most probable", differ, not_best);
    const float impossible[3] = {NAN, -INFINITY, -INFINITY};
    CHECK(deq_argmax(impossible, 3) == 0 && deq_argmax(impossible + 1, 2) == 0 && deq_argmax(logits, 0) == 0);
}
