#include "core/cell/toy.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"

struct toy {
    struct deq_cell base;
    float rho, coupling;
    uint32_t poison;
    uint64_t commits;
    float *pages; /* [n_pages, DEQ_TOY_PAGE_TOK, D] */
};

static void inject(struct deq_cell *c, const struct deq_rows *rows, const uint32_t *tokens, float *const *u)
{
    for (size_t i = 0; i < rows->n; i++) {
        memset(u[i], 0, c->inject_dim * sizeof(float));
        u[i][tokens[i]] = 1.0f;
    }
}

/* [D] the state of a position of row i's sequence */
static float *state(const struct toy *t, const struct deq_rows *r, size_t i, size_t position)
{
    const size_t page = deq_page_of(r->ring[i], position / DEQ_TOY_PAGE_TOK);
    return t->pages + (page * DEQ_TOY_PAGE_TOK + position % DEQ_TOY_PAGE_TOK) * t->base.state_dim;
}

static void step(struct deq_cell *base, const struct deq_rows *r)
{
    const struct toy *t = (const struct toy *)base;
    const size_t D = base->state_dim;
    for (size_t i = 0; i < r->n; i++)
        memcpy(state(t, r, i, r->position[i]), r->z[i], D * sizeof(float));
    for (size_t i = 0; i < r->n; i++)
        for (size_t d = 0; d < D; d++) {
            const float before = r->position[i] ? state(t, r, i, r->position[i] - 1)[d] : 0.0f;
            r->fz[i][d] = t->rho * r->z[i][d] + (1.0f - t->rho) * (r->u[i][d] + t->coupling * before);
            if (t->poison < D && r->u[i][t->poison] > 0)
                r->fz[i][d] = NAN;
        }
}

/* what later positions read was written by the last evaluation already */
static void commit(struct deq_cell *base, const struct deq_rows *r)
{
    ((struct toy *)base)->commits += r->n;
}

static void readout(struct deq_cell *c, const struct deq_rows *rows, float *const *logits, float *const *tails)
{
    (void)tails; /* one cluster */
    for (size_t i = 0; i < rows->n; i++)
        memcpy(logits[i], rows->z[i], c->state_dim * sizeof(float));
}

static void page_copy(struct deq_cell *c, uint32_t to, uint32_t from)
{
    const struct toy *t = (const struct toy *)c;
    const size_t floats = c->page_bytes / sizeof(float);
    memcpy(t->pages + to * floats, t->pages + from * floats, c->page_bytes);
}

static void toy_free(struct deq_cell *c)
{
    deq_free(((struct toy *)c)->pages);
    deq_free(c);
}

static const struct deq_cell_ops ops = {.name = "toy", .inject = inject, .step = step, .commit = commit,
                                        .readout = readout, .page_copy = page_copy, .free = toy_free};

struct deq_cell deq_toy_shape(size_t dim, size_t max_rows, uint32_t n_pages)
{
    const size_t page_bytes = DEQ_TOY_PAGE_TOK * dim * sizeof(float);
    return (struct deq_cell){.ops = &ops, .state_dim = dim, .inject_dim = dim, .vocab_size = dim, .read_dim = dim,
                             .max_rows = max_rows, .lookback = 1, .page_tok = DEQ_TOY_PAGE_TOK, .n_pages = n_pages,
                             .page_bytes = page_bytes,
                             .bytes = sizeof(struct toy) + (uint64_t)n_pages * page_bytes};
}

enum deq_rc deq_toy_open(size_t dim, float rho, float coupling, size_t max_rows, uint32_t n_pages,
                         struct deq_pool *pool, struct deq_cell **ret, struct deq_err *err)
{
    struct toy *t = DEQ_NEW(struct toy);
    float *pages = deq_alloc_array(n_pages, DEQ_TOY_PAGE_TOK * dim * sizeof(float));
    if (!t || !pages) {
        deq_free(t);
        deq_free(pages);
        return deq_fail(err, DEQ_ENOMEM, "no memory for the toy cell");
    }
    *t = (struct toy){.base = deq_toy_shape(dim, max_rows, n_pages), .rho = rho, .coupling = coupling,
                      .poison = UINT32_MAX, .pages = pages};
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
    return ((const struct toy *)c)->commits;
}
