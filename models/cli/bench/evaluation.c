#include "models/cli/bench/evaluation.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "models/cli/cli.h"

enum { ROWS_MAX = 512, BATCH = 64 /* positions that are walked at a time to where rows stand */ };
static const size_t PAGES_MAX_BYTES = (size_t)1 << 29; /* of one context; rows that need more are left out */
static const size_t contexts[] = {16, 150, 500, 2000}, row_counts[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
enum { CONTEXTS = DEQ_COUNT(contexts), ROW_COUNTS = DEQ_COUNT(row_counts) };
enum { END_ROWS_MAX = 32, BLOCK = 128 /* of a prompt, which the layers before the loop take at once */ };

/* Parts of a cell. */
enum work { STEP, EXPLICIT, CODA, READOUT, SCREEN, WORKS };
static const char *const work_name[WORKS] = {[EXPLICIT] = "layers before", [CODA] = "layers behind", [READOUT] = "head",
                                             [SCREEN] = "head in bytes"};

/* Rows of a cell that stand at one context, or (context 0) as one prompt. */
struct stage {
    struct deq_cell *cell;
    size_t context, sequences, n;
    struct deq_ring *ring; /* [sequences] */
    uint32_t *page;        /* the rings' numbers, one behind the other */
    float *memory;         /* z, f(z) (or what else has the width of either), u of every row */
    float *logits_memory;  /* of END_ROWS_MAX rows, and their tails; NULL: not asked for */
    size_t position[ROWS_MAX];
    const struct deq_ring *rings[ROWS_MAX];
    const float *z[ROWS_MAX];
    float *fz[ROWS_MAX], *u[ROWS_MAX], *logits[END_ROWS_MAX], *tails[END_ROWS_MAX];
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

/* Rows stand that have logits where it is asked for the head in bytes. */
static bool does(const struct stage *s, enum work work)
{
    const struct deq_cell_ops *ops = s->cell->ops;
    const struct deq_rows rows = rows_of(s);
    switch (work) {
    case EXPLICIT: return ops->explicit != NULL;
    case CODA: return ops->coda != NULL;
    case SCREEN: return ops->screen && ops->screen(s->cell, &rows, s->logits);
    default: return true;
    }
}

static void perform(struct stage *s, enum work work)
{
    const struct deq_rows rows = rows_of(s);
    const struct deq_cell_ops *ops = s->cell->ops;
    switch (work) {
    case EXPLICIT: ops->explicit(s->cell, &rows, s->token); break;
    case CODA: ops->coda(s->cell, &rows, s->fz); break;
    case READOUT: ops->readout(s->cell, &rows, s->logits, s->cell->n_tails ? s->tails : NULL); break;
    case SCREEN: (void)ops->screen(s->cell, &rows, s->logits); break;
    default: ops->step(s->cell, &rows);
    }
}

/* The first sequence is walked through its first n positions, the others get copies of its pages. */
static void walk(struct stage *s, size_t n)
{
    for (size_t at = 0; at < n; at += s->n) {
        stand(s, DEQ_MIN(n - at, (size_t)BATCH), at, true);
        if (does(s, EXPLICIT))
            perform(s, EXPLICIT);
        perform(s, STEP);
        if (does(s, CODA))
            perform(s, CODA);
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
    deq_free(s->logits_memory);
    *s = (struct stage){0};
}

/* Where rows keep what a cell reads and writes of them. */
static enum deq_rc open_rows(struct stage *s, bool ends, struct deq_err *err)
{
    const struct deq_cell *c = s->cell;
    const size_t D = DEQ_MAX(c->state_dim, c->read_dim), row = 2 * D + c->inject_dim, out = c->vocab_size + c->n_tails;
    s->memory = DEQ_NEW_ARRAY(float, ROWS_MAX * row);
    s->logits_memory = ends ? DEQ_NEW_ARRAY(float, END_ROWS_MAX * out) : NULL;
    if (!s->memory || (ends && !s->logits_memory))
        return deq_fail(err, DEQ_ENOMEM, "no memory for %d rows", ROWS_MAX);
    for (size_t i = 0; i < ROWS_MAX; i++) {
        float *z = s->memory + i * row;
        for (size_t j = 0; j < D; j++)
            z[j] = (float)(2 * deq_rng_uniform(3, i, j) - 1);
        s->z[i] = z;
        s->fz[i] = z + D;
        s->u[i] = z + 2 * D;
    }
    for (size_t i = 0; i < END_ROWS_MAX && ends; i++) {
        s->logits[i] = s->logits_memory + i * out;
        s->tails[i] = s->logits[i] + c->vocab_size;
    }
    return DEQ_OK;
}

static enum deq_rc open_stage(struct stage *s, const struct bench_subject *subject, struct deq_pool *pool,
                              size_t context, size_t rows, bool ends, struct deq_err *err)
{
    const struct deq_kind *kind = subject->arch->kind;
    const struct deq_cell shape = kind->shape(subject->arch, ROWS_MAX, 0, deq_pool_threads(pool));
    const size_t span = context ? DEQ_MIN(context, (size_t)shape.lookback + BATCH) : rows,
                 pages = span / shape.page_tok + 1 + (span < context),
                 most = PAGES_MAX_BYTES / (pages * shape.page_bytes);
    *s = (struct stage){.context = context, .sequences = context ? DEQ_MIN(rows, DEQ_MAX(most, (size_t)1)) : 1};
    enum deq_rc rc = kind->open(subject->weights, ROWS_MAX, (uint32_t)(s->sequences * pages), pool, &s->cell, err);
    if (rc)
        return rc;
    s->ring = DEQ_NEW_ARRAY(struct deq_ring, s->sequences);
    s->page = DEQ_NEW_ARRAY(uint32_t, s->sequences * pages);
    rc = s->ring && s->page ? open_rows(s, ends, err)
                            : deq_fail(err, DEQ_ENOMEM, "no memory for %zu sequences", s->sequences);
    if (rc) {
        close_stage(s);
        return rc;
    }
    for (size_t i = 0; i < s->sequences * pages; i++)
        s->page[i] = (uint32_t)i;
    for (size_t i = 0; i < s->sequences; i++)
        s->ring[i] = (struct deq_ring){s->page + i * pages, (uint32_t)pages};
    /* what the layers before the loop leave of the rows' own position too */
    walk(s, !does(s, EXPLICIT) ? context : context ? context + 1 : rows);
    return DEQ_OK;
}

/* --- Cases --- */

struct one {
    struct stage *stage;
    enum work work;
    size_t rows;
    unsigned times; /* of a sample */
    struct bench_series seconds;
};

static double sample(struct bench_machine *m, struct one *c, unsigned times)
{
    stand(c->stage, c->rows, c->stage->context, !c->stage->context);
    if (times > 1)
        perform(c->stage, c->work); /* what other cases left in the caches; no matter where once is long enough */
    const double t = bench_now(m);
    for (unsigned i = 0; i < times; i++)
        perform(c->stage, c->work);
    return (bench_now(m) - t) / times;
}

static void measure(struct bench_machine *m, const struct bench_subject *s, const char *what, struct one *one, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        one[i].times = 1;
        while (one[i].times * sample(m, &one[i], one[i].times) < m->sample_s)
            one[i].times *= 2;
    }
    for (unsigned r = 0; r < m->rounds; r++)
        for (size_t i = 0; i < n; i++) {
            cli_progress("%s: %s, round %u of %u, %zu rows", s->name, what, r + 1, m->rounds, one[i].rows);
            bench_series_add(&one[i].seconds, sample(m, &one[i], one[i].times));
        }
}

static size_t positions_of(const struct bench_subject *s)
{
    const uint32_t most = s->arch->kind->shape(s->arch, 0, 0, 1).max_positions;
    return most ? most : UINT32_MAX;
}

/* Adds figures: what the case is, then its time against its floor. */
static enum deq_rc append(json_t *list, struct one *c, json_t *figures, struct bench_floor floor, struct deq_err *err)
{
    const double t = bench_series_median(&c->seconds);
    json_t *times = json_pack("{s:f, s:f, s:f, s:s, s:f}", "us", 1e6 * t, "us_per_row", 1e6 * t / (double)c->rows,
                              "floor_us", 1e6 * floor.seconds, "floor_of", floor.of_bytes ? "bytes" : "multiply-adds",
                              "fraction", floor.seconds / t);
    const bool ok = figures && times && !json_object_update(figures, times);
    json_decref(times);
    return json_array_append_new(list, figures) || !ok ? deq_fail(err, DEQ_ENOMEM, "no memory for figures") : DEQ_OK;
}

static enum deq_rc append_evaluation(struct bench_machine *m, const struct bench_subject *s, json_t *list,
                                     struct one *c, struct deq_err *err)
{
    const struct deq_cell *cell = c->stage->cell;
    const size_t context = c->stage->context,
                 seen = DEQ_MIN(context ? context + 1 : c->rows, (size_t)cell->lookback + 1),
                 cache = (context ? c->rows : 1) * seen * cell->page_bytes / cell->page_tok;
    return append(list, c, json_pack("{s:I, s:o}", "rows", (json_int_t)c->rows, "context",
                                     context ? json_integer((json_int_t)context) : json_string("one prompt")),
                  bench_floor_matrices(m, s, cell->step_madds, false, c->rows, cache), err);
}

/* What was measured, or NULL; the stages [n] go, where they are. */
static json_t *close_part(struct stage *stage, size_t n, struct one *one, enum deq_rc rc, json_t *list)
{
    for (size_t i = 0; i < n && stage; i++)
        close_stage(&stage[i]);
    deq_free(stage);
    deq_free(one);
    if (!rc)
        return list;
    json_decref(list);
    return NULL;
}

json_t *bench_evaluations(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err)
{
    const size_t n_contexts = quick ? 1 : CONTEXTS, rows_max = row_counts[(quick ? 4 : ROW_COUNTS) - 1],
                 positions = positions_of(s), prompt = DEQ_MIN(positions, (size_t)ROWS_MAX);
    struct stage *stage = DEQ_NEW_ARRAY(struct stage, CONTEXTS + 1);
    struct one *one = DEQ_NEW_ARRAY(struct one, CONTEXTS * ROW_COUNTS + 1);
    json_t *list = json_array();
    size_t n = 0;
    enum deq_rc rc = stage && one && list ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for evaluations");
    for (size_t i = 0; i < n_contexts && contexts[i] < positions && !rc; i++) {
        cli_progress("%s: %zu positions", s->name, contexts[i]);
        rc = open_stage(&stage[i], s, m->pool, contexts[i], rows_max, false, err);
        for (size_t j = 0; j < ROW_COUNTS && !rc && row_counts[j] <= stage[i].sequences; j++)
            one[n++] = (struct one){.stage = &stage[i], .rows = row_counts[j]};
    }
    if (!rc && !quick && !(rc = open_stage(&stage[CONTEXTS], s, m->pool, 0, prompt, false, err)))
        one[n++] = (struct one){.stage = &stage[CONTEXTS], .rows = prompt};
    if (!rc)
        measure(m, s, "evaluations", one, n);
    for (size_t i = 0; i < n && !rc; i++)
        rc = append_evaluation(m, s, list, &one[i], err);
    return close_part(stage, CONTEXTS + 1, one, rc, list);
}

/* --- Before and behind the loop --- */

static struct bench_floor end_floor(struct bench_machine *m, const struct bench_subject *s, const struct one *c)
{
    const struct deq_cell *cell = c->stage->cell;
    switch (c->work) {
    case EXPLICIT: return bench_floor_matrices(m, s, cell->explicit_madds, false, c->rows, 0);
    case CODA: return bench_floor_matrices(m, s, cell->coda_madds, false, c->rows, 0);
    case READOUT: return bench_floor_matrices(m, s, cell->readout_madds, true, c->rows, 0);
    default: break;
    }
    const struct deq_packed *rounded = NULL;
    for (size_t i = 0; i < s->weights->n_params && !rounded; i++)
        rounded = s->weights->params[i].rounded;
    return bench_floor_product(m, rounded, c->rows);
}

/* Each part of the cell on rows of sequences of their own, and the layers before the loop on a prompt's block. */
static size_t ends(struct stage *behind, struct stage *prompt, size_t block, struct one *one)
{
    size_t n = 0;
    stand(behind, 1, behind->context, false);
    for (enum work w = EXPLICIT; w < WORKS; w++) {
        for (size_t j = 0; does(behind, w) && j < ROW_COUNTS && row_counts[j] <= behind->sequences; j++)
            one[n++] = (struct one){.stage = behind, .work = w, .rows = row_counts[j]};
        if (w == EXPLICIT && does(behind, w))
            one[n++] = (struct one){.stage = prompt, .work = w, .rows = block};
    }
    return n;
}

json_t *bench_ends(struct bench_machine *m, const struct bench_subject *s, bool quick, struct deq_err *err)
{
    struct stage *stage = DEQ_NEW_ARRAY(struct stage, 2);
    struct one *one = DEQ_NEW_ARRAY(struct one, (size_t)WORKS * ROW_COUNTS);
    json_t *list = json_array();
    const size_t positions = positions_of(s), block = DEQ_MIN(positions, (size_t)BLOCK);
    size_t n = 0;
    enum deq_rc rc = stage && one && list ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for figures");
    if (!rc)
        rc = open_stage(&stage[0], s, m->pool, DEQ_MIN(contexts[0], positions - 1), quick ? 8 : END_ROWS_MAX, true,
                        err);
    if (!rc)
        rc = open_stage(&stage[1], s, m->pool, 0, block, false, err);
    if (!rc) {
        n = ends(&stage[0], &stage[1], block, one);
        measure(m, s, "ends", one, n);
    }
    for (size_t i = 0; i < n && !rc; i++)
        rc = append(list, &one[i], json_pack("{s:s, s:I}", "work", work_name[one[i].work], "rows",
                                             (json_int_t)one[i].rows), end_floor(m, s, &one[i]), err);
    return close_part(stage, 2, one, rc, list);
}
