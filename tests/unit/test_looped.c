/* core/cell/looped.c, layer.c: the looped kind on rows, and on sequences, against its equations in double precision,
 * for each family and every switch; and the same bits for a row in any company, pieces, pages, on any number of
 * threads, at every level. */
#include "core/cell/looped.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/seq.h"
#include "tests/unit/answers.h"
#include "tests/unit/levels.h"
#include "tests/unit/looped_reference.h"
#include "tests/unit/test.h"

enum { T = 21, SEQS = 2, RING = 2, PAGES = 2 * SEQS * RING, V_MAX = 64, W = LOOPED_W_MAX };

/* Of every position: the start, f(z), what the head reads of z, its logits. */
struct outcome {
    float start[T][W], f[T][W], y[T][W], logits[T][V_MAX];
};

struct fixture {
    struct deq_looped_arch *a;
    struct deq_weights *w;
    uint32_t token[SEQS][T];
    float z[SEQS][T][W]; /* [S] of each are used */
};

/* How the positions of the first sequence are computed. */
struct how {
    unsigned threads;
    size_t piece;    /* rows a call */
    bool together;   /* with the second sequence's between them */
    bool again;      /* after another text took the same places */
    bool copied;     /* in copies of the pages that `explicit` left */
};

static struct fixture *new_fixture(int variant)
{
    struct fixture *x = DEQ_NEW(struct fixture);
    x->a = looped_variant(variant);
    CHECK(deq_arch_check(&x->a->base, "variant", NULL) == DEQ_OK &&
          deq_weights_new(&x->a->base, &x->w, NULL) == DEQ_OK);
    looped_random_weights(x->w);
    for (size_t s = 0; s < SEQS; s++)
        for (size_t t = 0; t < T; t++) {
            x->token[s][t] = (uint32_t)deq_rng_below(2, s, t, x->a->base.vocab.size);
            for (size_t i = 0; i < W; i++)
                x->z[s][t][i] = (float)deq_rng_normal(3 + s, t, i);
        }
    return x;
}

static void free_fixture(struct fixture *x)
{
    deq_weights_free(x->w);
    deq_free(x->a);
    deq_free(x);
}

/* --- One way of computing --- */

/* All rows of a batch, in order; a call has some of them. */
struct batch {
    const struct fixture *x;
    struct deq_cell *cell;
    struct how how;
    uint32_t page[SEQS][RING];
    struct deq_ring ring[SEQS];
    size_t n;
    size_t position[SEQS * T], seq[SEQS * T];
    const struct deq_ring *rings[SEQS * T];
    uint32_t token[SEQS * T];
    const float *z[SEQS * T];
    float *u[SEQS * T], *start[SEQS * T], *f[SEQS * T], *y[SEQS * T], *logits[SEQS * T];
    float *memory;
    struct outcome *of[SEQS];
};

static void list_rows(struct batch *b)
{
    const size_t U = b->cell->inject_dim;
    b->memory = DEQ_NEW_ARRAY(float, SEQS * T * U);
    for (size_t t = 0; t < T; t++)
        for (size_t s = 0; s < (b->how.together ? SEQS : 1); s++) {
            const size_t i = b->n++;
            b->position[i] = t;
            b->seq[i] = s;
            b->rings[i] = &b->ring[s];
            b->token[i] = b->x->token[s][t];
            b->z[i] = b->x->z[s][t];
            b->u[i] = b->memory + i * U;
            b->start[i] = b->of[s]->start[t];
            b->f[i] = b->of[s]->f[t];
            b->y[i] = b->of[s]->y[t];
            b->logits[i] = b->of[s]->logits[t];
        }
}

static struct deq_rows some(const struct batch *b, size_t at, size_t n)
{
    return (struct deq_rows){.n = n, .position = b->position + at, .ring = b->rings + at, .z = b->z + at,
                             .fz = b->f + at, .u = b->u + at};
}

#define PIECES(b) \
    (size_t at = 0, n = DEQ_MIN((b)->how.piece, (b)->n); at < (b)->n; at += n, n = DEQ_MIN((b)->how.piece, (b)->n - at))

