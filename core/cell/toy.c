#include "core/cell/toy.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"

struct toy {
    struct deq_cell base;
    float rho, coupling;
    uint32_t poison;
};

static void inject(struct deq_cell *c, size_t n, const uint32_t *tokens, float *const *u)
{
    for (size_t i = 0; i < n; i++) {
        memset(u[i], 0, c->inject_dim * sizeof(float));
        u[i][tokens[i]] = 1.0f;
    }
}

/* keys are not used; the value row of a position holds its state, head after head */
static void store(const struct deq_rows *r, size_t i, const float *z, size_t dim)
{
    const size_t P = DEQ_KV_PAGE_TOK, page = r->position[i] / P, lane = r->position[i] % P, Dh = r->kv->d_head;
    for (size_t d = 0; d < dim; d++)
        deq_kv_v(r->kv, r->seq[i], page, 0, (unsigned)(d / Dh))[lane * r->kv->v_stride + d % Dh] = z[d];
}

static float load(const struct deq_rows *r, size_t i, size_t position, size_t d)
{
    const size_t P = DEQ_KV_PAGE_TOK, Dh = r->kv->d_head;
    return deq_kv_v(r->kv, r->seq[i], position / P, 0, (unsigned)(d / Dh))[position % P * r->kv->v_stride + d % Dh];
}

static void step(struct deq_cell *base, const struct deq_rows *r)
{
    const struct toy *t = (const struct toy *)base;
    const size_t D = base->state_dim;
    for (size_t i = 0; i < r->n; i++)
        store(r, i, r->z[i], D);
    for (size_t i = 0; i < r->n; i++)
        for (size_t d = 0; d < D; d++) {
            const float before = r->position[i] ? load(r, i, r->position[i] - 1, d) : 0.0f;
            r->fz[i][d] = t->rho * r->z[i][d] + (1.0f - t->rho) * (r->u[i][d] + t->coupling * before);
            if (t->poison < D && r->u[i][t->poison] > 0)
                r->fz[i][d] = NAN;
        }
}

static void readout(struct deq_cell *c, size_t n, const float *const *z, float *const *logits, float *const *tails)
{
    (void)tails; /* one cluster */
    for (size_t i = 0; i < n; i++)
        memcpy(logits[i], z[i], c->state_dim * sizeof(float));
}

static void toy_free(struct deq_cell *c)
{
    deq_free(c);
}

static const struct deq_cell_ops ops = {.name = "toy", .inject = inject, .step = step, .readout = readout, .free = toy_free};

enum deq_rc deq_toy_open(size_t dim, float rho, float coupling, size_t max_rows, struct deq_pool *pool, struct deq_cell **ret,
                         struct deq_err *err)
{
    struct toy *t = DEQ_NEW(struct toy);
    if (!t)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the toy cell");
    t->base = (struct deq_cell){.ops = &ops, .state_dim = dim, .inject_dim = dim, .vocab_size = dim, .max_rows = max_rows, .pool = pool};
    t->rho = rho;
    t->coupling = coupling;
    t->poison = UINT32_MAX;
    *ret = &t->base;
    return DEQ_OK;
}

void deq_toy_poison(struct deq_cell *c, uint32_t token)
{
    ((struct toy *)c)->poison = token;
}
