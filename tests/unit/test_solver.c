/* Root finders on systems whose answer is known: linear maps with a chosen spectrum, and a tanh map that contracts. */
#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/math/kern.h"
#include "core/solve/solver.h"
#include "tests/unit/levels.h"
#include "tests/unit/test.h"

enum { DIM = 24, N_MAX = 4 };
static const enum deq_solver_method methods[] = {DEQ_PICARD, DEQ_ANDERSON, DEQ_BROYDEN};
_Static_assert(DEQ_COUNT(methods) == DEQ_SOLVER_COUNT, "each method is tested");

/* A = H diag(d) H with a Householder reflection H = I - 2 v v', |v| = 1: symmetric, eigenvalues d, and
 * z* = (I - A)^-1 b = H diag(1 / (1 - d)) H b in closed form. */
struct toy {
    double a[DIM][DIM], b[DIM], star[DIM], rho;
    bool tanh;
    unsigned calls, nan_from; /* nan_from: this call and later ones give NaN; 0 = never */
};

static void make_toy(struct toy *t, double rho, double b_size, uint64_t seed)
{
    double v[DIM], d[DIM], hb[DIM], norm = 0;
    *t = (struct toy){.rho = rho};
    for (int i = 0; i < DIM; i++) {
        v[i] = deq_rng_normal(seed, 1, (uint64_t)i);
        norm += v[i] * v[i];
        d[i] = rho * (2.0 * i / (DIM - 1) - 1); /* from -rho to +rho */
        t->b[i] = b_size * deq_rng_normal(seed, 2, (uint64_t)i);
    }
    for (int i = 0; i < DIM; i++)
        v[i] /= sqrt(norm);
    for (int i = 0; i < DIM; i++)
        for (int j = 0; j < DIM; j++)
            for (int k = 0; k < DIM; k++)
                t->a[i][j] += ((i == k) - 2 * v[i] * v[k]) * d[k] * ((j == k) - 2 * v[j] * v[k]);
    double vb = 0, vx = 0;
    for (int i = 0; i < DIM; i++)
        vb += v[i] * t->b[i];
    for (int i = 0; i < DIM; i++) {
        hb[i] = (t->b[i] - 2 * v[i] * vb) / (1 - d[i]);
        vx += v[i] * hb[i];
    }
    for (int i = 0; i < DIM; i++)
        t->star[i] = hb[i] - 2 * v[i] * vx;
}

static void toy_f(struct toy *t, const float *z, float *fz)
{
    t->calls++;
    for (int i = 0; i < DIM; i++) {
        double s = t->b[i];
        for (int j = 0; j < DIM; j++)
            s += t->a[i][j] * (double)z[j];
        fz[i] = (float)(t->tanh ? tanh(s) : s);
    }
    if (t->nan_from && t->calls >= t->nan_from)
        fz[t->calls % DIM] = NAN;
}

struct many {
    struct toy *toy[N_MAX];
    size_t n;
};

static void many_f(void *ctx, const float *z, float *fz)
{
    struct many *m = ctx;
    for (size_t i = 0; i < m->n; i++)
        toy_f(m->toy[i], z + i * DIM, fz + i * DIM);
}

static double norm2(const float *a, const double *b)
{
    double s = 0;
    for (int i = 0; i < DIM; i++) {
        double d = (double)a[i] - (b ? b[i] : 0);
        s += d * d;
    }
    return sqrt(s);
}