/* Something else stands where the text is to be: keys, values, what is injected. */
static void write_another_text(struct batch *b)
{
    uint32_t other[SEQS * T];
    for (size_t i = 0; i < b->n; i++)
        other[i] = b->token[b->n - 1 - i];
    for PIECES (b) {
        const struct deq_rows rows = some(b, at, n);
        b->cell->ops->explicit(b->cell, &rows, other + at);
        b->cell->ops->inject(b->cell, &rows, other + at, b->u + at);
        b->cell->ops->step(b->cell, &rows);
    }
}

/* Further pages become what the rings' are, which are then written over. */
static void move_pages(struct batch *b)
{
    const uint32_t old[SEQS][RING] = {{b->page[0][0], b->page[0][1]}, {b->page[1][0], b->page[1][1]}};
    for (size_t s = 0; s < SEQS; s++)
        for (size_t i = 0; i < RING; i++) {
            b->page[s][i] = SEQS * RING + old[s][i];
            b->cell->ops->page_copy(b->cell, b->page[s][i], old[s][i]);
        }
    for (size_t s = 0; s < SEQS; s++)
        b->ring[s].page = (uint32_t *)(uintptr_t)old[s];
    write_another_text(b);
    for (size_t s = 0; s < SEQS; s++)
        b->ring[s].page = b->page[s];
}

static void compute(struct batch *b)
{
    const struct deq_cell_ops *ops = b->cell->ops;
    if (b->how.again)
        write_another_text(b);
    for PIECES (b) {
        const struct deq_rows rows = some(b, at, n);
        ops->explicit(b->cell, &rows, b->token + at);
    }
    if (b->how.copied)
        move_pages(b);
    for PIECES (b) {
        const struct deq_rows rows = some(b, at, n);
        if (ops->start)
            ops->start(b->cell, &rows, b->start + at);
        ops->inject(b->cell, &rows, b->token + at, b->u + at);
        ops->step(b->cell, &rows);
    }
    for PIECES (b) {
        const struct deq_rows rows = some(b, at, n);
        if (ops->coda)
            ops->coda(b->cell, &rows, b->y + at);
        const struct deq_rows read = {.n = n, .position = rows.position, .ring = rows.ring,
                                      .z = ops->coda ? (const float *const *)b->y + at : b->z + at};
        ops->readout(b->cell, &read, b->logits + at, NULL);
    }
}

/* Outcomes of the sequences of one way. */
static void run(const struct fixture *x, const struct deq_weights *packed, struct how how, struct outcome *out[SEQS])
{
    struct deq_pool *pool = NULL;
    struct batch b = {.x = x, .how = how, .page = {{1, 2}, {3, 0}}, .of = {out[0], out[1]}};
    CHECK(deq_pool_new(how.threads, &pool, NULL) == DEQ_OK);
    const uint64_t before = deq_mem_bytes();
    CHECK(deq_looped_open(packed, how.piece, PAGES, pool, &b.cell, NULL) == DEQ_OK);
    CHECK_EQ(b.cell->bytes, deq_mem_bytes() - before);
    for (size_t s = 0; s < SEQS; s++)
        b.ring[s] = (struct deq_ring){b.page[s], RING};
    list_rows(&b);
    compute(&b);
    b.cell->ops->free(b.cell);
    deq_free(b.memory);
    deq_pool_free(pool);
}

static struct deq_weights *pack(const struct fixture *x, enum deq_class numeric)
{
    struct deq_weights *packed = NULL;
    x->a->base.serving.numeric = numeric;
    CHECK(deq_weights_packed(&x->a->base, x->w, false, &packed, NULL) == DEQ_OK);
    return packed;
}

/* --- Against the equations --- */

static double distance(const float *x, const double *want, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = worse(worst, fabs((double)x[i] - want[i]));
    return worst;
}

static void check_equations(const struct fixture *x, const struct outcome *o, const struct looped_reference *r,
                            double room, const char *name)
{
    const size_t D = x->a->base.vocab.d_model, S = deq_looped_state(x->a);
    const bool coda = x->a->n_layer[DEQ_CODA] || x->a->core_output || x->a->core_norm;
    double start = 0, f = 0, y = 0, logits = 0, want[V_MAX];
    for (size_t t = 0; t < T; t++) {
        if (x->a->injection == DEQ_INJECT_PROPOSAL)
            start = worse(start, distance(o->start[t], r->e[t], D));
        f = worse(f, distance(o->f[t], r->f[t], S));
        if (coda)
            y = worse(y, distance(o->y[t], r->y[t], D));
        looped_reference_logits(x->w, r, t, want);
        logits = worse(logits, distance(o->logits[t], want, x->a->base.vocab.size));
    }
    CHECK_MSG(start < room && f < room && y < room && logits < room, "%s: start %g, f %g, y %g, logits %g", name,
              start, f, y, logits);
}

