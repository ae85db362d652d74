#include "core/cell/vocabulary.h"

#include <math.h>

#include "core/base/mem.h"
#include "core/math/elementary.h"
#include "core/math/kern.h"

void deq_vocabulary_free(struct deq_vocabulary *v)
{
    for (unsigned c = 0; c <= DEQ_CUTOFFS_MAX; c++) {
        deq_packed_free(&v->head[c]);
        deq_packed_free(&v->head_proj[c]);
        deq_packed_free(&v->embed[c]);
        deq_packed_free(&v->embed_proj[c]);
    }
    deq_packed_free(&v->tails);
}

void deq_readout_lay_out(struct deq_readout *r, const struct deq_arch *a, size_t rows, struct deq_layout *l)
{
    DEQ_PART(l, r->hidden, rows * deq_cluster_embed(&a->vocab, 0));
    DEQ_PART(l, r->to, rows);
}

void deq_readout_init(struct deq_readout *r, const struct deq_vocabulary *v, struct deq_pool *pool)
{
    r->v = v;
    r->pool = pool;
}

void deq_vocabulary_embed(const struct deq_vocabulary *v, uint32_t token, float *work, float *e)
{
    const struct deq_arch *a = &v->vectors->arch;
    const unsigned c = deq_cluster_of(&a->vocab, token);
    const struct deq_packed *table = v->embed[c].data ? &v->embed[c] : &v->head[c];
    const bool projects = deq_projects(&a->vocab);
    deq_packed_row(table, token - deq_cluster_begin(&a->vocab, c), projects ? work : e);
    if (projects)
        deq_gemm_exact(work, table->k, 1, &v->embed_proj[c], e, a->vocab.d_model, 0, 1);
}

/* --- Stages, each on all threads --- */

#define ROWS_OF(thread, n_threads, m) (size_t r = (m) * (thread) / (n_threads); r < (m) * ((thread) + 1) / (n_threads); r++)

static void shift(float *y, float by, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += by;
}

static const struct deq_arch *arch(const struct deq_readout *o)
{
    return &o->v->vectors->arch;
}

/* hidden = Q_c' x */
static void stage_project(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_packed *q = &o->v->head_proj[o->cluster];
    deq_gemm_exact(o->x, arch(o)->vocab.d_model, o->n, q, o->hidden, q->n, thread, n_threads);
}

/* what the cluster's words are multiplied with */
static const float *input(const struct deq_readout *o, size_t *ret_ld)
{
    const struct deq_packed *q = &o->v->head_proj[o->cluster];
    *ret_ld = q->data ? q->n : arch(o)->vocab.d_model;
    return q->data ? o->hidden : o->x;
}

static void stage_words(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    size_t ld;
    const float *x = input(o, &ld);
    deq_gemm_exact_to(x, ld, o->n, &o->v->head[o->cluster], o->to, thread, n_threads);
}

static void stage_tails(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    size_t ld;
    const float *x = input(o, &ld);
    deq_gemm_exact_to(x, ld, o->n, &o->v->tails, o->tails, thread, n_threads);
}

static void stage_normalise_head(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_kern *k = deq_kern();
    const struct deq_weights *w = o->v->vectors;
    const size_t n = deq_cluster_size(&arch(o)->vocab, 0), C = arch(o)->vocab.n_cutoffs;
    for ROWS_OF (thread, n_threads, o->n) {
        float *y = o->logits[r];
        if (w->head_bias)
            k->add(y, y, w->head_bias, n);
        if (!C)
            continue;
        float *t = o->tails[r];
        k->add(t, t, w->tails_b, C);
        const float top = fmaxf(k->max(y, n), k->max(t, C));
        const float by = -(top + (float)deq_log((double)(k->exp_sum(NULL, y, top, n) + k->exp_sum(NULL, t, top, C))));
        shift(y, by, n);
        shift(t, by, C);
    }
}

static void stage_normalise_tail(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_kern *k = deq_kern();
    const struct deq_weights *w = o->v->vectors;
    const size_t begin = deq_cluster_begin(&arch(o)->vocab, o->cluster), n = deq_cluster_size(&arch(o)->vocab, o->cluster);
    for ROWS_OF (thread, n_threads, o->n) {
        float *y = o->to[r];
        if (w->head_bias)
            k->add(y, y, w->head_bias + begin, n);
        const float top = k->max(y, n);
        shift(y, o->known_tails[r][o->cluster - 1] - top - (float)deq_log((double)k->exp_sum(NULL, y, top, n)), n);
    }
}

enum { WORTH_A_THREAD = 1 << 15 }; /* as in the cell: bits do not depend on it */

static void run(struct deq_readout *o, deq_pool_fn stage, size_t work)
{
    if (work < WORTH_A_THREAD)
        stage(o, 0, 1);
    else
        deq_pool_run(o->pool, stage, o);
}

/* The products of one cluster; o->to is set. */
static void words(struct deq_readout *o)
{
    const struct deq_packed *q = &o->v->head_proj[o->cluster], *w = &o->v->head[o->cluster];
    if (q->data)
        run(o, stage_project, o->n * q->n * q->k);
    run(o, stage_words, o->n * w->n * w->k);
}

void deq_vocabulary_head(struct deq_readout *o, size_t n, const float *x, float *const *logits, float *const *tails)
{
    o->n = n;
    o->x = x;
    o->logits = logits;
    o->tails = tails;
    o->cluster = 0;
    for (size_t i = 0; i < n; i++)
        o->to[i] = logits[i];
    words(o);
    if (arch(o)->vocab.n_cutoffs)
        run(o, stage_tails, n * arch(o)->vocab.n_cutoffs * o->v->tails.k);
    if (arch(o)->vocab.n_cutoffs || o->v->vectors->head_bias)
        run(o, stage_normalise_head, n * deq_cluster_size(&arch(o)->vocab, 0));
}

void deq_vocabulary_tail(struct deq_readout *o, unsigned cluster, size_t n, const float *x, float *const *logits, const float *const *tails)
{
    o->n = n;
    o->x = x;
    o->known_tails = tails;
    o->cluster = cluster;
    for (size_t i = 0; i < n; i++)
        o->to[i] = logits[i] + deq_cluster_begin(&arch(o)->vocab, cluster);
    words(o);
    run(o, stage_normalise_tail, n * deq_cluster_size(&arch(o)->vocab, cluster));
}