/* Scratch of exactly the promised size, with a guard behind it. */
static struct deq_solve_report solve_n(const struct deq_solver_opts *o, struct many *m, float *z, float *trace)
{
    enum { GUARD = 64 };
    const size_t floats = deq_solve_floats(o, m->n, DIM);
    float *scratch = DEQ_NEW_ARRAY(float, floats + GUARD);
    struct deq_solve_report r = {0};
    for (size_t i = 0; i < GUARD; i++)
        scratch[floats + i] = 4.5f;
    for (size_t i = 0; i < m->n; i++)
        m->toy[i]->calls = 0;
    uint64_t before = deq_mem_calls();
    deq_solve(o, m->n, DIM, many_f, m, z, NULL, scratch, trace, &r);
    CHECK(deq_mem_calls() == before);
    bool clean = true;
    for (size_t i = 0; i < GUARD; i++)
        clean = clean && scratch[floats + i] == 4.5f;
    CHECK_MSG(clean, "%s M=%u wrote past its scratch", deq_solver_name(o->method), o->memory);
    CHECK(r.evaluations >= 1 && r.evaluations <= o->max_iter && r.evaluations == m->toy[0]->calls);
    deq_free(scratch);
    return r;
}

static struct deq_solve_report solve(const struct deq_solver_opts *o, struct toy *t, float *z, float *trace)
{
    return solve_n(o, &(struct many){.toy = {t}, .n = 1}, z, trace);
}

static struct deq_solver_opts opts_of(enum deq_solver_method m, float tol, unsigned max_iter)
{
    struct deq_solver_opts o = deq_solver_defaults();
    o.method = m;
    o.tol = tol;
    o.max_iter = max_iter;
    o.memory = m == DEQ_BROYDEN ? 16 : 5;
    return o;
}

/* the residual of z by its definition, in double */
static double plain_residual(struct toy *t, const float *z, enum deq_stop_mode stop)
{
    float fz[DIM];
    double g = 0;
    toy_f(t, z, fz);
    for (int i = 0; i < DIM; i++)
        g += ((double)fz[i] - (double)z[i]) * ((double)fz[i] - (double)z[i]);
    return stop == DEQ_STOP_ABS ? sqrt(g) : sqrt(g) / (norm2(fz, NULL) + 1e-9);
}

TEST(solver_options)
{
    struct deq_solver_opts o = deq_solver_defaults(), d = o;
    struct deq_err e;
    CHECK(!deq_solver_check(&o, &e));
    CHECK(o.method == DEQ_ANDERSON && o.memory == 3 && o.max_iter == 32 && o.stop == DEQ_STOP_REL && o.tol == 1e-2f &&
          o.beta == 1);
    for (size_t i = 0; i < DEQ_COUNT(methods); i++) {
        enum deq_solver_method m = DEQ_PICARD;
        CHECK(deq_solver_by_name(deq_solver_name(methods[i]), &m) && m == methods[i]);
    }
    enum deq_solver_method m = DEQ_BROYDEN;
    CHECK(!deq_solver_by_name("newton", &m) && m == DEQ_BROYDEN);
#define BAD(field, value, word)                                                                       \
    do {                                                                                              \
        o = d;                                                                                        \
        o.field = (value);                                                                            \
        e.text[0] = 0;                                                                                \
        CHECK_MSG(deq_solver_check(&o, &e) == DEQ_EINVAL && strstr(e.text, word), "%s", e.text);      \
    } while (0)
    BAD(memory, 0, "memory");
    BAD(memory, DEQ_SOLVER_MEMORY_MAX + 1, "memory");
    BAD(max_iter, 0, "max_iter");
    BAD(max_iter, 100001, "max_iter");
    BAD(min_iter, 33, "min_iter");
    BAD(tol, -1e-3f, "tol");
    BAD(tol, NAN, "tol");
    BAD(tol, INFINITY, "tol");
    BAD(beta, 0, "beta");
    BAD(beta, 1.001f, "beta");
    BAD(beta, NAN, "beta");
    BAD(reg, -1e-9f, "reg");
    BAD(reg, 1.1f, "reg");
    BAD(reg, NAN, "reg");
#undef BAD
}

