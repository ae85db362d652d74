/* core/math/gemm.c, the exact path of matrix products: bits that depend on the row and the weights alone. */
#include "core/math/gemm.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/half.h"
#include "core/math/kern.h"
#include "tests/unit/test.h"

static const char *const level_names[] = {"ref", "avx2", "avx512"};
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

static void gemm(const float *x, size_t ldx, size_t m, const struct deq_packed *w, float *y, size_t ldy,
                 unsigned threads)
{
    for (unsigned t = threads; t-- > 0;) /* backwards: the order of the parts must not matter */
        deq_gemm_exact(x, ldx, m, w, y, ldy, t, threads);
}

TEST(gemm_exact_against_double_and_levels)
{
    static const size_t ns[] = {1, 2, 15, 17, 63, 64, 65, 100, 127, 129, 200}, ks[] = {1, 3, 16, 31, 64, 77, 257};
    enum { M = 7, PAD = 3 };
    const char *before = deq_kern()->name;
    for (size_t in = 0; in < DEQ_COUNT(ns); in++)
        for (size_t ik = 0; ik < DEQ_COUNT(ks); ik++)
            for (int bf16 = 0; bf16 < 2; bf16++) {
                const size_t N = ns[in], K = ks[ik], ldx = K + PAD, ldy = N + PAD;
                float *x = floats(M * ldx, 1), *w = floats(N * K, 2), *first = floats(M * ldy, 0);
                struct deq_packed p = {0}, wide = {0};
                if (bf16)
                    round_bf16(w, N * K);
                CHECK(!deq_pack(w, N, K, bf16, &p, NULL) && !deq_pack(w, N, K, false, &wide, NULL));
                CHECK(p.n == N && p.k == K && p.bf16 == bf16);
                CHECK(deq_packed_bytes(&p) == (N + 63) / 64 * 64 * K * (bf16 ? 2 : 4));
                for (size_t l = 0; l < DEQ_COUNT(level_names); l++) {
                    if (!deq_kern_force(level_names[l])) {
                        if (!in && !ik && !bf16)
                            SKIP("gemm: this machine lacks %s", level_names[l]);
                        continue;
                    }
                    float *y = floats(M * ldy, 0);
                    gemm(x, ldx, M, &p, l ? y : first, ldy, 1);
                    CHECK_MSG(!l || same(y, first, M * ldy), "%s N=%zu K=%zu bf16=%d", level_names[l], N, K, bf16);
                    gemm(x, ldx, M, &wide, y, ldy, 1); /* bf16 weights are widened exactly */
                    CHECK_MSG(same(y, first, M * ldy), "%s N=%zu K=%zu bf16=%d against f32", level_names[l], N, K,
                              bf16);
                    free(y);
                }
                for (size_t m = 0; m < M; m++) {
                    double worst = 0;
                    for (size_t n = 0; n < N; n++) {
                        double s = 0, size = 0;
                        for (size_t k = 0; k < K; k++) {
                            s += (double)x[m * ldx + k] * (double)w[n * K + k];
                            size += fabs((double)x[m * ldx + k] * (double)w[n * K + k]);
                        }
                        /* K fused additions, each rounded once: at most K half-ulps of the sum of sizes */
                        double e = fabs((double)first[m * ldy + n] - s) / ((double)K * 0x1p-24 * size * 1.01 + 1e-30);
                        worst = e <= worst ? worst : e;
                    }
                    CHECK_MSG(worst <= 1, "N=%zu K=%zu row %zu: %g times the bound", N, K, m, worst);
                    for (size_t n = N; n < ldy; n++)
                        CHECK(first[m * ldy + n] == SENTINEL);
                }
                deq_packed_free(&p);
                deq_packed_free(&wide);
                CHECK(!p.data && !p.n);
                free(x);
                free(w);
                free(first);
            }
    CHECK(deq_kern_force(before));
}

