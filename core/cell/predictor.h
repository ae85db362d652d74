/* The warm-start predictor: a small map from (token at t, state at t-1) to a start for the state at t, of any kind of
 * cell,
 *
 *     z0_t = W_o relu(W_e e_t + W_z z*_{t-1} + b) + b_o,      e_t: the embedding times its scale
 *
 * on rows over packed weights (the engine's ops.predict). A wrong start costs evaluations, never correctness.
 * core/train/predictor.h fits it. */
#ifndef DEQ_CELL_PREDICTOR_H
#define DEQ_CELL_PREDICTOR_H

#include "core/base/layout.h"
#include "core/cell/vocabulary.h"

/* Its weights; part of the weights of a kind. S: the state's width. */
struct deq_predictor {
    float *tok_w;   /* [Hp, D] */
    float *state_w; /* [Hp, S] */
    float *b;       /* [Hp] */
    float *out_w;   /* [S, Hp] */
    float *out_b;   /* [S] */
    size_t hidden, state_dim;
    float scale; /* of the embedding */
    struct {
        struct deq_packed tok, state, out;
    } packed;
};

/* Puts its tensors (none when hidden is 0), the last of a kind's walk: they are fitted apart. */
void deq_predictor_walk(struct deq_weights *w, struct deq_predictor *p, const struct deq_vocab *v);

/* Scratch of one cell for at most `rows` rows, in a block of the cell's. */
struct deq_predict {
    const struct deq_predictor *p;
    const struct deq_vocabulary *v;
    struct deq_pool *pool; /* borrowed */
    float *e, *z, *hidden, *add; /* [rows, D] [rows, S] [rows, Hp] [rows, Hp] */
    char *operand_e, *operand_z; /* [rows] of them prepared for products; the hidden rows' where the embeddings' were */
    float *emb;                  /* [threads, deq_vocabulary_work()] */
    /* the call under way */
    size_t n;
    const uint32_t *tokens;
    const float *const *before;
    float *const *out;
};

/* Counts or cuts the scratch (core/base/layout.h); then deq_predict_init. */
void deq_predict_lay_out(struct deq_predict *c, size_t hidden, size_t state_dim, const struct deq_vocab *v,
                         enum deq_class numeric, size_t rows, unsigned threads, struct deq_layout *l);
void deq_predict_init(struct deq_predict *c, const struct deq_predictor *p, const struct deq_vocabulary *v,
                      struct deq_pool *pool);
/* z0[i] [S] from tokens[i] and z_prev[i] [S] */
void deq_predict_rows(struct deq_predict *c, size_t n, const uint32_t *tokens, const float *const *z_prev,
                      float *const *z0);

#endif