TEST(solver_linear_equilibrium)
{
    static const double rhos[] = {0.3, 0.5, 0.7, 0.8, 0.9, 0.95};
    for (size_t ir = 0; ir < DEQ_COUNT(rhos); ir++) {
        struct toy t;
        make_toy(&t, rhos[ir], 1, 3);
        /* A residual of r means |z - z*| <= r |f| / (1 - rho), because |(I - A)^-1| = 1 / (1 - rho) for
         * symmetric A. With the tolerance scaled by (1 - rho) / 0.2 that is 5 tolerances to z* and 10
         * between two methods, at any rho. */
        const double goal = 1e-5;
        const float tol = (float)(goal * (1 - rhos[ir]) / 0.2);
        float z[DEQ_COUNT(methods)][DIM];
        unsigned evals[DEQ_COUNT(methods)];
        for (size_t im = 0; im < DEQ_COUNT(methods); im++) {
            struct deq_solver_opts o = opts_of(methods[im], tol, 1000);
            memset(z[im], 0, sizeof z[im]);
            struct deq_solve_report r = solve(&o, &t, z[im], NULL);
            evals[im] = r.evaluations;
            const char *name = deq_solver_name(methods[im]);
            CHECK_MSG(r.converged && r.finite && r.residual_max < tol && r.residual_mean == r.residual_max,
                      "%s rho %.2f: %u evaluations, %g", name, rhos[ir], r.evaluations, (double)r.residual_max);
            /* 1.1: |f| against |z*|, and the rounding of f to float (6e-8 against 1e-6) */
            CHECK_MSG(norm2(z[im], t.star) <= 1.1 * 5 * goal * norm2(z[im], NULL), "%s rho %.2f: %g", name, rhos[ir],
                      norm2(z[im], t.star) / norm2(z[im], NULL));
            CHECK_MSG(fabs(plain_residual(&t, z[im], o.stop) - (double)r.residual_max) < 1e-7,
                      "%s rho %.2f: the report's residual is another's", name, rhos[ir]);
            for (size_t j = 0; j < im; j++) {
                double d[DIM];
                for (int i = 0; i < DIM; i++)
                    d[i] = (double)z[j][i];
                CHECK_MSG(norm2(z[im], d) <= 10 * goal * norm2(z[im], NULL), "%s and %s, rho %.2f", name,
                          deq_solver_name(methods[j]), rhos[ir]);
            }
        }
        if (rhos[ir] >= 0.5)
            CHECK_MSG(evals[1] < evals[0], "rho %.2f: anderson %u, picard %u", rhos[ir], evals[1], evals[0]);
        if (rhos[ir] >= 0.9) /* theory for five directions: well under half */
            CHECK_MSG(evals[1] < evals[0] / 2, "rho %.2f: anderson %u, picard %u", rhos[ir], evals[1], evals[0]);
        /* Picard shrinks the error by rho: log(tol) / log(rho) steps, and a few for the constant */
        CHECK_MSG(fabs(evals[0] - log((double)tol) / log(rhos[ir])) < 0.5 * log((double)tol) / log(rhos[ir]),
                  "picard took %u at rho %.2f", evals[0], rhos[ir]);
    }
}

TEST(solver_tanh_equilibrium)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct toy t;
        make_toy(&t, 0.9, 0.3, seed);
        t.tanh = true; /* |tanh'| <= 1: the map contracts by 0.9 */
        const float tol = 1e-5f;
        float z[DEQ_COUNT(methods)][DIM];
        unsigned evals[DEQ_COUNT(methods)];
        for (size_t im = 0; im < DEQ_COUNT(methods); im++) {
            struct deq_solver_opts o = opts_of(methods[im], tol, 1000);
            for (int i = 0; i < DIM; i++)
                z[im][i] = 0.5f; /* another start than zero */
            struct deq_solve_report r = solve(&o, &t, z[im], NULL);
            evals[im] = r.evaluations;
            CHECK_MSG(r.converged && plain_residual(&t, z[im], DEQ_STOP_REL) < 1.05e-5, "%s seed %d: %g",
                      deq_solver_name(methods[im]), (int)seed, (double)r.residual_max);
            for (size_t j = 0; j < im; j++) {
                double d[DIM];
                for (int i = 0; i < DIM; i++)
                    d[i] = (double)z[j][i];
                /* two residuals of tol, each magnified by 1 / (1 - 0.9) at most */
                CHECK(norm2(z[im], d) <= 2 * 10 * 1.05e-5 * norm2(z[im], NULL));
            }
        }
        CHECK_MSG(evals[1] < evals[0], "seed %d: anderson %u, picard %u", (int)seed, evals[1], evals[0]);
    }
}

