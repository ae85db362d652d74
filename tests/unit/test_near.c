/* core/cell/near.c: what it tells is the pick of the whole product, from logits of a state near as from those of the
 * head in bytes, and it tells most of what it could. */
#include "core/cell/near.h"

#include <math.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/half.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

enum { WORDS = 1000, OUT = 72 };

struct bench {
    float w[WORDS * OUT], bias[WORDS], logits[WORDS], after[WORDS];
    struct deq_vocabulary v;
    struct deq_near near;
    struct deq_pool *pool;
    void *memory;
};

static void open_near(struct bench *b, enum deq_format format)
{
    struct deq_layout l = {0};
    REQUIRE(!deq_pool_new(2, &b->pool, NULL));
    const enum deq_class c = deq_format_is_int(format) ? DEQ_CLASS_INT16 : DEQ_CLASS_FLOAT32;
    REQUIRE(!deq_pack(b->w, WORDS, OUT, format, &b->v.packed.head[0], NULL));
    REQUIRE(!deq_pack(b->w, WORDS, OUT, DEQ_FORMAT_I8, &b->v.packed.rounded, NULL));
    deq_near_lay_out(&b->near, &b->v.shape, c, 1, 2, &l);
    b->memory = deq_alloc(l.bytes);
    REQUIRE(b->memory);
    l = (struct deq_layout){.base = b->memory};
    deq_near_lay_out(&b->near, &b->v.shape, c, 1, 2, &l);
    deq_near_init(&b->near, &b->v, b->pool);
}

static void close_near(struct bench *b)
{
    deq_packed_free(&b->v.packed.head[0]);
    deq_packed_free(&b->v.packed.rounded);
    deq_pool_free(b->pool);
    deq_free(b->memory);
}

static void product(const struct bench *b, const float *x, float *logits)
{
    const struct deq_packed *w = &b->v.packed.head[0];
    char *prepared = b->near.thread[0].operand;
    deq_prepare(w->format, x, OUT, prepared, 0);
    const struct deq_operand in = deq_operand(w->format, x, OUT, prepared, OUT);
    deq_multiply(&in, 1, w, logits, WORDS, 0, 1, NULL, NULL);
    if (b->v.head_bias)
        deq_kern()->add(logits, logits, b->v.head_bias, WORDS);
}

static uint32_t lowest_best(const float *x)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < WORDS; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* What it tells of a step of `size` from a state, against the product; returns 1 when it tells nothing. */
static unsigned try_step(struct bench *b, uint64_t seed, float size, const float *towards, bool rounded,
                         unsigned *wrong)
{
    float *const x = b->near.thread[0].x, *const before = b->near.thread[0].before, *const to = b->logits;
    for (size_t k = 0; k < OUT; k++) {
        before[k] = (float)deq_rng_normal(seed, 1, k);
        x[k] = before[k] + size * (towards ? towards[k] : (float)deq_rng_normal(seed, 2, k));
    }
    if (rounded)
        CHECK(deq_near_screen(&b->near, 1, before, &to));
    else
        product(b, before, b->logits);
    product(b, x, b->after);
    const uint32_t likely[] = {lowest_best(b->logits), UINT32_MAX, (uint32_t)(seed % WORDS)};
    const struct deq_known known = {.logits = b->logits, .rounded = rounded, .likely = likely[seed % 3]};
    const uint32_t told = deq_near_best(&b->near, 0, &known);
    *wrong += told != UINT32_MAX && told != lowest_best(b->after);
    return told == UINT32_MAX && seed % 3 < 2; /* a word out of nowhere may well be too poor a start */
}