/* The form that trains and scores. */
static void check_sequence(const struct fixture *x, const float *z, const struct looped_reference *r, double room)
{
    const size_t S = deq_looped_state(x->a), V = x->a->base.vocab.size;
    const struct deq_seq_shape shape = {.b = 1, .t = T, .n_tapes = 1};
    struct deq_seq *s = NULL;
    float *fz = DEQ_NEW_ARRAY(float, T * S), *logprobs = DEQ_NEW_ARRAY(float, T * V);
    double f = 0, p = 0, want[V_MAX];
    CHECK(deq_seq_new(&x->a->base, &shape, &s, NULL) == DEQ_OK);
    s->ops->begin(s, x->w, x->token[0], NULL);
    s->ops->forward(s, 0, z, fz);
    CHECK(deq_seq_logprobs(s, z, logprobs, NULL) == DEQ_OK);
    for (size_t t = 0; t < T; t++) {
        double sum = 0;
        f = worse(f, distance(fz + t * S, r->f[t], S));
        looped_reference_logits(x->w, r, t, want);
        for (size_t i = 0; i < V; i++)
            sum += exp(want[i]);
        for (size_t i = 0; i < V; i++)
            want[i] -= log(sum);
        p = worse(p, distance(logprobs + t * V, want, V));
    }
    CHECK_MSG(f < room && p < room, "sequence: f %g, log-probabilities %g", f, p);
    deq_seq_free(s);
    deq_free(fz);
    deq_free(logprobs);
}

static void check_variant(int variant)
{
    struct fixture *x = new_fixture(variant);
    struct looped_reference *r = DEQ_NEW(struct looped_reference);
    struct outcome *o[SEQS] = {DEQ_NEW(struct outcome), NULL};
    float *z = DEQ_NEW_ARRAY(float, T * W);
    const size_t S = deq_looped_state(x->a);
    for (size_t t = 0; t < T; t++)
        memcpy(z + t * S, x->z[0][t], S * sizeof *z);
    looped_reference(x->w, x->token[0], z, T, r);
    /* numbers of size 1 to 5 through at most six layers of sums over at most 56 terms, each rounded by 2^-24; or to the
     * 32512th part of the largest in a row, which is 500 times as coarse */
    static const double room[] = {[DEQ_CLASS_FLOAT32] = 2e-5, [DEQ_CLASS_INT16] = 4e-3};
    check_sequence(x, z, r, room[DEQ_CLASS_FLOAT32]);
    for (int c = DEQ_CLASS_FLOAT32; c <= DEQ_CLASS_INT16; c++) {
        struct deq_weights *packed = pack(x, (enum deq_class)c);
        run(x, packed, (struct how){.threads = 2, .piece = T}, o);
        check_equations(x, o[0], r, room[c], deq_class_name((enum deq_class)c));
        deq_weights_free(packed);
    }
    deq_free(z);
    deq_free(o[0]);
    deq_free(r);
    free_fixture(x);
}

TEST(looped_rows_attractor)
{
    check_variant(0);
}
TEST(looped_rows_parcae)
{
    check_variant(1);
}
TEST(looped_rows_parcae_linear)
{
    check_variant(2);
}
TEST(looped_rows_huginn)
{
    check_variant(3);
}
TEST(looped_rows_grouped_heads)
{
    check_variant(4);
}
TEST(looped_rows_without_prelude)
{
    check_variant(5);
}

/* --- The same bits --- */