TEST(solver_mixing)
{
    /* eigenvalues down to -1.5: Picard diverges, damped by beta = 0.5 the factor 1 - beta (1 - d) lies in -0.25..1 */
    struct toy t;
    make_toy(&t, 0.75, 1, 4);
    for (int i = 0; i < DIM; i++) {
        for (int j = 0; j < DIM; j++)
            t.a[i][j] -= 0.75 * (i == j); /* spectrum -1.5..0 */
    }
    float z[DIM] = {0};
    struct deq_solver_opts o = opts_of(DEQ_PICARD, 1e-5f, 200);
    CHECK(!solve(&o, &t, z, NULL).converged);
    o.beta = 0.5f;
    for (size_t im = 0; im < DEQ_COUNT(methods); im++) {
        o.method = methods[im];
        memset(z, 0, sizeof z);
        struct deq_solve_report r = solve(&o, &t, z, NULL);
        CHECK_MSG(r.converged, "%s: %g", deq_solver_name(o.method), (double)r.residual_max);
    }
}

TEST(solver_stop_rules)
{
    for (int size = 0; size < 2; size++)
        for (int stop = 0; stop < 2; stop++) {
            struct toy t;
            float z[DIM] = {0}, trace[200];
            make_toy(&t, 0.8, size ? 1000 : 1, 5);
            struct deq_solver_opts o = opts_of(DEQ_PICARD, 1e-2f, 200);
            o.stop = stop ? DEQ_STOP_ABS : DEQ_STOP_REL;
            struct deq_solve_report r = solve(&o, &t, z, trace);
            CHECK(r.converged);
            for (unsigned i = 0; i < r.evaluations; i++)
                CHECK_MSG((trace[i] < o.tol) == (i + 1 == r.evaluations), "evaluation %u of %u: %g", i + 1,
                          r.evaluations, (double)trace[i]);
            CHECK(trace[r.evaluations - 1] == r.residual_max);
            /* a float norm over 24 numbers: a few roundings, relative to |f| that cancels in f - z */
            double slack = 1e-6 * (stop ? norm2(z, NULL) : 1);
            CHECK_MSG(fabs(plain_residual(&t, z, o.stop) - (double)r.residual_max) <= slack, "%g %g",
                      plain_residual(&t, z, o.stop), (double)r.residual_max);
        }
    float z[2] = {3, 0}, fz[2] = {3, 4};
    struct deq_solver_opts o = deq_solver_defaults();
    CHECK(fabsf(deq_solver_residual(&o, 2, z, fz) - 0.8f) < 1e-6f); /* |(0,4)| / |(3,4)| */
    o.stop = DEQ_STOP_ABS;
    CHECK(deq_solver_residual(&o, 2, z, fz) == 4);
    o.stop = DEQ_STOP_REL;
    memset(fz, 0, sizeof fz);
    CHECK(deq_solver_residual(&o, 2, z, fz) > 1e9f); /* f = 0 divides by the 1e-9, not by zero */
    memset(z, 0, sizeof z);
    CHECK(deq_solver_residual(&o, 2, z, fz) == 0);
}

