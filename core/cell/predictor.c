#include "core/cell/predictor.h"

#include <string.h>

#include "core/math/kern.h"

void deq_predictor_walk(struct deq_weights *w, struct deq_predictor *p, const struct deq_vocab *v)
{
    const size_t Hp = p->hidden, S = p->state_dim, D = v->d_model;
    w->n_main = w->n;
    if (!Hp)
        return;
    deq_weights_put(w, &(struct deq_put){&p->tok_w, DEQ_ROLE_EMBED, Hp, D, &p->packed.tok, NULL, 1},
                    "predictor.token.weight");
    deq_weights_put(w, &(struct deq_put){&p->state_w, DEQ_ROLE_EMBED, Hp, S, &p->packed.state, NULL, 1},
                    "predictor.state.weight");
    deq_weights_put(w, &(struct deq_put){&p->b, DEQ_ROLE_BIAS, 0, Hp, NULL, NULL, 1}, "predictor.bias");
    deq_weights_put(w, &(struct deq_put){&p->out_w, DEQ_ROLE_EMBED, S, Hp, &p->packed.out, NULL, 1},
                    "predictor.out.weight");
    deq_weights_put(w, &(struct deq_put){&p->out_b, DEQ_ROLE_BIAS, 0, S, NULL, NULL, 1}, "predictor.out.bias");
}

void deq_predict_lay_out(struct deq_predict *c, size_t hidden, size_t state_dim, const struct deq_vocab *v, size_t rows,
                         unsigned threads, struct deq_layout *l)
{
    if (!hidden)
        return;
    DEQ_PART(l, c->e, rows * v->d_model);
    DEQ_PART(l, c->z, rows * state_dim);
    DEQ_PART(l, c->hidden, rows * hidden);
    DEQ_PART(l, c->add, rows * hidden);
    DEQ_PART(l, c->emb, threads * deq_cluster_embed(v, 0));
}

void deq_predict_init(struct deq_predict *c, const struct deq_predictor *p, const struct deq_vocabulary *v,
                      struct deq_pool *pool)
{
    c->p = p;
    c->v = v;
    c->pool = pool;
}

static void stage_gather(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_predict *c = ctx;
    const size_t D = c->v->shape.d_model, S = c->p->state_dim;
    float *work = c->emb + thread * deq_cluster_embed(&c->v->shape, 0);
    for DEQ_ROWS_OF (thread, n_threads, c->n) {
        deq_vocabulary_embed(c->v, c->tokens[r], work, c->e + r * D);
        if (c->p->scale != 1)
            deq_kern()->scale(c->e + r * D, c->p->scale, D);
        memcpy(c->z + r * S, c->before[r], S * sizeof(float));
    }
}

static void stage_hidden(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_predict *c = ctx;
    const size_t Hp = c->p->hidden;
    deq_gemm_exact(c->e, c->v->shape.d_model, c->n, &c->p->packed.tok, c->hidden, Hp, thread, n_threads);
    deq_gemm_exact(c->z, c->p->state_dim, c->n, &c->p->packed.state, c->add, Hp, thread, n_threads);
}

static void stage_relu(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_predict *c = ctx;
    const struct deq_kern *k = deq_kern();
    const size_t Hp = c->p->hidden;
    for DEQ_ROWS_OF (thread, n_threads, c->n) {
        k->add(c->hidden + r * Hp, c->hidden + r * Hp, c->add + r * Hp, Hp);
        k->add_relu(c->hidden + r * Hp, c->p->b, Hp);
    }
}

static void stage_out(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_predict *c = ctx;
    deq_gemm_exact(c->hidden, c->p->hidden, c->n, &c->p->packed.out, c->z, c->p->state_dim, thread, n_threads);
}

static void stage_bias(void *ctx, unsigned thread, unsigned n_threads)
{
    struct deq_predict *c = ctx;
    const size_t S = c->p->state_dim;
    for DEQ_ROWS_OF (thread, n_threads, c->n)
        deq_kern()->add(c->out[r], c->z + r * S, c->p->out_b, S);
}

void deq_predict_rows(struct deq_predict *c, size_t n, const uint32_t *tokens, const float *const *z_prev,
                      float *const *z0)
{
    const size_t D = c->v->shape.d_model, S = c->p->state_dim, Hp = c->p->hidden;
    c->n = n;
    c->tokens = tokens;
    c->before = z_prev;
    c->out = z0;
    deq_pool_stage(c->pool, stage_gather, c, n * D);
    deq_pool_stage(c->pool, stage_hidden, c, n * (D + S) * Hp);
    deq_pool_stage(c->pool, stage_relu, c, n * Hp);
    deq_pool_stage(c->pool, stage_out, c, n * S * Hp);
    deq_pool_stage(c->pool, stage_bias, c, n * S);
}
