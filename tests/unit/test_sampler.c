/* The sampler over a vocabulary in clusters: it asks only for what a pick depends on, and what it picks does not depend on what else is known. */
#include "core/engine/sampler.h"

#include "core/base/base.h"
#include "core/base/rng.h"
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
static uint32_t ask(const struct deq_sampling *s, const float *all, const float *tails, uint32_t choice, size_t position, unsigned *ret_asked)
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
        CHECK(ask(&s, logits, tails, 0, 0, &asked) == deq_argmax(logits, V));
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
                const uint32_t id = ask(&s, logits, tails, 3, i, &asked);
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
            CHECK_MSG(!differ && chi < freedom + 6 * sqrt(2.0 * freedom) + 6, "T %g: chi square %g of %d, %u picks depend on what is known",
                      (double)s.temperature, chi, freedom, differ);
            double shortlist = 0; /* at temperature 1 the envelope is the distribution: a cluster is asked for as often as it is picked from */
            for (uint32_t i = 0; i < deq_cluster_size(&vocab, 0); i++)
                shortlist += p[i] / total;
            if (s.temperature == 1)
                CHECK_MSG(fabs(without - N * shortlist) < 6 * sqrt(N * 0.25), "%u of %d picks from the shortlist alone, expected %g", without, N, N * shortlist);
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