TEST(solver_counts_evaluations)
{
    for (size_t im = 0; im < DEQ_COUNT(methods); im++) {
        struct toy t;
        float z[DIM] = {0};
        make_toy(&t, 0.5, 1, 6);
        struct deq_solver_opts o = opts_of(methods[im], 1e-3f, 100);
        unsigned free_run = solve(&o, &t, z, NULL).evaluations;
        o.min_iter = free_run + 4;
        memset(z, 0, sizeof z);
        struct deq_solve_report r = solve(&o, &t, z, NULL);
        CHECK_MSG(r.evaluations >= o.min_iter && r.converged, "%s: %u", deq_solver_name(o.method), r.evaluations);
        o.min_iter = 1;
        o.max_iter = free_run - 1;
        memset(z, 0, sizeof z);
        r = solve(&o, &t, z, NULL);
        CHECK(r.evaluations == o.max_iter && !r.converged && r.finite && r.residual_max >= o.tol);
        o.max_iter = 1; /* one evaluation measures the start and moves nothing */
        for (int i = 0; i < DIM; i++)
            z[i] = (float)i;
        r = solve(&o, &t, z, NULL);
        CHECK(r.evaluations == 1 && z[0] == 0 && z[7] == 7 && z[23] == 23);
    }
}

TEST(solver_divergent_map_keeps_the_best_iterate)
{
    struct toy t;
    float z[DIM], start[DIM], trace[200];
    make_toy(&t, 1.5, 1, 7);
    for (int stop = 0; stop < 2; stop++)
        for (size_t im = 0; im < DEQ_COUNT(methods); im++)
            for (unsigned memory = 1; memory <= 3; memory += 2) {
                struct deq_solver_opts o = opts_of(methods[im], 1e-6f, 30);
                o.memory = memory;
                o.stop = stop ? DEQ_STOP_ABS : DEQ_STOP_REL;
                for (int i = 0; i < DIM; i++)
                    z[i] = start[i] = (float)t.star[i] + 0.01f * (float)(i % 3);
                struct deq_solve_report r = solve(&o, &t, z, trace);
                float least = INFINITY;
                for (unsigned i = 0; i < r.evaluations; i++)
                    least = DEQ_MIN(least, trace[i]);
                CHECK_MSG(r.finite && r.residual_max == least, "%s M=%u: %g, least seen %g", deq_solver_name(o.method),
                          memory, (double)r.residual_max, (double)least);
                double slack = 2e-6 * (stop ? norm2(z, NULL) : 1); /* rounding of the float norm */
                CHECK_MSG(fabs(plain_residual(&t, z, o.stop) - (double)least) <= slack,
                          "%s M=%u: the iterate is not the best one", deq_solver_name(o.method), memory);
                if (methods[im] == DEQ_PICARD) {
                    /* the residual vector's large components grow by 1.5 a step */
                    CHECK(r.evaluations == 30 && !r.converged && trace[29] > 10 * least);
                    if (stop)
                        CHECK(trace[29] > trace[20] && trace[20] > trace[10]);
                }
            }
    /* until it overflows: the best iterate is still returned, and the report says what happened */
    struct deq_solver_opts o = opts_of(DEQ_PICARD, 1e-6f, 1000);
    o.stop = DEQ_STOP_ABS;
    memcpy(z, start, sizeof z);
    struct deq_solve_report r = solve(&o, &t, z, NULL);
    CHECK(!r.finite && !r.converged && r.evaluations < 1000);
    CHECK_MSG(isfinite(r.residual_max) && isfinite(norm2(z, NULL)) && norm2(z, NULL) < 1e3, "%g", norm2(z, NULL));
}

