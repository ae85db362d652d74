/* core/math/gemm.c, the exact path of matrix products: bits that depend on the row and the weights alone. */
#include "core/math/gemm.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/half.h"
#include "core/math/kern.h"
#include "tests/unit/levels.h"
#include "tests/unit/test.h"

static const float SENTINEL = -777.25f;

static float *floats(size_t n, uint64_t stream)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    for (size_t i = 0; p && i < n; i++)
        p[i] = stream ? (float)deq_rng_normal(21, stream, i) : SENTINEL;
    return p;
}

static void round_bf16(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = deq_bf16_to_f32(deq_f32_to_bf16(x[i]));
}

static bool same(const float *a, const float *b, size_t n)
{
    return !n || !memcmp(a, b, n * sizeof *a);
}

static const enum deq_format formats[] = {DEQ_FORMAT_F32, DEQ_FORMAT_BF16, DEQ_FORMAT_I16, DEQ_FORMAT_I8};
static const char *const format_names[] = {"f32", "bf16", "i16", "i8"};

/* The operand of x, and in *ret_prepared what it may point to. */
static struct deq_operand prepare(const float *x, size_t ldx, size_t m, const struct deq_packed *w, void **ret_prepared)
{
    *ret_prepared = malloc(m * deq_prepared_bytes(w->format, w->k) + 1);
    for (size_t i = 0; i < m; i++)
        deq_prepare(w->format, x + i * ldx, w->k, *ret_prepared, i);
    return deq_operand(w->format, x, ldx, *ret_prepared, w->k);
}

static void gemm(const float *x, size_t ldx, size_t m, const struct deq_packed *w, float *y, size_t ldy,
                 unsigned threads)
{
    void *prepared;
    const struct deq_operand in = prepare(x, ldx, m, w, &prepared);
    for (unsigned t = threads; t-- > 0;) /* backwards: the order of the parts must not matter */
        deq_multiply(&in, m, w, y, ldy, t, threads, NULL, NULL);
    free(prepared);
}

/* How far from the product in double an output may be. Floats: K fused additions, each rounded once, at most K
 * half-ulps of the sum of sizes. Integers: half a step of each factor, times the other. */
static double bound(enum deq_format f, const float *x, const float *w, size_t k)
{
    double size = 0, sum_x = 0, sum_w = 0, top_x = 0, top_w = 0;
    for (size_t i = 0; i < k; i++) {
        const double a = fabs((double)x[i]), b = fabs((double)w[i]);
        size += a * b;
        sum_x += a;
        sum_w += b;
        top_x = fmax(top_x, a);
        top_w = fmax(top_w, b);
    }
    if (!deq_format_is_int(f))
        return (double)k * 0x1p-24 * size * 1.01 + 1e-30;
    const double step_x = top_x / DEQ_INT_TOP, step_w = top_w / (f == DEQ_FORMAT_I16 ? DEQ_INT_TOP : 127);
    return 0.5001 * (step_x * sum_w + step_w * sum_x) + (double)k * step_x * step_w + 1e-6 * size + 1e-30;
}

TEST(gemm_exact_against_double_and_levels)
{
    static const size_t ns[] = {1, 15, 17, 33, 63, 64, 65, 100, 129, 200}, ks[] = {1, 3, 31, 64, 77, 257, 513, 1100};
    enum { M = 7, PAD = 3 };
    const struct deq_kern *before = deq_kern();
    find_levels();
    for (size_t in = 0; in < DEQ_COUNT(ns); in++)
        for (size_t ik = 0; ik < DEQ_COUNT(ks); ik++)
            for (size_t f = 0; f < DEQ_COUNT(formats); f++) {
                const size_t N = ns[in], K = ks[ik], ldx = K + PAD, ldy = N + PAD;
                float *x = floats(M * ldx, 1), *w = floats(N * K, 2), *first = floats(M * ldy, 0);
                struct deq_packed p = {0};
                if (formats[f] == DEQ_FORMAT_BF16)
                    round_bf16(w, N * K);
                CHECK(!deq_pack(w, N, K, formats[f], &p, NULL) && p.n == N && p.k == K && p.format == formats[f]);
                for (int l = 0; l < LEVELS; l++) {
                    if (!force_level(l)) {
                        if (!in && !ik && !f)
                            SKIP_PART("this machine lacks %s", level_names[l]);
                        continue;
                    }
                    float *y = floats(M * ldy, 0);
                    gemm(x, ldx, M, &p, l ? y : first, ldy, 1);
                    CHECK_MSG(!l || same(y, first, M * ldy), "%s N=%zu K=%zu %s", level_names[l], N, K,
                              format_names[f]);
                    free(y);
                }
                for (size_t m = 0; m < M; m++) {
                    double worst = 0;
                    for (size_t n = 0; n < N; n++) {
                        double s = 0;
                        for (size_t k = 0; k < K; k++)
                            s += (double)x[m * ldx + k] * (double)w[n * K + k];
                        const double e = fabs((double)first[m * ldy + n] - s) /
                                         bound(formats[f], x + m * ldx, w + n * K, K);
                        worst = e <= worst ? worst : e;
                    }
                    CHECK_MSG(worst <= 1, "%s N=%zu K=%zu row %zu: %g times the bound", format_names[f], N, K, m,
                              worst);
                    for (size_t n = N; n < ldy; n++)
                        CHECK(first[m * ldy + n] == SENTINEL);
                }
                deq_packed_free(&p);
                CHECK(!p.data && !p.n);
                free(x);
                free(w);
                free(first);
            }
    deq_kern_use(before);
}