TEST(near_tells_the_pick_of_the_product)
{
    static struct bench b;
    static const float steps[] = {0, 1e-6f, 1e-3f, 0.02f, 0.1f, 1};
    for (int format = 0; format < DEQ_FORMAT_COUNT; format++)
        for (int biased = 0; biased < 2; biased++) {
            b.v = (struct deq_vocabulary){.shape = {.size = WORDS, .d_model = OUT, .head_bias = biased},
                                          .head_bias = biased ? b.bias : NULL};
            for (size_t i = 0; i < WORDS; i++) {
                /* words of very different lengths; every seventh is another's twin, or its neighbour by one unit in
                 * the last place: ties, and what only rounding decides */
                const float scale = i % 5 ? 1 : 3;
                for (size_t k = 0; k < OUT; k++) {
                    float x = scale * (float)deq_rng_normal(7, i, k);
                    x = i % 7 == 6 ? b.w[(i - 6) * OUT + k] : x;
                    x = deq_bf16_to_f32(deq_f32_to_bf16(x));
                    b.w[i * OUT + k] = i % 14 == 13 && k == i % OUT && format != DEQ_FORMAT_BF16 ? nextafterf(x, 9) : x;
                }
                b.bias[i] = i % 7 == 6 ? b.bias[i - 6] : (float)deq_rng_normal(7, 2000, i);
            }
            open_near(&b, (enum deq_format)format);
            for (int rounded = 0; rounded < 2; rounded++) {
                unsigned silent[DEQ_COUNT(steps)] = {0}, wrong = 0, moved = 0;
                for (uint64_t seed = 0; seed < 60; seed++)
                    for (size_t k = 0; k < DEQ_COUNT(steps); k++) {
                        silent[k] += try_step(&b, seed, steps[k], NULL, rounded, &wrong);
                        moved += lowest_best(b.logits) != lowest_best(b.after);
                    }
                /* straight at a word that is not the best: the one that moves as far as the bound allows */
                for (uint64_t seed = 0; seed < 60; seed++)
                    for (size_t word = 5; word < 100; word += 17)
                        (void)try_step(&b, seed, 0.02f + 0.002f * (float)seed, b.w + word * OUT, rounded, &wrong);
                CHECK_MSG(!wrong && moved > 20, "format %d, %d: %u picks are not the product's, %u moved", format,
                          rounded, wrong, moved);
                CHECK_MSG(!silent[0] && !silent[1] && !silent[2] && silent[3] < 10 && silent[5] == 40,
                          "format %d, %d: silent after steps %u %u %u %u %u %u of 40", format, rounded, silent[0],
                          silent[1], silent[2], silent[3], silent[4], silent[5]);
            }
            close_near(&b);
        }
}

/* Where the bound is reached exactly, and beyond what floats hold. */
TEST(near_bound_is_kept_where_it_is_tight)
{
    static struct bench b;
    unsigned wrong = 0;
    b.v = (struct deq_vocabulary){.shape = {.size = WORDS, .d_model = OUT}};
    for (size_t i = 0; i < WORDS; i++)
        for (size_t k = 0; k < OUT; k++)
            b.w[i * OUT + k] = i == 700 ? 1 : i == 40 ? (k == 0 ? 0.5f : 0) : 0.001f;
    open_near(&b, DEQ_FORMAT_F32);
    float *const x = b.near.thread[0].x, *const before = b.near.thread[0].before;
    for (int step = -20; step <= 20; step++) {
        /* word 40 leads by 1; the step is along word 700, which gains |w| |step| in full and overtakes at step 0 */
        for (size_t k = 0; k < OUT; k++) {
            before[k] = k ? 0 : 2;
            x[k] = before[k] + (-1.0f / (OUT - 0.5f)) * (1 + (float)step * 0x1p-22f);
        }
        for (int back = 0; back < 2; back++) {
            for (size_t k = 0; back && k < OUT; k++)
                x[k] = before[k] - (x[k] - before[k]);
            product(&b, before, b.logits);
            product(&b, x, b.after);
            const struct deq_known known = {.logits = b.logits, .likely = lowest_best(b.logits)};
            const uint32_t told = deq_near_best(&b.near, 0, &known);
            wrong += told != lowest_best(b.after);
        }
    }
    CHECK_MSG(!wrong, "%u picks are not the product's", wrong);
    for (size_t k = 0; k < OUT; k++)
        x[k] = before[k] = 1e38f;
    const struct deq_known known = {.logits = b.logits};
    CHECK(deq_near_best(&b.near, 0, &known) == UINT32_MAX);
    x[3] = NAN;
    CHECK(deq_near_best(&b.near, 0, &known) == UINT32_MAX);
    close_near(&b);
}