TEST(solver_safeguard_drops_history)
{
    for (size_t im = 0; im < DEQ_COUNT(methods); im++) {
        struct deq_solver_opts o = opts_of(methods[im], 1e-6f, 100);
        o.stop = DEQ_STOP_ABS;
        struct deq_solver s = {.mem = DEQ_NEW_ARRAY(float, deq_solver_floats(&o, DIM) + 1)};
        struct toy t;
        float z[DIM] = {0}, fz[DIM];
        make_toy(&t, 0.7, 1, 8);
        deq_solver_restart(&s);
        float r = 0;
        for (int i = 0; i < 4; i++) {
            toy_f(&t, z, fz);
            r = deq_solver_residual(&o, DIM, z, fz);
            deq_solver_step(&o, &s, DIM, z, fz, r);
        }
        CHECK(o.method == DEQ_PICARD || s.n > 1);
        CHECK(isfinite(s.best));
        const float best = s.best;
        for (int i = 0; i < DIM; i++)
            z[i] = 1e4f, fz[i] = 2e4f + (float)i;
        deq_solver_step(&o, &s, DIM, z, fz, 3.9f * best); /* below the limit: goes on as usual */
        CHECK(s.best == best && (o.method != DEQ_ANDERSON || s.n == 5));
        for (int i = 0; i < DIM; i++)
            z[i] = 1e4f;
        deq_solver_step(&o, &s, DIM, z, fz, 4.1f * best);
        CHECK_MSG(s.n == 0 && !s.has_previous && s.best == 4.1f * best && !memcmp(z, fz, sizeof z), "%s",
                  deq_solver_name(o.method));
        /* and from there it still finds the equilibrium */
        double err = 1;
        for (int i = 0; i < 100 && err > 1e-4; i++) {
            toy_f(&t, z, fz);
            deq_solver_step(&o, &s, DIM, z, fz, deq_solver_residual(&o, DIM, z, fz));
            err = norm2(z, t.star);
        }
        CHECK_MSG(err <= 1e-4, "%s: %g", deq_solver_name(o.method), err);
        deq_free(s.mem);
    }
}

TEST(solver_nan_from_f)
{
    for (size_t im = 0; im < DEQ_COUNT(methods); im++)
        for (unsigned from = 1; from <= 6; from++) {
            struct toy t, sane;
            float z[2 * DIM], alone[DIM] = {0};
            make_toy(&t, 0.9, 1, 9);
            make_toy(&sane, 0.9, 1, 10);
            struct deq_solver_opts o = opts_of(methods[im], 1e-4f, 300);
            struct deq_solve_report ra = solve(&o, &sane, alone, NULL);
            t.nan_from = from;
            for (int i = 0; i < 2 * DIM; i++)
                z[i] = i < DIM ? 0.25f : 0;
            struct deq_solve_report r = solve_n(&o, &(struct many){.toy = {&t, &sane}, .n = 2}, z, NULL);
            CHECK(!r.finite && !r.converged);
            CHECK_MSG(ra.converged && !memcmp(z + DIM, alone, sizeof alone) && r.evaluations == ra.evaluations,
                      "%s: the neighbour of a NaN got other bits", deq_solver_name(o.method));
            bool finite = true, start = true;
            for (int i = 0; i < DIM; i++) {
                finite = finite && isfinite(z[i]);
                start = start && z[i] == 0.25f;
            }
            CHECK(finite);
            if (from == 1)
                CHECK(start && r.residual_max == INFINITY); /* nothing is known of it */
            else
                CHECK(isfinite(r.residual_max));
            /* alone, it ends at the first NaN */
            for (int i = 0; i < DIM; i++)
                z[i] = 0.25f;
            r = solve(&o, &t, z, NULL);
            CHECK(r.evaluations == from && !r.finite && !r.converged);
        }
}

TEST(solver_memory_sizes)
{
    struct toy t;
    make_toy(&t, 0.9, 1, 11);
    for (size_t im = 0; im < DEQ_COUNT(methods); im++)
        for (unsigned memory = 1; memory <= DEQ_SOLVER_MEMORY_MAX; memory++) {
            struct deq_solver_opts o = opts_of(methods[im], 1e-5f, 1000);
            o.memory = memory;
            float z[DIM] = {0};
            struct deq_solve_report r = solve(&o, &t, z, NULL);
            CHECK_MSG(r.converged && norm2(z, t.star) <= 1.1 * 10 * 1e-5 * norm2(z, NULL),
                      "%s M=%u: %u evaluations, %g", deq_solver_name(o.method), memory, r.evaluations,
                      norm2(z, t.star));
        }
    /* Anderson with one pair has nothing to combine: Picard's bits */
    struct deq_solver_opts a = opts_of(DEQ_ANDERSON, 1e-5f, 1000), p = opts_of(DEQ_PICARD, 1e-5f, 1000);
    float za[DIM] = {0}, zp[DIM] = {0};
    a.memory = 1;
    CHECK(solve(&a, &t, za, NULL).evaluations == solve(&p, &t, zp, NULL).evaluations && !memcmp(za, zp, sizeof za));
    CHECK(deq_solver_floats(&p, DIM) == 0);
}

