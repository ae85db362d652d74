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
    w->putting = DEQ_SHARE_WORDS;
    for (unsigned c = 0; c < deq_clusters(s); c++) {
        const size_t V = deq_cluster_size(s, c), E = deq_cluster_embed(s, c), D = s->d_model;
        put_cluster(w, v, "embed", "weight", c,
                    &(struct deq_put){&v->embed[c], DEQ_ROLE_EMBED, V, E,
                                      s->head_untied ? &v->packed.embed[c] : &v->packed.head[c], NULL, 1});
        if (deq_head_is_plain(s) && !s->head_untied)
            deq_weights_put_rounded(w, &v->packed.rounded);
        if (projects)
            put_cluster(w, v, "embed", "proj.weight", c,
                        &(struct deq_put){&v->embed_proj[c], DEQ_ROLE_PROJECTION, D, E, &v->packed.embed_proj[c],
                                          s->proj_untied[c] ? NULL : &v->packed.head_proj[c], 1});
        if (s->head_untied)
            put_cluster(w, v, "head", "weight", c,
                        &(struct deq_put){&v->head[c], DEQ_ROLE_EMBED, V, deq_cluster_head(s, c), &v->packed.head[c],
                                          NULL, 1});
        if (deq_head_is_plain(s) && s->head_untied)
            deq_weights_put_rounded(w, &v->packed.rounded);
        if (projects && s->proj_untied[c])
            put_cluster(w, v, "head", "proj.weight", c,
                        &(struct deq_put){&v->head_proj[c], DEQ_ROLE_PROJECTION, D, E, NULL, &v->packed.head_proj[c],
                                          1});
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
    w->putting = DEQ_SHARE_CELL;
}

void deq_readout_lay_out(struct deq_readout *r, const struct deq_vocab *v, enum deq_class c, size_t rows,
                         struct deq_layout *l)
{
    DEQ_PART(l, r->hidden, rows * deq_cluster_embed(v, 0));
    DEQ_PART(l, r->operand,
             rows * deq_class_operand_bytes(c, DEQ_MAX((size_t)deq_vocab_out(v), deq_cluster_embed(v, 0))));
    DEQ_PART(l, r->to, rows);
}

void deq_readout_init(struct deq_readout *r, const struct deq_vocabulary *v, struct deq_pool *pool)
{
    r->v = v;
    r->pool = pool;
}

uint64_t deq_vocabulary_madds(const struct deq_vocab *v)
{
    const size_t E = deq_cluster_head(v, 0), words = deq_cluster_size(v, 0) + v->n_cutoffs;
    return (uint64_t)words * E + deq_projects(v) * (uint64_t)v->d_model * E;
}

size_t deq_vocabulary_work(const struct deq_vocab *v)
{
    const size_t E = deq_cluster_embed(v, 0);
    return DEQ_ROUND_UP(E, (size_t)16) + deq_int_operand_bytes(E) / sizeof(float);
}

void deq_vocabulary_embed(const struct deq_vocabulary *v, uint32_t token, float *work, float *e)
{
    const unsigned c = deq_cluster_of(&v->shape, token);
    const struct deq_packed *table = v->packed.embed[c].data ? &v->packed.embed[c] : &v->packed.head[c];
    const bool projects = deq_projects(&v->shape);
    deq_packed_row(table, token - deq_cluster_begin(&v->shape, c), projects ? work : e);
    if (!projects)
        return;
    const struct deq_packed *p = &v->packed.embed_proj[c];
    void *const prepared = work + DEQ_ROUND_UP(table->k, (size_t)16);
    deq_prepare(p->format, work, p->k, prepared, 0);
    const struct deq_operand x = deq_operand(p->format, work, p->k, prepared, p->k);
    deq_multiply(&x, 1, p, e, v->shape.d_model, 0, 1, NULL, NULL);
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

/* rows x [*, w->k] for a product with w; stage_prepare comes before it */
static struct deq_operand operand(const struct deq_readout *o, const float *x, const struct deq_packed *w)
{
    return deq_operand(w->format, x, w->k, o->operand, w->k);
}

static const struct deq_packed *projection(const struct deq_readout *o)
{
    return &o->v->packed.head_proj[o->cluster];
}

static void stage_prepare_state(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const size_t Y = deq_vocab_out(shape(o));
    for DEQ_ROWS_OF (thread, n_threads, o->n)
        deq_prepare(o->v->packed.head[o->cluster].format, o->x + r * Y, Y, o->operand, r);
}

/* hidden = Q_c' x */
static void stage_project(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_packed *q = projection(o);
    const struct deq_operand x = operand(o, o->x, q);
    deq_multiply(&x, o->n, q, o->hidden, q->n, thread, n_threads, NULL, NULL);
}

static void stage_prepare_hidden(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_packed *q = projection(o);
    for DEQ_ROWS_OF (thread, n_threads, o->n)
        deq_prepare(q->format, o->hidden + r * q->n, q->n, o->operand, r);
}

/* what the cluster's words are multiplied with */
static struct deq_operand input(const struct deq_readout *o, const struct deq_packed *w)
{
    return operand(o, projection(o)->data ? o->hidden : o->x, w);
}

static void stage_words(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_packed *w = &o->v->packed.head[o->cluster];
    const struct deq_operand x = input(o, w);
    deq_multiply_to(&x, o->n, w, o->to, thread, n_threads);
}

static void stage_tails(void *ctx, unsigned thread, unsigned n_threads)
{
    const struct deq_readout *o = ctx;
    const struct deq_operand x = input(o, &o->v->packed.tails);
    deq_multiply_to(&x, o->n, &o->v->packed.tails, o->tails, thread, n_threads);
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
    const struct deq_packed *q = projection(o), *w = &o->v->packed.head[o->cluster];
    const bool prepares = deq_format_is_int(w->format);
    if (prepares)
        deq_pool_stage(o->pool, stage_prepare_state, o, o->n * w->k);
    if (q->data)
        deq_pool_stage(o->pool, stage_project, o, o->n * q->n * q->k);
    if (q->data && prepares)
        deq_pool_stage(o->pool, stage_prepare_hidden, o, o->n * q->n);
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