/* Bytes that round one word down and another up, all the way where the state is large. */
TEST(near_bound_of_a_head_in_bytes)
{
    static struct bench b;
    b.v = (struct deq_vocabulary){.shape = {.size = WORDS, .d_model = OUT}};
    for (size_t i = 0; i < WORDS; i++)
        for (size_t k = 0; k < OUT; k++)
            b.w[i * OUT + k] = !k ? 127 : i == 700 ? 10.49f : i == 40 ? 9.52f + (float)(k % 2) : 1;
    open_near(&b, DEQ_FORMAT_F32);
    float *const x = b.near.thread[0].x, *const before = b.near.thread[0].before, *const to = b.logits;
    for (size_t k = 0; k < OUT; k++)
        x[k] = before[k] = k ? 1 : 0;
    CHECK(deq_near_screen(&b.near, 1, x, &to));
    product(&b, x, b.after);
    CHECK(lowest_best(b.after) == 700 && lowest_best(b.logits) == 40);
    const struct deq_known known = {.logits = b.logits, .rounded = true, .likely = 40};
    CHECK(deq_near_best(&b.near, 0, &known) == 700);
    close_near(&b);
}

/* Two words that only rounding tells apart: a step far smaller than what is rounded may turn them. */
TEST(near_bound_of_what_is_rounded)
{
    static struct bench b;
    unsigned wrong = 0, turned = 0;
    for (int format = 0; format < DEQ_FORMAT_COUNT; format++)
        for (uint64_t seed = 0; seed < 60; seed++) {
            float at[OUT];
            double along = 0, square = 0;
            b.v = (struct deq_vocabulary){.shape = {.size = WORDS, .d_model = OUT}};
            memset(b.w, 0, sizeof b.w);
            for (size_t k = 0; k < OUT; k++) {
                at[k] = (float)deq_rng_normal(seed, 1, k);
                b.w[40 * OUT + k] = at[k] + 0.3f * (float)deq_rng_normal(seed, 2, k);
                b.w[700 * OUT + k] = b.w[40 * OUT + k] + 0.3f * (float)deq_rng_normal(seed, 3, k);
                along += (double)(b.w[700 * OUT + k] - b.w[40 * OUT + k]) * (double)at[k];
                square += (double)at[k] * (double)at[k];
            }
            for (size_t k = 0; k < OUT; k++) /* the same logit */
                b.w[700 * OUT + k] -= (float)(along / square * (double)at[k]);
            for (size_t k = 0; k < WORDS * OUT && format == DEQ_FORMAT_BF16; k++)
                b.w[k] = deq_bf16_to_f32(deq_f32_to_bf16(b.w[k]));
            open_near(&b, (enum deq_format)format);
            float *const x = b.near.thread[0].x, *const before = b.near.thread[0].before;
            memcpy(before, at, sizeof at);
            for (size_t k = 0; k < OUT; k++)
                x[k] = at[k] * (1 + (float)(k % 3) * 0x1p-23f);
            product(&b, before, b.logits);
            product(&b, x, b.after);
            const struct deq_known known = {.logits = b.logits, .likely = lowest_best(b.logits)};
            wrong += deq_near_best(&b.near, 0, &known) != lowest_best(b.after);
            turned += lowest_best(b.after) != lowest_best(b.logits);
            close_near(&b);
        }
    CHECK_MSG(!wrong && turned > 5, "%u picks are not the product's, %u turned", wrong, turned);
}

/* Lengths and errors, on the pool's threads: to the 1 % that bounds allow for, and of words whose squares no float
 * holds not too little. */
TEST(near_lengths)
{
    static struct bench b;
    float word[OUT], bytes[OUT];
    b.v = (struct deq_vocabulary){.shape = {.size = WORDS, .d_model = OUT}};
    for (size_t i = 0; i < WORDS; i++)
        for (size_t k = 0; k < OUT; k++)
            b.w[i * OUT + k] = (i % 3 ? 1 : 1e-22f) * (float)deq_rng_normal(9, i, k);
    open_near(&b, DEQ_FORMAT_F32);
    for (size_t i = 0; i < WORDS; i++) {
        double length = 0, error = 0;
        deq_packed_row(&b.v.packed.head[0], i, word);
        deq_packed_row(&b.v.packed.rounded, i, bytes);
        for (size_t k = 0; k < OUT; k++) {
            length += (double)word[k] * (double)word[k];
            error += ((double)word[k] - (double)bytes[k]) * ((double)word[k] - (double)bytes[k]);
        }
        const double got[] = {(double)b.near.length[i], (double)b.near.error[i]}, want[] = {sqrt(length), sqrt(error)};
        for (size_t j = 0; j < 2; j++)
            CHECK_MSG(got[j] >= 0.995 * want[j] && got[j] <= 1.005 * want[j] + 1e-17, "word %zu: %g of %g", i, got[j],
                      want[j]);
    }
    CHECK(b.near.longest > 0 && isfinite(b.near.longest));
    close_near(&b);
}