TEST(solver_starts_at_the_equilibrium)
{
    for (size_t im = 0; im < DEQ_COUNT(methods); im++)
        for (int stop = 0; stop < 2; stop++) {
            struct toy t;
            float z[DIM] = {0};
            make_toy(&t, 0.9, 0, 12); /* b = 0: the equilibrium is exactly zero */
            struct deq_solver_opts o = opts_of(methods[im], 1e-6f, 50);
            o.stop = stop ? DEQ_STOP_ABS : DEQ_STOP_REL;
            struct deq_solve_report r = solve(&o, &t, z, NULL);
            CHECK(r.evaluations == 1 && r.converged && r.finite && r.residual_max == 0 && norm2(z, NULL) == 0);
            o.min_iter = 20; /* goes on with residuals, differences and a Gram matrix of zeros */
            r = solve(&o, &t, z, NULL);
            CHECK_MSG(r.evaluations == 20 && r.converged && r.finite && norm2(z, NULL) == 0, "%s",
                      deq_solver_name(o.method));
            o.min_iter = 1;
            o.tol = 0; /* never below zero: runs to the end, still without NaN */
            r = solve(&o, &t, z, NULL);
            CHECK(r.evaluations == 50 && !r.converged && r.finite && r.residual_max == 0);
        }
}

struct shift {
    double factor, add;
    size_t dim;
};

static void shift_f(void *ctx, const float *z, float *fz)
{
    const struct shift *s = ctx;
    for (size_t i = 0; i < s->dim; i++)
        fz[i] = (float)(s->factor * (double)z[i] + s->add);
}

TEST(solver_dependent_history)
{
    float z[DIM];
    float *scratch = DEQ_NEW_ARRAY(float, 20000);
    for (size_t im = 0; im < DEQ_COUNT(methods); im++)
        for (unsigned memory = 1; memory <= DEQ_SOLVER_MEMORY_MAX; memory += 5)
            for (int reg = 0; reg < 2; reg++) {
                struct deq_solver_opts o = opts_of(methods[im], 1e-5f, 200);
                struct deq_solve_report r;
                o.memory = memory;
                o.reg = reg ? 1e-4f : 0;
                CHECK(deq_solve_floats(&o, 1, DIM) <= 20000);
                /* one number, up to 16 pairs: every history is dependent; and all
                 * components alike, which is the same */
                for (size_t dim = 1; dim <= DIM; dim += DIM - 1) {
                    struct shift s = {-0.8, 2, dim};
                    memset(z, 0, sizeof z);
                    deq_solve(&o, 1, dim, shift_f, &s, z, NULL, scratch, NULL, &r);
                    CHECK_MSG(r.converged && r.finite && fabs((double)z[dim - 1] - 2 / 1.8) <= 2e-5,
                              "%s M=%u dim=%zu: %g after %u", deq_solver_name(o.method), memory, dim,
                              (double)z[dim - 1], r.evaluations);
                }
                /* f = z + 1: the residual never changes, there is no root, and nothing may become NaN */
                struct shift s = {1, 1, DIM};
                memset(z, 0, sizeof z);
                o.stop = DEQ_STOP_ABS;
                deq_solve(&o, 1, DIM, shift_f, &s, z, NULL, scratch, NULL, &r);
                CHECK_MSG(r.finite && !r.converged && isfinite(norm2(z, NULL)), "%s M=%u", deq_solver_name(o.method),
                          memory);
                /* an absolute residual of sqrt(24), exactly, in every evaluation: the first is the last better one */
                o.method = DEQ_PICARD;
                o.patience = 7;
                memset(z, 0, sizeof z);
                deq_solve(&o, 1, DIM, shift_f, &s, z, NULL, scratch, NULL, &r);
                CHECK(r.evaluations == 8 && !r.converged);
            }
    deq_free(scratch);
}