/* All ways, or the first alone. */
static void check_ways(const struct fixture *x, enum deq_class numeric, int level, bool all, struct outcome *first,
                       const char *name)
{
    static const struct how ways[] = {{.threads = 1, .piece = T},
                                      {.threads = 1, .piece = 7, .together = true, .again = true},
                                      {.threads = 1, .piece = 1, .together = true},
                                      {.threads = 2, .piece = 16, .together = true, .copied = true},
                                      {.threads = 3, .piece = SEQS * T, .together = true}};
    struct outcome *o[SEQS] = {DEQ_NEW(struct outcome), DEQ_NEW(struct outcome)};
    struct deq_weights *packed = pack(x, numeric);
    for (size_t i = 0; i < (all ? DEQ_COUNT(ways) : 1); i++) {
        memset(o[0], 0, sizeof *o[0]);
        run(x, packed, ways[i], o);
        if (!level && !i)
            *first = *o[0];
        CHECK_MSG(!memcmp(o[0], first, sizeof *first), "%s, %s, %s: way %zu", name, level_names[level],
                  deq_class_name(numeric), i);
    }
    deq_weights_free(packed);
    deq_free(o[0]);
    deq_free(o[1]);
}

TEST(looped_rows_in_any_company_at_every_level)
{
    const struct deq_kern *const was = deq_kern();
    struct outcome *first = DEQ_NEW(struct outcome);
    find_levels();
    for (int variant = 0; variant < LOOPED_VARIANTS; variant++) {
        struct fixture *x = new_fixture(variant);
        for (int c = 0; c < DEQ_CLASS_COUNT; c++)
            for (int l = 0; l < LEVELS; l++)
                if ((l < LEVELS_OF_MACHINES || (c == variant % DEQ_CLASS_COUNT && c == l - LEVELS_OF_MACHINES)) &&
                    force_level(l)) /* emulated, where each has something of its own: floats, VNNI, tiles */
                    check_ways(x, (enum deq_class)c, l, levels[l] == was, first, looped_variant_names[variant]);
        free_fixture(x);
    }
    deq_kern_use(was);
    deq_free(first);
}

/* --- Both ends --- */

TEST(looped_ops_are_those_of_the_architecture)
{
    for (int variant = 0; variant < LOOPED_VARIANTS; variant++) {
        struct deq_looped_arch *a = looped_variant(variant);
        const struct deq_cell c = deq_looped_shape(&a->base, 1, 1, 1);
        CHECK(c.ops->explicit && !c.ops->start == (a->injection != DEQ_INJECT_PROPOSAL));
        CHECK(!c.ops->coda == (variant == 0 || variant == 5));
        CHECK(!c.ops->predict == (a->base.predictor_hidden == 0));
        CHECK_EQ(c.lookback, a->max_positions - 1);
        CHECK_EQ(c.max_positions, a->max_positions);
        CHECK_EQ(c.read_dim, (size_t)a->base.vocab.d_model);
        deq_free(a);
    }
}

/* Of a model without a soft cap the best word is told from logits that are known; with one, never. */
TEST(looped_best_word_near_logits)
{
    for (int variant = 0; variant < LOOPED_VARIANTS; variant++) {
        struct fixture *x = new_fixture(variant);
        struct outcome *o[SEQS] = {DEQ_NEW(struct outcome), NULL};
        struct deq_weights *packed = pack(x, DEQ_CLASS_INT16);
        struct deq_pool *pool = NULL;
        struct deq_cell *cell = NULL;
        const uint32_t V = x->a->base.vocab.size;
        run(x, packed, (struct how){.threads = 1, .piece = T}, o);
        CHECK(deq_pool_new(1, &pool, NULL) == DEQ_OK &&
              deq_looped_open(packed, 1, PAGES, pool, &cell, NULL) == DEQ_OK);
        float rounded[V_MAX], *to[1] = {rounded};
        for (size_t t = 0; t < T; t++) {
            const float *y = cell->ops->coda ? o[0]->y[t] : x->z[0][t], *logits = o[0]->logits[t];
            const struct deq_rows rows = {.n = 1, .z = &y};
            const struct deq_known known = {.state = y, .logits = logits, .likely = UINT32_MAX};
            uint32_t best = 0;
            for (uint32_t i = 1; i < V; i++)
                best = logits[i] > logits[best] ? i : best;
            const bool capped = x->a->logit_softcap > 0, screens = cell->ops->screen(cell, &rows, to);
            CHECK_EQ(cell->ops->best_near(cell, 0, y, &known), capped ? UINT32_MAX : best);
            CHECK(screens == !capped);
            for (uint32_t i = 0; screens && i < V; i++) /* bytes: half of 1/127 of the largest of 36 numbers each */
                CHECK(fabsf(rounded[i] - logits[i]) < 0.1f);
        }
        cell->ops->free(cell);
        deq_pool_free(pool);
        deq_weights_free(packed);
        deq_free(o[0]);
        free_fixture(x);
    }
}

