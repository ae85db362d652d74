#include "models/cli/bench/evaluation.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "models/cli/cli.h"

enum { ROWS_MAX = 512, BATCH = 64 /* positions that are walked at a time to where rows stand */ };
static const size_t PAGES_MAX_BYTES = (size_t)1 << 30; /* of one context; rows that need more are left out */
static const size_t contexts[] = {16, 150, 500, 2000}, row_counts[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
enum { CONTEXTS = DEQ_COUNT(contexts), ROW_COUNTS = DEQ_COUNT(row_counts), CASES = CONTEXTS * ROW_COUNTS + 1 };

/* Rows of a cell that stand at one context, or (context 0) as one prompt. */
struct stage {
    struct deq_cell *cell;
    size_t context, sequences, n;
    struct deq_ring *ring; /* [sequences] */
    uint32_t *page;        /* the rings' numbers, one behind the other */
    float *memory;         /* z, f(z), u of every row */
    size_t position[ROWS_MAX];
    const struct deq_ring *rings[ROWS_MAX];
    const float *z[ROWS_MAX];
    float *fz[ROWS_MAX], *u[ROWS_MAX];
    uint32_t token[ROWS_MAX];
};

/* --- Rows --- */

static struct deq_rows rows_of(const struct stage *s)
{
    return (struct deq_rows){.n = s->n, .position = s->position, .ring = s->rings, .z = s->z, .fz = s->fz, .u = s->u};
}

/* n rows: of as many sequences at one position, or of the first sequence from that position on. */
static void stand(struct stage *s, size_t n, size_t position, bool one_sequence)
{
    s->n = n;
    for (size_t i = 0; i < n; i++) {
        s->position[i] = position + (one_sequence ? i : 0);
        s->rings[i] = &s->ring[one_sequence ? 0 : i];
        s->token[i] = (uint32_t)deq_rng_below(2, s->position[i], one_sequence ? 0 : i, s->cell->vocab_size);
    }
    const struct deq_rows rows = rows_of(s);
    s->cell->ops->inject(s->cell, &rows, s->token, s->u);
}

static void step(struct stage *s)
{
    const struct deq_rows rows = rows_of(s);
    s->cell->ops->step(s->cell, &rows);
}

/* The first sequence is walked up to the context, the others get copies of its pages. */
static void walk(struct stage *s)
{
    for (size_t at = 0; at < s->context; at += s->n) {
        stand(s, DEQ_MIN(s->context - at, (size_t)BATCH), at, true);
        step(s);
        const struct deq_rows rows = rows_of(s);
        if (s->cell->ops->commit)
            s->cell->ops->commit(s->cell, &rows);
    }
    for (size_t i = 1; i < s->sequences; i++)
        for (uint32_t p = 0; p < s->ring[0].n; p++)
            s->cell->ops->page_copy(s->cell, s->ring[i].page[p], s->ring[0].page[p]);
}

static void close_stage(struct stage *s)
{
    if (s->cell)
        s->cell->ops->free(s->cell);
    deq_free(s->ring);
    deq_free(s->page);
    deq_free(s->memory);
    *s = (struct stage){0};
}

static enum deq_rc open_stage(struct stage *s, const struct bench_subject *subject, struct deq_pool *pool,
                              size_t context, size_t rows, struct deq_err *err)
{
    const struct deq_kind *kind = subject->arch->kind;
    const struct deq_cell shape = kind->shape(subject->arch, ROWS_MAX, 0, deq_pool_threads(pool));
    const size_t span = context ? DEQ_MIN(context, (size_t)shape.lookback + BATCH) : rows,
                 pages = span / shape.page_tok + 2, most = PAGES_MAX_BYTES / (pages * shape.page_bytes);
    *s = (struct stage){.context = context, .sequences = context ? DEQ_MIN(rows, DEQ_MAX(most, (size_t)1)) : 1};
    const enum deq_rc rc =
        kind->open(subject->weights, ROWS_MAX, (uint32_t)(s->sequences * pages), pool, &s->cell, err);
    if (rc)
        return rc;
    const size_t D = s->cell->state_dim, row = 2 * D + s->cell->inject_dim;
    s->ring = DEQ_NEW_ARRAY(struct deq_ring, s->sequences);
    s->page = DEQ_NEW_ARRAY(uint32_t, s->sequences * pages);
    s->memory = DEQ_NEW_ARRAY(float, ROWS_MAX * row);
    if (!s->ring || !s->page || !s->memory) {
        close_stage(s);
        return deq_fail(err, DEQ_ENOMEM, "no memory for %d rows", ROWS_MAX);
    }
    for (size_t i = 0; i < s->sequences * pages; i++)
        s->page[i] = (uint32_t)i;
    for (size_t i = 0; i < s->sequences; i++)
        s->ring[i] = (struct deq_ring){s->page + i * pages, (uint32_t)pages};
    for (size_t i = 0; i < ROWS_MAX; i++) {
        float *z = s->memory + i * row;
        for (size_t j = 0; j < D; j++)
            z[j] = (float)(2 * deq_rng_uniform(3, i, j) - 1);
        s->z[i] = z;
        s->fz[i] = z + D;
        s->u[i] = z + 2 * D;
    }
    walk(s);
    return DEQ_OK;
}

/* --- Cases --- */

struct one {
    struct stage *stage;
    size_t rows;
    unsigned times; /* evaluations of a sample */
    struct bench_series seconds;
};

static double sample(struct bench_machine *m, struct one *c, unsigned times)
{
    stand(c->stage, c->rows, c->stage->context, !c->stage->context);
    if (times > 1)
        step(c->stage); /* what other cases left in the caches; no matter where one step is long enough */
    const double t = bench_now(m);
    for (unsigned i = 0; i < times; i++)
        step(c->stage);
    return (bench_now(m) - t) / times;
}

static json_t *figures(struct bench_machine *m, const struct bench_subject *s, struct one *c)
{
    const struct deq_cell *cell = c->stage->cell;
    const size_t context = c->stage->context,
                 seen = DEQ_MIN(context ? context + 1 : c->rows, (size_t)cell->lookback + 1),
                 cache = (context ? c->rows : 1) * seen * cell->page_bytes / cell->page_tok;
    const struct bench_floor floor = bench_floor_cell(m, s, c->rows, cache);
    const double t = bench_series_median(&c->seconds);
    return json_pack("{s:I, s:o, s:f, s:f, s:f, s:s, s:f}", "rows", (json_int_t)c->rows, "context",
                     context ? json_integer((json_int_t)context) : json_string("one prompt"), "us", 1e6 * t,
                     "us_per_row", 1e6 * t / (double)c->rows, "floor_us", 1e6 * floor.seconds, "floor_of",
                     floor.of_bytes ? "bytes" : "multiply-adds", "fraction", floor.seconds / t);
}

json_t *bench_evaluations(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err)
{
    const size_t n_contexts = quick ? 1 : CONTEXTS, rows_max = row_counts[(quick ? 4 : ROW_COUNTS) - 1];
    struct stage *stage = DEQ_NEW_ARRAY(struct stage, CONTEXTS + 1);
    struct one *one = DEQ_NEW_ARRAY(struct one, CASES);
    json_t *list = json_array();
    size_t n = 0;
    enum deq_rc rc = stage && one && list ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for evaluations");
    for (size_t i = 0; i < n_contexts && !rc; i++) {
        cli_progress("%s: %zu positions", s->name, contexts[i]);
        rc = open_stage(&stage[i], s, m->pool, contexts[i], rows_max, err);
        for (size_t j = 0; j < ROW_COUNTS && !rc && row_counts[j] <= stage[i].sequences; j++)
            one[n++] = (struct one){.stage = &stage[i], .rows = row_counts[j]};
    }
    if (!rc && !quick && !(rc = open_stage(&stage[CONTEXTS], s, m->pool, 0, ROWS_MAX, err)))
        one[n++] = (struct one){.stage = &stage[CONTEXTS], .rows = ROWS_MAX};
    for (size_t i = 0; i < n && !rc; i++) {
        one[i].times = 1;
        while (one[i].times * sample(m, &one[i], one[i].times) < m->sample_s)
            one[i].times *= 2;
    }
    for (unsigned r = 0; r < m->rounds && !rc; r++)
        for (size_t i = 0; i < n; i++) {
            cli_progress("%s: evaluations, round %u of %u, %zu rows", s->name, r + 1, m->rounds, one[i].rows);
            bench_series_add(&one[i].seconds, sample(m, &one[i], one[i].times));
        }
    for (size_t i = 0; i < n && !rc; i++)
        if (json_array_append_new(list, figures(m, s, &one[i])))
            rc = deq_fail(err, DEQ_ENOMEM, "no memory for evaluations");
    for (size_t i = 0; i <= CONTEXTS && stage; i++)
        close_stage(&stage[i]);
    deq_free(stage);
    deq_free(one);
    if (!rc)
        return list;
    json_decref(list);
    return NULL;
}