/* bf16 numbers are widened exactly. */
TEST(gemm_bf16_is_f32)
{
    enum { N = 100, K = 300, M = 5 };
    float *x = floats((size_t)M * K, 1), *w = floats((size_t)N * K, 2), *a = floats((size_t)M * N, 0),
          *b = floats((size_t)M * N, 0);
    struct deq_packed half, wide;
    round_bf16(w, (size_t)N * K);
    REQUIRE(!deq_pack(w, N, K, DEQ_FORMAT_BF16, &half, NULL) && !deq_pack(w, N, K, DEQ_FORMAT_F32, &wide, NULL));
    CHECK(deq_packed_bytes(&half) == 128 * K * 2 && deq_packed_bytes(&wide) == 128 * K * 4);
    gemm(x, K, M, &half, a, N, 1);
    gemm(x, K, M, &wide, b, N, 1);
    CHECK(same(a, b, (size_t)M * N));
    deq_packed_free(&half);
    deq_packed_free(&wide);
    free(x);
    free(w);
    free(a);
    free(b);
}

/* The largest sums that there are, at a depth of many blocks: every partial sum stays in its integer's range. */
TEST(gemm_integers_at_their_limits)
{
    enum { N = 33, K = 5000, M = 4 };
    const struct deq_kern *before = deq_kern();
    find_levels();
    float *x = floats((size_t)M * K, 0), *w = floats((size_t)N * K, 0), y[M * N];
    for (size_t i = 0; i < (size_t)M * K; i++)
        x[i] = i / K == 1 && i % 2 ? -3 : 3;
    for (size_t i = 0; i < (size_t)N * K; i++)
        w[i] = i / K == 2 ? 0 : i / K == 3 ? -2 : i / K % 5 == 4 && i % 2 ? -2 : 2;
    w[5 * K + 7] = 2 * 127.9f / 127; /* bytes of all kinds below the largest */
    for (size_t f = 2; f < DEQ_COUNT(formats); f++)
        for (int l = 0; l < LEVELS; l++) {
            struct deq_packed p;
            if (!force_level(l))
                continue;
            REQUIRE(!deq_pack(w, N, K, formats[f], &p, NULL));
            gemm(x, K, M, &p, y, N, 1);
            for (size_t m = 0; m < M; m++)
                for (size_t n = 0; n < N; n++) {
                    double s = 0;
                    for (size_t k = 0; k < K; k++)
                        s += (double)x[m * K + k] * (double)w[n * K + k];
                    CHECK_MSG(fabs((double)y[m * N + n] - s) <= bound(formats[f], x + m * K, w + n * K, K),
                              "%s %s [%zu, %zu]: %g, not %g", level_names[l], format_names[f], m, n,
                              (double)y[m * N + n], s);
                }
            deq_packed_free(&p);
        }
    deq_kern_use(before);
    free(x);
    free(w);
}

/* What a row is rounded to: zeros stay zero, a row that is not finite shows in every product of its own alone. */
TEST(gemm_integers_of_odd_rows)
{
    enum { N = 40, K = 70, M = 5 };
    float *x = floats((size_t)M * K, 3), *w = floats((size_t)N * K, 4), *y = floats((size_t)M * N, 0), want[N];
    struct deq_packed p;
    memset(x, 0, sizeof *x * K);
    x[K + 5] = NAN;
    x[2 * K + 69] = -INFINITY;
    for (size_t k = 0; k < K; k++)
        x[3 * K + k] = 1e-38f; /* its scale would not be a float */
    memset(w + 7 * K, 0, sizeof *w * K);
    REQUIRE(!deq_pack(w, N, K, DEQ_FORMAT_I8, &p, NULL));
    gemm(x, K, M, &p, y, N, 1);
    gemm(x + 4 * K, K, 1, &p, want, N, 1);
    bool ok = same(y + 4 * N, want, N) && want[7] == 0 && want[8] != 0;
    for (size_t n = 0; n < N; n++)
        ok = ok && y[n] == 0 && isnan(y[N + n]) && isnan(y[2 * N + n]) && y[3 * N + n] == 0;
    CHECK(ok);
    deq_packed_free(&p);
    free(x);
    free(w);
    free(y);
}

