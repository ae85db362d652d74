/* core/cell/toy.c: its equations, over pages; the closed form is what the engine's tests compare with. */
#include "core/cell/toy.h"

#include "tests/unit/test.h"

enum { D = 6, N = 5 };

static const uint32_t token[N] = {2, 0, 5, 5, 1};

/* N positions of one sequence, the last on a page of its own. All numbers are exact in binary. */
struct bench {
    struct deq_pool *pool;
    struct deq_cell *cell;
    uint32_t number[2];
    struct deq_ring ring;
    const struct deq_ring *rings[N];
    size_t position[N];
    float z[N][D], fz[N][D], u[N][2 * D], y[N][2 * D];
    const float *zp[N];
    float *fzp[N], *up[N], *yp[N];
};

static struct deq_rows rows_of(const struct bench *b)
{
    return (struct deq_rows){.n = N, .position = b->position, .ring = b->rings, .z = b->zp, .fz = b->fzp, .u = b->up};
}

static bool open_bench(struct bench *b, const struct deq_toy *of)
{
    *b = (struct bench){.number = {3, 1}};
    b->ring = (struct deq_ring){b->number, 2};
    for (size_t i = 0; i < N; i++) {
        b->rings[i] = &b->ring;
        b->position[i] = i;
        b->zp[i] = b->z[i];
        b->fzp[i] = b->fz[i];
        b->up[i] = b->u[i];
        b->yp[i] = b->y[i];
        for (size_t d = 0; d < D; d++)
            b->z[i][d] = (float)(i + 1) - 0.5f * (float)d;
    }
    return !deq_pool_new(1, &b->pool, NULL) && !deq_toy_open(of, N, 4, b->pool, &b->cell, NULL);
}

static void close_bench(struct bench *b)
{
    b->cell->ops->free(b->cell);
    deq_pool_free(b->pool);
}

TEST(toy_equation_and_pages)
{
    struct bench b;
    REQUIRE(open_bench(&b, &(struct deq_toy){.dim = D, .rho = 0.25f, .coupling = 0.5f}));
    const struct deq_rows rows = rows_of(&b);
    const struct deq_cell_ops *ops = b.cell->ops;
    CHECK(!ops->explicit && !ops->start && !ops->coda);
    ops->inject(b.cell, &rows, token, b.up);
    ops->step(b.cell, &rows);
    for (size_t i = 0; i < N; i++)
        for (size_t d = 0; d < D; d++)
            CHECK_EQ(b.fz[i][d], 0.25f * b.z[i][d] + 0.75f * ((float)(token[i] == d) + (i ? 0.5f * b.z[i - 1][d] : 0)));
    /* a copy of the last page is as good; a neighbour's poison stays with its row */
    ops->page_copy(b.cell, 2, 1);
    b.number[1] = 2;
    deq_toy_poison(b.cell, 5);
    ops->step(b.cell, &rows);
    CHECK(isnan(b.fz[2][0]) && isnan(b.fz[3][0]) && !isnan(b.fz[1][0]) &&
          b.fz[4][1] == 0.25f * b.z[4][1] + 0.75f * (1 + 0.5f * b.z[3][1]));
    ops->commit(b.cell, &rows);
    CHECK_EQ(deq_toy_commits(b.cell), N);
    float logits[D], *out[N] = {logits, logits, logits, logits, logits};
    ops->readout(b.cell, &rows, out, NULL);
    CHECK(!memcmp(logits, b.z[N - 1], sizeof logits));
    close_bench(&b);
}

/* What the layers before and behind the loop leave in pages is read by later positions, and moves with its page. */
TEST(toy_layers_around_the_loop)
{
    struct bench b;
    REQUIRE(open_bench(&b, &(struct deq_toy){.dim = D, .before = 0.5f, .behind = 0.25f}));
    const struct deq_rows rows = rows_of(&b);
    const struct deq_cell_ops *ops = b.cell->ops;
    ops->explicit(b.cell, &rows, token);
    ops->page_copy(b.cell, 0, 3);
    b.number[0] = 0;
    ops->start(b.cell, &rows, b.fzp);
    ops->inject(b.cell, &rows, token, b.up);
    ops->coda(b.cell, &rows, b.yp);
    CHECK(b.cell->read_dim == 2 * D && deq_toy_largest_batch(b.cell) == N);
    for (size_t i = 0; i < N; i++)
        for (size_t d = 0; d < D; d++) {
            const float x = (float)(token[i] == d) + (i ? 0.5f * b.u[i - 1][d] : 0);
            CHECK(b.u[i][d] == x && b.fz[i][d] == x);
            CHECK_EQ(b.y[i][d], b.z[i][d] + (i ? 0.25f * b.y[i - 1][d] : 0));
        }
    close_bench(&b);
}