TEST(solver_state_is_private)
{
    enum { STEPS = 12 };
    for (size_t im = 0; im < DEQ_COUNT(methods); im++) {
        struct deq_solver_opts o = opts_of(methods[im], 1e-9f, 100);
        const size_t floats = deq_solver_floats(&o, DIM) + 1;
        struct toy t[2];
        float z[2][2][DIM] = {0}; /* [together or apart][system] */
        make_toy(&t[0], 0.9, 1, 13);
        make_toy(&t[1], 0.6, 30, 14);
        t[1].tanh = true;
        for (int apart = 0; apart < 2; apart++) {
            struct deq_solver s[2];
            for (int k = 0; k < 2; k++) {
                s[k] = (struct deq_solver){.mem = DEQ_NEW_ARRAY(float, floats)};
                deq_solver_restart(&s[k]);
            }
            for (int i = 0; i < 2 * STEPS; i++) {
                const int k = apart ? i / STEPS : i % 2;
                float fz[DIM];
                toy_f(&t[k], z[apart][k], fz);
                deq_solver_step(&o, &s[k], DIM, z[apart][k], fz, deq_solver_residual(&o, DIM, z[apart][k], fz));
            }
            deq_free(s[0].mem);
            deq_free(s[1].mem);
        }
        CHECK_MSG(!memcmp(z[0], z[1], sizeof z[0]), "%s", deq_solver_name(o.method));
        CHECK(norm2(z[0][0], NULL) > 0 && norm2(z[0][1], NULL) > 0);
    }
}

TEST(solver_batch_gives_the_bits_of_a_system_alone)
{
    static const double rhos[N_MAX] = {0.95, 0.3, 0.8, 0.6}; /* they converge at different times */
    const struct deq_kern *before = deq_kern();
    for (size_t im = 0; im < DEQ_COUNT(methods); im++)
        for (unsigned min_iter = 1; min_iter <= 9; min_iter += 8) {
            struct toy t[N_MAX];
            struct deq_solver_opts o = opts_of(methods[im], 1e-4f, 400);
            o.min_iter = min_iter;
            float alone[N_MAX][DIM] = {0}, z[N_MAX * DIM];
            unsigned most = 0;
            float top = 0, mean = 0;
            for (int k = 0; k < N_MAX; k++) {
                make_toy(&t[k], rhos[k], 1 + k, 20 + (uint64_t)k);
                struct deq_solve_report r = solve(&o, &t[k], alone[k], NULL);
                CHECK(r.converged);
                most = DEQ_MAX(most, r.evaluations);
                top = DEQ_MAX(top, r.residual_max);
                mean += r.residual_max / N_MAX;
            }
            find_levels();
            for (int l = 0; l < LEVELS; l++) {
                if (!force_level(l))
                    continue;
                for (size_t first = 0; first < N_MAX; first++) { /* any order of the systems */
                    struct many m = {.n = N_MAX};
                    for (size_t k = 0; k < N_MAX; k++)
                        m.toy[k] = &t[(first + k) % N_MAX];
                    memset(z, 0, sizeof z);
                    struct deq_solve_report r = solve_n(&o, &m, z, NULL);
                    CHECK(r.converged && r.evaluations == most && r.residual_max == top);
                    CHECK(fabsf(r.residual_mean - mean) <= 1e-6f * mean); /* float sum here, double there */
                    for (size_t k = 0; k < N_MAX; k++)
                        CHECK_MSG(!memcmp(z + k * DIM, alone[(first + k) % N_MAX], sizeof alone[0]), "%s %s slot %zu",
                                  level_names[l], deq_solver_name(o.method), k);
                }
            }
            deq_kern_use(before);
        }
}