TEST(gemm_exact_row_does_not_know_its_company)
{
    enum { N = 199, K = 45, M = 110 };
    const struct deq_kern *before = deq_kern();
    find_levels();
    float *x = floats((size_t)M * K, 3), *w = floats((size_t)N * K, 4), *alone = floats((size_t)M * N, 0),
          *y = floats((size_t)M * N, 0), *mixed = floats((size_t)M * K, 0);
    round_bf16(w, (size_t)N * K);
    for (size_t f = 0; f < DEQ_COUNT(formats); f++) {
        struct deq_packed p;
        CHECK(!deq_pack(w, N, K, formats[f], &p, NULL));
        (void)force_level(0);
        for (size_t m = 0; m < M; m++) /* the truth: every row by itself, at the reference level */
            gemm(x + m * K, K, 1, &p, alone + m * N, N, 1);
        for (int l = 0; l < LEVELS; l++) {
            if (!force_level(l))
                continue;
            for (size_t m = 1; m <= M; m += m < 40 ? 1 : 7)
                for (unsigned threads = 1; threads <= 8; threads = threads == 3 ? 8 : threads + 1) {
                    if (slow_level(l) && m % 9 != 1)
                        continue;
                    memset(y, 0xff, sizeof *y * M * N);
                    gemm(x, K, m, &p, y, N, threads);
                    CHECK_MSG(same(y, alone, m * N), "%s %s M=%zu threads=%u", level_names[l], format_names[f], m,
                              threads);
                }
            /* the same rows at other slots, among rows that are NaN */
            for (size_t shift = 1; shift < M; shift += 19) {
                for (size_t m = 0; m < M; m++)
                    for (size_t k = 0; k < K; k++)
                        mixed[(m + shift) % M * K + k] = m % 5 == 4 ? NAN : x[m * K + k];
                gemm(mixed, K, M, &p, y, N, 2);
                bool ok = true;
                for (size_t m = 0; m < M; m++)
                    ok = ok &&
                         (m % 5 == 4 ? isnan(y[(m + shift) % M * N]) : same(y + (m + shift) % M * N, alone + m * N, N));
                CHECK_MSG(ok, "%s %s shift %zu", level_names[l], format_names[f], shift);
            }
        }
        deq_packed_free(&p);
    }
    deq_kern_use(before);
    free(x);
    free(w);
    free(alone);
    free(y);
    free(mixed);
}

struct job {
    const struct deq_operand *x;
    const struct deq_packed *w;
    float *y;
    size_t m;
};

static void run_job(void *ctx, unsigned thread, unsigned n_threads)
{
    struct job *j = ctx;
    deq_multiply(j->x, j->m, j->w, j->y, j->w->n, thread, n_threads, NULL, NULL);
}

TEST(gemm_exact_on_real_threads)
{
    enum { N = 1000, K = 33, M = 5 };
    float *x = floats((size_t)M * K, 5), *w = floats((size_t)N * K, 6), *want = floats((size_t)M * N, 0),
          *y = floats((size_t)M * N, 0);
    struct deq_packed p;
    CHECK(!deq_pack(w, N, K, DEQ_FORMAT_F32, &p, NULL));
    const struct deq_operand in = deq_operand(DEQ_FORMAT_F32, x, K, NULL, K);
    gemm(x, K, M, &p, want, N, 1);
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct deq_pool *pool = NULL;
        CHECK(!deq_pool_new(threads, &pool, NULL));
        for (int run = 0; pool && run < 20; run++) {
            memset(y, 0xff, sizeof *y * M * N);
            deq_pool_run(pool, run_job, &(struct job){&in, &p, y, M});
            CHECK_MSG(same(y, want, (size_t)M * N), "%u threads", threads);
        }
        deq_pool_free(pool);
    }
    /* more threads than panels: some have nothing to do, none does another's part */
    float *part = floats((size_t)M * N, 0);
    for (unsigned t = 0; t < 40; t++) {
        memcpy(y, part, sizeof *y * M * N);
        deq_multiply(&in, M, &p, part, N, t, 40, NULL, NULL);
        for (size_t i = 0; i < (size_t)M * N; i++)
            if (y[i] != SENTINEL && memcmp(&y[i], &part[i], sizeof *y)) {
                CHECK_MSG(false, "thread %u wrote what another had written", t);
                break;
            }
    }
    CHECK(same(part, want, (size_t)M * N));
    free(part);
    deq_packed_free(&p);
    free(x);
    free(w);
    free(want);
    free(y);
}