/* --- In the engine --- */

/* A guess costs layers before and behind the loop, a prompt's token does not; with layers behind, loops are counted. */
TEST(looped_windows)
{
    static const struct {
        uint32_t before, behind, window, prefill;
    } cases[] = {{2, 0, 1, 16}, {2, 2, 1, 0}, {0, 1, 1, 0}, {0, 0, 8, 0}};
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_arch *a = deq_arch_new(&deq_looped_kind);
        REQUIRE(a);
        struct deq_looped_arch *l = (struct deq_looped_arch *)a;
        l->n_layer[DEQ_PRELUDE] = cases[i].before;
        l->n_layer[DEQ_CODA] = cases[i].behind;
        a->kind->serving(a, &a->serving);
        CHECK_EQ(a->serving.row_window, cases[i].window);
        CHECK_EQ(a->serving.prefill_window, cases[i].prefill);
        deq_free(a);
    }
}

static struct deq_engine *engine_of(const struct deq_weights *packed, const struct deq_arch *a, unsigned threads)
{
    const struct deq_engine_opts in = {.max_sequences = 4, .max_positions = 32, .prefill_block = 16};
    const struct deq_cell shape = deq_looped_shape(a, 0, 0, 1);
    struct deq_engine_opts o;
    struct deq_pool *pool = NULL;
    struct deq_cell *cell = NULL;
    struct deq_engine *e = NULL;
    CHECK(deq_pool_new(threads, &pool, NULL) == DEQ_OK &&
          deq_engine_opts_fill(&shape, &in, &o, NULL) == DEQ_OK &&
          deq_looped_open(packed, o.max_rows, deq_engine_pages(&shape, &o), pool, &cell, NULL) == DEQ_OK &&
          deq_engine_open(cell, &a->vocab, &a->serving, pool, &o, &e, NULL) == DEQ_OK);
    return e;
}

/* Requests of every window, whose prompts begin alike, up to the last position: with all others in one engine, behind
 * cached blocks, they get what each gets in an engine of its own. */
static void check_company(int variant, enum deq_class numeric)
{
    enum { PROBES = 4 };
    struct fixture *x = new_fixture(variant);
    struct deq_weights *packed = pack(x, numeric);
    struct answer alone[PROBES] = {{0}}, got[2][PROBES] = {{{0}}};
    struct deq_request q[PROBES];
    struct deq_engine *e;
    for (size_t i = 0; i < PROBES; i++) {
        q[i] = toy_request(x->token[0], 17 + i, (uint32_t)(15 - i), &alone[i]);
        alone[i].vocab = x->a->base.vocab.size;
        q[i].sampling = (struct deq_sampling){.temperature = i % 2, .top_p = 1, .seed = i};
        q[i].solve.max_iter = 12;
        q[i].solve.window = 1u << i;
        e = engine_of(packed, &x->a->base, 1);
        REQUIRE(e);
        alone[i] = ask(e, &q[i], NULL);
        CHECK(alone[i].n == 15 - i && alone[i].finish == DEQ_FINISH_LENGTH);
        deq_engine_free(e);
    }
    e = engine_of(packed, &x->a->base, 2);
    REQUIRE(e);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < PROBES; i++) {
            struct deq_request one = q[i];
            got[round][i].vocab = x->a->base.vocab.size;
            one.ctx = &got[round][i];
            CHECK(deq_submit(e, &one, NULL, NULL) == DEQ_OK);
            for (size_t steps = 3 * i; steps > 0; steps--)
                deq_step(e);
        }
        run_all(e);
        for (size_t i = 0; i < PROBES; i++)
            CHECK_MSG(same_answer(&got[round][i], &alone[i]), "%s: round %zu, probe %zu differs",
                      looped_variant_names[variant], round, i);
    }
    deq_engine_free(e);
    deq_weights_free(packed);
    free_fixture(x);
}

TEST(looped_answers_in_any_company)
{
    check_company(0, DEQ_CLASS_FLOAT32);
    check_company(0, DEQ_CLASS_INT8);
    check_company(1, DEQ_CLASS_INT8);
    check_company(3, DEQ_CLASS_INT16);
}
