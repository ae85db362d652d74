#include "core/cell/vocabulary.h"

#include <math.h>

#include "core/base/mem.h"
#include "core/math/elementary.h"
#include "core/math/kern.h"

/* "embed.weight" of the only cluster, "embed.2.weight" of one among several */
static void put_cluster(struct deq_weights *w, const struct deq_vocabulary *v, const char *what, const char *kind,
                        unsigned c, const struct deq_put *put)
{
    if (v->shape.n_cutoffs)
        deq_weights_put(w, put, "%s.%u.%s", what, c, kind);
    else
        deq_weights_put(w, put, "%s.%s", what, kind);
}

void deq_vocabulary_walk(struct deq_weights *w, struct deq_vocabulary *v)
{
    const struct deq_vocab *s = &v->shape;
    const bool projects = deq_projects(s);
    for (unsigned c = 0; c < deq_clusters(s); c++) {
        const size_t V = deq_cluster_size(s, c), E = deq_cluster_embed(s, c), D = s->d_model;
        put_cluster(w, v, "embed", "weight", c,
                    &(struct deq_put){&v->embed[c], DEQ_ROLE_EMBED, V, E,
                                      s->head_untied ? &v->packed.embed[c] : &v->packed.head[c], NULL, 1});
        if (projects)
            put_cluster(w, v, "embed", "proj.weight", c,
                        &(struct deq_put){&v->embed_proj[c], DEQ_ROLE_EMBED, D, E, &v->packed.embed_proj[c],
                                          s->proj_untied[c] ? NULL : &v->packed.head_proj[c], 1});
        if (s->head_untied)
            put_cluster(w, v, "head", "weight", c,
                        &(struct deq_put){&v->head[c], DEQ_ROLE_EMBED, V, deq_cluster_head(s, c), &v->packed.head[c],
                                          NULL, 1});
        if (projects && s->proj_untied[c])
            put_cluster(w, v, "head", "proj.weight", c,
                        &(struct deq_put){&v->head_proj[c], DEQ_ROLE_EMBED, D, E, NULL, &v->packed.head_proj[c], 1});
    }
    if (s->head_bias)
        deq_weights_put(w, &(struct deq_put){&v->head_bias, DEQ_ROLE_BIAS, 0, s->size, NULL, NULL, 1}, "head.bias");
    if (s->n_cutoffs) {
        deq_weights_put(w,
                        &(struct deq_put){&v->tails_w, DEQ_ROLE_EMBED, s->n_cutoffs, deq_cluster_head(s, 0),
                                          &v->packed.tails, NULL, 1},
                        "head.tails.weight");
        deq_weights_put(w, &(struct deq_put){&v->tails_b, DEQ_ROLE_BIAS, 0, s->n_cutoffs, NULL, NULL, 1},
                        "head.tails.bias");
    }
}

void deq_readout_lay_out(struct deq_readout *r, const struct deq_vocab *v, size_t rows, struct deq_layout *l)
{
    DEQ_PART(l, r->hidden, rows * deq_cluster_embed(v, 0));
    DEQ_PART(l, r->to, rows);
}

void deq_readout_init(struct deq_readout *r, const struct deq_vocabulary *v, struct deq_pool *pool)
{
    r->v = v;
    r->pool = pool;
}

void deq_vocabulary_embed(const struct deq_vocabulary *v, uint32_t token, float *work, float *e)
{
    const unsigned c = deq_cluster_of(&v->shape, token);
    const struct deq_packed *table = v->packed.embed[c].data ? &v->packed.embed[c] : &v->packed.head[c];
    const bool projects = deq_projects(&v->shape);
    deq_packed_row(table, token - deq_cluster_begin(&v->shape, c), projects ? work : e);
    if (projects)
        deq_gemm_exact(work, table->k, 1, &v->packed.embed_proj[c], e, v->shape.d_model, 0, 1);
}

/* --- Stages, each on all threads --- */

static void shift(float *y, float by, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += by;
}

static const struct deq_vocab *shape(const struct deq_readout *o)
{
    return &o->v->shape;
}

/* hidden = Q_c' x */
static void stage_project(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_packed *q = &o->v->packed.head_proj[o->cluster];
    deq_gemm_exact(o->x, deq_vocab_out(shape(o)), o->n, q, o->hidden, q->n, thread, n_threads);
}

/* what the cluster's words are multiplied with */
static const float *input(const struct deq_readout *o, size_t *ret_ld)
{
    const struct deq_packed *q = &o->v->packed.head_proj[o->cluster];
    *ret_ld = q->data ? q->n : deq_vocab_out(shape(o));
    return q->data ? o->hidden : o->x;
}

static void stage_words(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    size_t ld;
    const float *x = input(o, &ld);
    deq_gemm_exact_to(x, ld, o->n, &o->v->packed.head[o->cluster], o->to, thread, n_threads);
}

static void stage_tails(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    size_t ld;
    const float *x = input(o, &ld);
    deq_gemm_exact_to(x, ld, o->n, &o->v->packed.tails, o->tails, thread, n_threads);
}

static void stage_normalise_head(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_kern *k = deq_kern();
    const struct deq_vocabulary *v = o->v;
    const size_t n = deq_cluster_size(shape(o), 0), C = shape(o)->n_cutoffs;
    for DEQ_ROWS_OF (thread, n_threads, o->n) {
        float *y = o->logits[r];
        if (v->head_bias)
            k->add(y, y, v->head_bias, n);
        if (!C)
            continue;
        float *t = o->tails[r];
        k->add(t, t, v->tails_b, C);
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
    const struct deq_vocabulary *v = o->v;
    const size_t begin = deq_cluster_begin(shape(o), o->cluster), n = deq_cluster_size(shape(o), o->cluster);
    for DEQ_ROWS_OF (thread, n_threads, o->n) {
        float *y = o->to[r];
        if (v->head_bias)
            k->add(y, y, v->head_bias + begin, n);
        const float top = k->max(y, n);
        shift(y, o->known_tails[r][o->cluster - 1] - top - (float)deq_log((double)k->exp_sum(NULL, y, top, n)), n);
    }
}

/* The products of one cluster; o->to is set. */
static void words(struct deq_readout *o)
{
    const struct deq_packed *q = &o->v->packed.head_proj[o->cluster], *w = &o->v->packed.head[o->cluster];
    if (q->data)
        deq_pool_stage(o->pool, stage_project, o, o->n * q->n * q->k);
    deq_pool_stage(o->pool, stage_words, o, o->n * w->n * w->k);
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
    if (shape(o)->n_cutoffs)
        deq_pool_stage(o->pool, stage_tails, o, n * shape(o)->n_cutoffs * o->v->packed.tails.k);
    if (shape(o)->n_cutoffs || o->v->head_bias)
        deq_pool_stage(o->pool, stage_normalise_head, o, n * deq_cluster_size(shape(o), 0));
}

void deq_vocabulary_tail(struct deq_readout *o, unsigned cluster, size_t n, const float *x, float *const *logits,
                         const float *const *tails)
{
    o->n = n;
    o->x = x;
    o->known_tails = tails;
    o->cluster = cluster;
    for (size_t i = 0; i < n; i++)
        o->to[i] = logits[i] + deq_cluster_begin(shape(o), cluster);
    words(o);
    deq_pool_stage(o->pool, stage_normalise_tail, o, n * deq_cluster_size(shape(o), cluster));
}
