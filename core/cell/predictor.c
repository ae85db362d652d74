#include "core/cell/predictor.h"

#include <string.h>

#include "core/math/kern.h"

void deq_predictor_walk(struct deq_weights *w, struct deq_predictor *p, const struct deq_vocab *v)
{
    const size_t Hp = p->hidden, S = p->state_dim, D = v->d_model;
    w->n_main = w->n;
    w->putting = DEQ_SHARE_PREDICTOR;
    if (!Hp)
        return;
    deq_weights_put(w, &(struct deq_put){&p->tok_w, DEQ_ROLE_GUESS, Hp, D, &p->packed.tok, NULL, 1},
                    "predictor.token.weight");
    deq_weights_put(w, &(struct deq_put){&p->state_w, DEQ_ROLE_GUESS, Hp, S, &p->packed.state, NULL, 1},
                    "predictor.state.weight");
    deq_weights_put(w, &(struct deq_put){&p->b, DEQ_ROLE_BIAS, 0, Hp, NULL, NULL, 1}, "predictor.bias");
    deq_weights_put(w, &(struct deq_put){&p->out_w, DEQ_ROLE_GUESS, S, Hp, &p->packed.out, NULL, 1},
                    "predictor.out.weight");
    deq_weights_put(w, &(struct deq_put){&p->out_b, DEQ_ROLE_BIAS, 0, S, NULL, NULL, 1}, "predictor.out.bias");
}

void deq_predict_lay_out(struct deq_predict *c, size_t hidden, size_t state_dim, const struct deq_vocab *v,
                         enum deq_class numeric, size_t rows, unsigned threads, struct deq_layout *l)
{
    if (!hidden)
        return;
    DEQ_PART(l, c->e, rows * v->d_model);
    DEQ_PART(l, c->z, rows * state_dim);
    DEQ_PART(l, c->hidden, rows * hidden);
    DEQ_PART(l, c->add, rows * hidden);
    DEQ_PART(l, c->operand_e, rows * deq_class_operand_bytes(numeric, DEQ_MAX((size_t)v->d_model, hidden)));
    DEQ_PART(l, c->operand_z, rows * deq_class_operand_bytes(numeric, state_dim));
    DEQ_PART(l, c->emb, threads * deq_vocabulary_work(v));
}

void deq_predict_init(struct deq_predict *c, const struct deq_predictor *p, const struct deq_vocabulary *v,
                      struct deq_pool *pool)
{
    c->p = p;
    c->v = v;
    c->pool = pool;
}

static void gather(struct deq_predict *c, unsigned thread, unsigned n_threads)
{
    const size_t D = c->v->shape.d_model, S = c->p->state_dim;
    float *work = c->emb + thread * deq_vocabulary_work(&c->v->shape);
    for DEQ_ROWS_OF (thread, n_threads, c->n) {
        deq_vocabulary_embed(c->v, c->tokens[r], work, c->e + r * D);
        if (c->p->scale != 1)
            deq_kern()->scale(c->e + r * D, c->p->scale, D);
        memcpy(c->z + r * S, c->before[r], S * sizeof(float));
        deq_prepare(c->p->packed.tok.format, c->e + r * D, D, c->operand_e, r);
        deq_prepare(c->p->packed.state.format, c->z + r * S, S, c->operand_z, r);
    }
}

static void multiply(struct deq_predict *c, const float *x, const char *prepared, const struct deq_packed *w, float *y,
                     unsigned thread, unsigned n_threads, deq_then *then)
{
    const struct deq_operand in = deq_operand(w->format, x, w->k, prepared, w->k);
    deq_multiply(&in, c->n, w, y, w->n, thread, n_threads, then, c);
}

/* hidden = relu((W_e e + W_z z) + b), the second product at hand */
static void then_relu(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct deq_predict *c = ctx;
    float *hidden = c->hidden + row * c->p->hidden + col;
    deq_kern()->add(hidden, hidden, y, n);
    deq_kern()->add_relu(hidden, c->p->b + col, n);
}

static void then_bias(void *ctx, size_t row, size_t col, size_t n, float *y)
{
    const struct deq_predict *c = ctx;
    deq_kern()->add(c->out[row] + col, y, c->p->out_b + col, n);
}

static void predict(void *ctx, unsigned thread, unsigned n)
{
    struct deq_predict *c = ctx;
    const size_t Hp = c->p->hidden;
    gather(c, thread, n);
    deq_pool_barrier(c->pool, thread, n);
    multiply(c, c->e, c->operand_e, &c->p->packed.tok, c->hidden, thread, n, NULL);
    multiply(c, c->z, c->operand_z, &c->p->packed.state, c->add, thread, n, then_relu);
    deq_pool_barrier(c->pool, thread, n);
    if (deq_format_is_int(c->p->packed.out.format)) {
        for DEQ_ROWS_OF (thread, n, c->n)
            deq_prepare(c->p->packed.out.format, c->hidden + r * Hp, Hp, c->operand_e, r);
        deq_pool_barrier(c->pool, thread, n);
    }
    multiply(c, c->hidden, c->operand_e, &c->p->packed.out, c->z, thread, n, then_bias);
}

void deq_predict_rows(struct deq_predict *c, size_t n, const uint32_t *tokens, const float *const *z_prev,
                      float *const *z0)
{
    const size_t D = c->v->shape.d_model, S = c->p->state_dim, Hp = c->p->hidden;
    c->n = n;
    c->tokens = tokens;
    c->before = z_prev;
    c->out = z0;
    deq_pool_stage(c->pool, predict, c, n * (D + 2 * S) * Hp);
}
