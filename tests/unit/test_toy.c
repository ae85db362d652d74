/* core/cell/toy.c: its equation, over pages; the closed form is what the engine's tests compare with. */
#include "core/cell/toy.h"

#include "tests/unit/test.h"

enum { D = 6, N = 5 };

TEST(toy_equation_and_pages)
{
    struct deq_pool *pool = NULL;
    struct deq_cell *c = NULL;
    uint32_t number[2] = {3, 1};
    const struct deq_ring ring = {number, 2}, *rings[N] = {&ring, &ring, &ring, &ring, &ring};
    const size_t position[N] = {0, 1, 2, 3, 4}; /* the last is on a page of its own */
    const uint32_t token[N] = {2, 0, 5, 5, 1};
    float z[N][D], fz[N][D], u[N][D];
    const float *zp[N];
    float *fzp[N], *up[N];
    REQUIRE(!deq_pool_new(1, &pool, NULL) && !deq_toy_open(D, 0.25f, 0.5f, N, 4, pool, &c, NULL));
    for (size_t i = 0; i < N; i++) {
        zp[i] = z[i];
        fzp[i] = fz[i];
        up[i] = u[i];
        for (size_t d = 0; d < D; d++)
            z[i][d] = (float)(i + 1) - 0.5f * (float)d;
    }
    const struct deq_rows rows = {.n = N, .position = position, .ring = rings, .z = zp, .fz = fzp, .u = up};
    c->ops->inject(c, &rows, token, up);
    c->ops->step(c, &rows);
    for (size_t i = 0; i < N; i++)
        for (size_t d = 0; d < D; d++) /* all exact in binary */
            CHECK_EQ(fz[i][d], 0.25f * z[i][d] + 0.75f * ((float)(token[i] == d) + (i ? 0.5f * z[i - 1][d] : 0)));
    /* a copy of the last page is as good; a neighbour's poison stays with its row */
    c->ops->page_copy(c, 2, 1);
    number[1] = 2;
    deq_toy_poison(c, 5);
    c->ops->step(c, &rows);
    CHECK(isnan(fz[2][0]) && isnan(fz[3][0]) && !isnan(fz[1][0]) &&
          fz[4][1] == 0.25f * z[4][1] + 0.75f * (1 + 0.5f * z[3][1]));
    c->ops->commit(c, &rows);
    CHECK_EQ(deq_toy_commits(c), N);
    float logits[D], *out[N] = {logits, logits, logits, logits, logits};
    c->ops->readout(c, &rows, out, NULL);
    CHECK(!memcmp(logits, z[N - 1], sizeof logits));
    c->ops->free(c);
    deq_pool_free(pool);
}
