#include "core/cell/toy.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"

enum part { STATE, BEFORE, BEHIND, PARTS }; /* of what a page holds of a position, [D] each */

struct toy {
    struct deq_cell base;
    struct deq_toy of;
    uint32_t poison;
    uint64_t commits;
    size_t largest_batch;
    float *pages; /* [n_pages, DEQ_TOY_PAGE_TOK, PARTS, D] */
};

static const struct toy *toy_of(const struct deq_cell *c)
{
    return (const struct toy *)c;
}

/* [D] what a position of row i's sequence has of a part */
static float *held(const struct deq_cell *c, const struct deq_rows *r, size_t i, size_t position, enum part part)
{
    const size_t page = deq_page_of(r->ring[i], position / DEQ_TOY_PAGE_TOK);
    return toy_of(c)->pages + ((page * DEQ_TOY_PAGE_TOK + position % DEQ_TOY_PAGE_TOK) * PARTS + part) * c->state_dim;
}

/* The same of the position before row i's, or zero. */
static float before(const struct deq_cell *c, const struct deq_rows *r, size_t i, enum part part, size_t d)
{
    return r->position[i] ? held(c, r, i, r->position[i] - 1, part)[d] : 0.0f;
}

static void explicit(struct deq_cell *c, const struct deq_rows *r, const uint32_t *tokens)
{
    struct toy *t = (struct toy *)c;
    t->largest_batch = DEQ_MAX(t->largest_batch, r->n);
    for (size_t i = 0; i < r->n; i++)
        for (size_t d = 0; d < c->state_dim; d++)
            held(c, r, i, r->position[i], BEFORE)[d] = (tokens[i] == d) + t->of.before * before(c, r, i, BEFORE, d);
}

static void start(struct deq_cell *c, const struct deq_rows *r, float *const *z0)
{
    for (size_t i = 0; i < r->n; i++)
        memcpy(z0[i], held(c, r, i, r->position[i], BEFORE), c->state_dim * sizeof(float));
}

/* u: what enters the loop, and the one-hot of the token behind it */
static void inject(struct deq_cell *c, const struct deq_rows *r, const uint32_t *tokens, float *const *u)
{
    for (size_t i = 0; i < r->n; i++) {
        memset(u[i], 0, c->inject_dim * sizeof(float));
        u[i][tokens[i]] = u[i][c->state_dim + tokens[i]] = 1.0f;
        if (toy_of(c)->of.before > 0)
            start(c, &(struct deq_rows){.n = 1, .position = r->position + i, .ring = r->ring + i}, u + i);
    }
}

static void step(struct deq_cell *c, const struct deq_rows *r)
{
    const struct toy *t = toy_of(c);
    const size_t D = c->state_dim;
    for (size_t i = 0; i < r->n; i++)
        memcpy(held(c, r, i, r->position[i], STATE), r->z[i], D * sizeof(float));
    for (size_t i = 0; i < r->n; i++)
        for (size_t d = 0; d < D; d++) {
            r->fz[i][d] = t->of.rho * r->z[i][d] +
                          (1.0f - t->of.rho) * (r->u[i][d] + t->of.coupling * before(c, r, i, STATE, d));
            if (t->poison < D && r->u[i][D + t->poison] > 0)
                r->fz[i][d] = NAN;
        }
}

/* what later positions read was written by the last evaluation already */
static void commit(struct deq_cell *c, const struct deq_rows *r)
{
    ((struct toy *)c)->commits += r->n;
}

/* y: v, and D numbers that nobody needs, so that it is wider than a state */
static void coda(struct deq_cell *c, const struct deq_rows *r, float *const *y)
{
    const size_t D = c->state_dim;
    for (size_t i = 0; i < r->n; i++) {
        float *v = held(c, r, i, r->position[i], BEHIND);
        for (size_t d = 0; d < D; d++)
            v[d] = r->z[i][d] + toy_of(c)->of.behind * before(c, r, i, BEHIND, d);
        memcpy(y[i], v, D * sizeof(float));
        memset(y[i] + D, 0, D * sizeof(float));
    }
}

