/* The layers of the looped kind on rows (looped.h has their equations), the same in prelude, core and coda: RMSNorm
 * before or on both sides of their branches, rotary attention over the pages of attention.h, a feed-forward network.
 * They are rms, products and attention, so what they compute of a row depends on it and the positions before it.
 *
 * Value embeddings are a token's. What a row keeps of its token (the cell's u) is the token, for the coda, and its
 * value embeddings in the core, which every evaluation reads. */
#ifndef DEQ_CELL_LAYER_H
#define DEQ_CELL_LAYER_H

#include "core/cell/attention.h"
#include "core/cell/looped.h"

struct deq_layer {
    const struct deq_layer_weights *w;
    struct deq_layer_shape shape;
    struct deq_heads heads;
    float *gate_attn, *gate_ffn; /* [width] g_a, g_f, or NULL: 1 */
};

/* All layers, and what they share: pages, and scratch for max_rows, in a block of the cell's. */
struct deq_layers {
    const struct deq_looped_weights *w;
    const struct deq_kern *kern;
    struct deq_pool *pool;       /* borrowed */
    struct deq_attention attention;
    struct deq_layer *layer[DEQ_PARTS]; /* [n_layer] */
    /* [max_rows, ..]; the width is that of the part at work */
    float *x;                    /* [R, width] what goes in and comes out */
    float *n;                    /* [R, width] normed input of the next product */
    float *qkv;                  /* [R, (H + 2 Hkv) d] */
    float *av;                   /* [R, H d] */
    float *s;                    /* [R, width] between attention and feed-forward network */
    float *act;                  /* [R, F], of SWIGLU [R, 2F] */
    float *values;               /* [R, Hkv d] value embeddings outside the core */
    char *operand;               /* [R] rows prepared for the next product, of a model in integers */
    /* the call under way */
    const struct deq_rows *rows; /* n, position, ring; u, where there are no tokens */
    const uint32_t *tokens;      /* [R] or NULL */
};

struct deq_layers deq_layers_shape(const struct deq_looped_arch *a, uint32_t n_pages);
/* Counts or cuts (core/base/layout.h); then deq_layers_init. */
void deq_layers_lay_out(struct deq_layers *s, const struct deq_looped_arch *a, size_t max_rows, unsigned threads,
                        struct deq_layout *l);
void deq_layers_init(struct deq_layers *s, const struct deq_looped_weights *w, struct deq_pool *pool);

/* Floats that a row keeps of its token; writes them. */
size_t deq_token_floats(const struct deq_looped_arch *a);
void deq_keep_token(const struct deq_looped_weights *w, uint32_t token, float *u);

/* Multiply-adds of a row in a part's products; of the call's rows in the whole part. */
uint64_t deq_part_madds(const struct deq_looped_arch *a, enum deq_part part);
size_t deq_part_work(const struct deq_layers *s, enum deq_part part);

/* For functions of a stage: what they do is a thread's share, DEQ_ROWS_OF its own rows, and others may still be at
 * theirs unless it is said otherwise. */

/* y [w->n] = W x [w->k] of all rows, the thread's outputs of it; its own rows x are there. */
void deq_layers_multiply(const struct deq_layers *s, const float *x, const struct deq_packed *w, float *y,
                         unsigned thread, unsigned n_threads, deq_then *then, void *ctx);
/* x = layers(x): its own rows are there, and are there afterwards. */
void deq_part_evaluate(const struct deq_layers *s, enum deq_part part, unsigned thread, unsigned n_threads);

#endif