/* Rows that go to scattered places, and rows read back out of a packed matrix. */
TEST(gemm_rows_anywhere)
{
    enum { M = 7, N = 131, K = 45 };
    float w[N * K], x[M * K], y[M * N], z[4 * M * N], row[K];
    float *to[M];
    static const size_t place[M] = {3, 4, 5, 20, 9, 8, 7}; /* even steps up, a jump, steps down */
    for (size_t i = 0; i < N * K; i++)
        w[i] = deq_bf16_to_f32(deq_f32_to_bf16((float)deq_rng_normal(5, 1, i)));
    for (size_t i = 0; i < M * K; i++)
        x[i] = (float)deq_rng_normal(5, 2, i);
    for (size_t f = 0; f < DEQ_COUNT(formats); f++) {
        struct deq_packed p;
        void *prepared;
        CHECK(deq_pack(w, N, K, formats[f], &p, NULL) == DEQ_OK);
        gemm(x, K, M, &p, y, N, 1);
        for (size_t i = 0; i < 4 * M * N; i++)
            z[i] = -7;
        for (size_t i = 0; i < M; i++)
            to[i] = z + place[i] * N;
        const struct deq_operand in = prepare(x, K, M, &p, &prepared);
        for (unsigned t = 0; t < 3; t++)
            deq_multiply_to(&in, M, &p, to, t, 3);
        free(prepared);
        size_t untouched = 0;
        for (size_t i = 0; i < M; i++)
            CHECK(!memcmp(to[i], y + i * N, N * sizeof(float)));
        for (size_t i = 0; i < 4 * M * N; i++)
            untouched += z[i] == -7;
        CHECK(untouched == 3 * M * N);
        for (size_t n = 0; n < N; n += 13) {
            deq_packed_row(&p, n, row);
            bool ok = true;
            float top = 0;
            for (size_t k = 0; k < K; k++)
                top = fmaxf(top, fabsf(w[n * K + k]));
            const float step = f < 2 ? 0 : top / (formats[f] == DEQ_FORMAT_I16 ? DEQ_INT_TOP : 127);
            for (size_t k = 0; k < K; k++)
                ok = ok && fabsf(row[k] - w[n * K + k]) <= 0.5001f * step + (f < 2 ? 0 : 1e-6f * top);
            CHECK_MSG(ok, "%s row %zu", format_names[f], n);
        }
        deq_packed_free(&p);
    }
}

struct seen {
    float *y;
    size_t cells[300];
};

static void see(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    struct seen *s = ctx;
    for (size_t i = 0; i < n; i++)
        s->cells[row * 100 + col + i] += y == s->y + row * 100 + col && y[i] != SENTINEL;
}

/* What is to be done with outputs is done once with each, when it is there. */
TEST(gemm_then_sees_every_output_once)
{
    enum { M = 3, N = 100, K = 20 };
    float *x = floats((size_t)M * K, 3), *w = floats((size_t)N * K, 4), *y = floats((size_t)M * N, 0);
    struct deq_packed p;
    REQUIRE(!deq_pack(w, N, K, DEQ_FORMAT_F32, &p, NULL));
    const struct deq_operand in = deq_operand(p.format, x, K, NULL, K);
    struct seen seen = {.y = y};
    bool once = true;
    for (unsigned t = 0; t < 2; t++)
        deq_multiply(&in, M, &p, y, N, t, 2, see, &seen);
    for (size_t i = 0; i < (size_t)M * N; i++)
        once = once && seen.cells[i] == 1;
    CHECK(once);
    deq_packed_free(&p);
    free(x);
    free(w);
    free(y);
}

TEST(gemm_pack_refuses)
{
    struct deq_packed p = {.n = 9};
    struct deq_err e;
    float w = 1;
    CHECK(deq_pack(&w, SIZE_MAX / 64, 1024, DEQ_FORMAT_F32, &p, &e) == DEQ_EFORMAT && p.n == 9);
    CHECK(deq_pack(&w, SIZE_MAX / 512, 2, DEQ_FORMAT_F32, &p, &e) == DEQ_EFORMAT && p.n == 9 && strstr(e.text, "2]"));
    deq_mem_fault(1, false);
    CHECK(deq_pack(&w, 1, 1, DEQ_FORMAT_BF16, &p, &e) == DEQ_ENOMEM && p.n == 9 && strstr(e.text, "[1, 1]"));
    deq_mem_fault(0, false);
    w = NAN; /* floats keep it, integers have no place for it */
    CHECK(deq_pack(&w, 1, 1, DEQ_FORMAT_I16, &p, &e) == DEQ_EFORMAT && p.n == 9 && strstr(e.text, "not finite"));
    p = (struct deq_packed){0};
    deq_packed_free(&p); /* nothing to free is fine */
}