static void readout(struct deq_cell *c, const struct deq_rows *r, float *const *logits, float *const *tails)
{
    (void)tails; /* one cluster */
    for (size_t i = 0; i < r->n; i++)
        memcpy(logits[i], r->z[i], c->state_dim * sizeof(float));
}

static void page_copy(struct deq_cell *c, uint32_t to, uint32_t from)
{
    const size_t floats = c->page_bytes / sizeof(float);
    memcpy(toy_of(c)->pages + to * floats, toy_of(c)->pages + from * floats, c->page_bytes);
}

static void page_get(const struct deq_cell *c, uint32_t page, uint32_t n, void *out)
{
    const size_t held = (size_t)n * PARTS * c->state_dim * sizeof(float);
    memset(out, 0, c->page_bytes);
    memcpy(out, ((const struct toy *)c)->pages + page * (c->page_bytes / sizeof(float)), held);
}

static void page_put(struct deq_cell *c, uint32_t page, const void *in)
{
    memcpy(toy_of(c)->pages + page * (c->page_bytes / sizeof(float)), in, c->page_bytes);
}

static void toy_free(struct deq_cell *c)
{
    deq_free(((struct toy *)c)->pages);
    deq_free(c);
}

#define COMMON .name = "toy", .inject = inject, .step = step, .commit = commit, .readout = readout, \
               .page_copy = page_copy, .page_get = page_get, .page_put = page_put, .free = toy_free
/* without and with layers before the loop; without and with layers behind it */
static const struct deq_cell_ops ops[2][2] = {
    {{COMMON}, {COMMON, .coda = coda}},
    {{COMMON, .explicit = explicit, .start = start}, {COMMON, .explicit = explicit, .start = start, .coda = coda}}};

struct deq_cell deq_toy_shape(const struct deq_toy *of, size_t max_rows, uint32_t n_pages)
{
    const size_t page_bytes = (size_t)DEQ_TOY_PAGE_TOK * PARTS * of->dim * sizeof(float);
    return (struct deq_cell){.ops = &ops[of->before > 0][of->behind > 0], .state_dim = of->dim,
                             .inject_dim = 2 * of->dim, .vocab_size = of->dim,
                             .read_dim = of->behind > 0 ? 2 * of->dim : of->dim, .max_positions = of->max_positions,
                             .max_rows = max_rows, .lookback = 1, .page_tok = DEQ_TOY_PAGE_TOK, .n_pages = n_pages,
                             .page_bytes = page_bytes,
                             .bytes = sizeof(struct toy) + (uint64_t)n_pages * page_bytes};
}

enum deq_rc deq_toy_open(const struct deq_toy *of, size_t max_rows, uint32_t n_pages, struct deq_pool *pool,
                         struct deq_cell **ret, struct deq_err *err)
{
    const struct deq_cell shape = deq_toy_shape(of, max_rows, n_pages);
    struct toy *t = DEQ_NEW(struct toy);
    float *pages = deq_alloc_array(n_pages, shape.page_bytes);
    if (!t || !pages) {
        deq_free(t);
        deq_free(pages);
        return deq_fail(err, DEQ_ENOMEM, "no memory for the toy cell");
    }
    *t = (struct toy){.base = shape, .of = *of, .poison = UINT32_MAX, .pages = pages};
    t->base.pool = pool;
    *ret = &t->base;
    return DEQ_OK;
}

void deq_toy_poison(struct deq_cell *c, uint32_t token)
{
    ((struct toy *)c)->poison = token;
}

uint64_t deq_toy_commits(const struct deq_cell *c)
{
    return toy_of(c)->commits;
}

size_t deq_toy_largest_batch(const struct deq_cell *c)
{
    return toy_of(c)->largest_batch;
}