TEST(gemm_exact_row_does_not_know_its_company)
{
    enum { N = 199, K = 45, M = 70 };
    const char *before = deq_kern()->name;
    float *x = floats((size_t)M * K, 3), *w = floats((size_t)N * K, 4), *alone = floats((size_t)M * N, 0),
          *y = floats((size_t)M * N, 0), *mixed = floats((size_t)M * K, 0);
    round_bf16(w, (size_t)N * K);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct deq_packed p;
        CHECK(!deq_pack(w, N, K, bf16, &p, NULL));
        (void)deq_kern_force("ref");
        for (size_t m = 0; m < M; m++) /* the truth: every row by itself, at the reference level */
            gemm(x + m * K, K, 1, &p, alone + m * N, N, 1);
        for (size_t l = 0; l < DEQ_COUNT(level_names); l++) {
            if (!deq_kern_force(level_names[l]))
                continue;
            for (size_t m = 1; m <= M; m++)
                for (unsigned threads = 1; threads <= 3; threads++) {
                    if (!l && m % 9 != 1 && m != M)
                        continue; /* plain C is slow and computes rows one by one anyway */
                    memset(y, 0xff, sizeof *y * M * N);
                    gemm(x, K, m, &p, y, N, threads);
                    CHECK_MSG(same(y, alone, m * N), "%s bf16=%d M=%zu threads=%u", level_names[l], bf16, m, threads);
                }
            /* the same rows at other slots, among rows that are NaN */
            for (size_t shift = 1; shift < M; shift += 11) {
                for (size_t m = 0; m < M; m++)
                    for (size_t k = 0; k < K; k++)
                        mixed[(m + shift) % M * K + k] = m % 5 == 4 ? NAN : x[m * K + k];
                gemm(mixed, K, M, &p, y, N, 2);
                bool ok = true;
                for (size_t m = 0; m < M; m++)
                    ok = ok &&
                         (m % 5 == 4 ? isnan(y[(m + shift) % M * N]) : same(y + (m + shift) % M * N, alone + m * N, N));
                CHECK_MSG(ok, "%s bf16=%d shift %zu", level_names[l], bf16, shift);
            }
        }
        deq_packed_free(&p);
    }
    CHECK(deq_kern_force(before));
    free(x);
    free(w);
    free(alone);
    free(y);
    free(mixed);
}

struct job {
    const float *x;
    const struct deq_packed *w;
    float *y;
    size_t m;
};

static void run_job(void *ctx, unsigned thread, unsigned n_threads)
{
    struct job *j = ctx;
    deq_gemm_exact(j->x, j->w->k, j->m, j->w, j->y, j->w->n, thread, n_threads);
}

TEST(gemm_exact_on_real_threads)
{
    enum { N = 1000, K = 33, M = 5 };
    float *x = floats((size_t)M * K, 5), *w = floats((size_t)N * K, 6), *want = floats((size_t)M * N, 0),
          *y = floats((size_t)M * N, 0);
    struct deq_packed p;
    CHECK(!deq_pack(w, N, K, false, &p, NULL));
    deq_gemm_exact(x, K, M, &p, want, N, 0, 1);
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct deq_pool *pool = NULL;
        CHECK(!deq_pool_new(threads, &pool, NULL));
        for (int run = 0; pool && run < 20; run++) {
            memset(y, 0xff, sizeof *y * M * N);
            deq_pool_run(pool, run_job, &(struct job){x, &p, y, M});
            CHECK_MSG(same(y, want, (size_t)M * N), "%u threads", threads);
        }
        deq_pool_free(pool);
    }
    /* more threads than panels: some have nothing to do, none does another's part */
    float *part = floats((size_t)M * N, 0);
    for (unsigned t = 0; t < 40; t++) {
        memcpy(y, part, sizeof *y * M * N);
        deq_gemm_exact(x, K, M, &p, part, N, t, 40);
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
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct deq_packed p;
        CHECK(deq_pack(w, N, K, bf16, &p, NULL) == DEQ_OK);
        deq_gemm_exact(x, K, M, &p, y, N, 0, 1);
        for (size_t i = 0; i < 4 * M * N; i++)
            z[i] = -7;
        for (size_t i = 0; i < M; i++)
            to[i] = z + place[i] * N;
        for (unsigned t = 0; t < 3; t++)
            deq_gemm_exact_to(x, K, M, &p, to, t, 3);
        size_t untouched = 0;
        for (size_t i = 0; i < M; i++)
            CHECK(!memcmp(to[i], y + i * N, N * sizeof(float)));
        for (size_t i = 0; i < 4 * M * N; i++)
            untouched += z[i] == -7;
        CHECK(untouched == 3 * M * N);
        for (size_t n = 0; n < N; n += 13) {
            deq_packed_row(&p, n, row);
            CHECK(!memcmp(row, w + n * K, sizeof row));
        }
        deq_packed_free(&p);
    }
}

TEST(gemm_pack_refuses)
{
    struct deq_packed p = {.n = 9};
    struct deq_err e;
    float w = 1;
    CHECK(deq_pack(&w, SIZE_MAX / 64, 1024, false, &p, &e) == DEQ_EFORMAT && p.n == 9);
    CHECK(deq_pack(&w, SIZE_MAX / 4, 2, false, &p, &e) == DEQ_ENOMEM && p.n == 9 && strstr(e.text, "2]"));
    deq_mem_fault(1, false);
    CHECK(deq_pack(&w, 1, 1, true, &p, &e) == DEQ_ENOMEM && p.n == 9);
    deq_mem_fault(0, false);
    p = (struct deq_packed){0};
    deq_packed_free(&p); /* nothing to free is fine */
}
