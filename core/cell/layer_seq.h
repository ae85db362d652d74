/* One layer of the looped kind on whole sequences, forward and VJP (looped.h has the equations).
 *
 * A layer is two halves, attention and a feed-forward network, of one form: with x what goes in, n = rms(x),
 *
 *     PRE       out = x + g * branch(n)          SANDWICH   out = rms(branch(n) + x)
 *
 * Used by looped_seq.c alone, whose struct deq_seq, weights and memory it borrows. */
#ifndef DEQ_CELL_LAYER_SEQ_H
#define DEQ_CELL_LAYER_SEQ_H

#include "core/cell/looped.h"
#include "core/cell/seq.h"

enum deq_half { DEQ_HALF_ATTN, DEQ_HALF_FFN, DEQ_HALVES };

struct deq_layer_seq {
    struct deq_layer_shape shape;
    const struct deq_layer_weights *w; /* of begin */
    float *gate[DEQ_HALVES];           /* [width] g, or NULL: 1 */
};

struct deq_layer_tape { /* one evaluation of one layer */
    struct {
        float *x;        /* [N, width] */
        float *n, *rstd; /* [N, width], [N] */
        float *branch;   /* [N, width]; SANDWICH: branch + x */
        float *out_rstd; /* [N] of SANDWICH */
    } half[DEQ_HALVES];
    float *qkv;     /* [N, (H + 2 Hkv) d] as attention reads them */
    float *qk_rstd; /* [N, H + Hkv] of qk_norm */
    float *values;  /* [N, Hkv] sigmoid of the gates of value embeddings */
    float *probs;   /* [B, H, T, T] */
    float *av;      /* [N, H*d] */
    float *up;      /* [N, F], of SWIGLU [N, 2F] */
    float *act;     /* [N, F] after dropout */
};

/* What the layers of a model share. */
struct deq_layers_seq {
    const struct deq_seq *seq;
    const struct deq_looped_arch *arch;
    const float *rope;                  /* [max_positions, d], of begin */
    /* [B, width], [B, F], the widest: variational dropout on attention's branch and on the FFN's hidden units, one mask
     * a sequence, for all positions, layers and evaluations */
    float *mask[DEQ_HALVES];
    size_t masks[DEQ_HALVES];           /* floats of them; 0: there never is any */
    bool masked;                        /* masks apply in this step */
    /* work, for the widest layer */
    float *d_x, *d_branch, *d_n;        /* [N, width] */
    float *d_qkv, *d_av, *d_up, *d_act; /* as of a tape */
    float *scores;                      /* [DEQ_ATTENTION_SEQ_ROWS, T] */
};

void deq_layers_seq_lay_out(struct deq_layers_seq *s, bool dropout, struct deq_layout *l);
void deq_layer_seq_lay_out(struct deq_layer_seq *l, struct deq_layout *to);
void deq_layer_tape_lay_out(const struct deq_layers_seq *s, const struct deq_layer_seq *l, struct deq_layer_tape *t,
                            struct deq_layout *to);

/* For begin: the masks of the step; d NULL: none. */
void deq_layers_seq_drop(struct deq_layers_seq *s, const struct deq_dropout *d);
/* For begin: weights of the step, and the gates that follow from them. */
void deq_layer_seq_begin(const struct deq_layers_seq *s, struct deq_layer_seq *l, const struct deq_layer_weights *w);
/* x, y [N, width]; y may be x. */
void deq_layer_forward(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                       const float *x, float *y);
/* dy [N, width] -> dx [N, width], which may be dy; g, added to: NULL: no parameter gradients */
void deq_layer_vjp(const struct deq_layers_seq *s, const struct deq_layer_seq *l, const struct deq_layer_tape *t,
                   const float *dy, float *dx, const struct deq_layer_weights *g);

/* y = rms(x) of rows x [rows, n], and its VJP; rstd [rows]; y may be x, dx dy. */
void deq_rms_rows(const float *x, size_t rows, size_t n, float eps, const float *gain, float *y, float *rstd);
void deq_rms_rows_vjp(const float *x, const float *rstd, size_t rows, size_t n, const float *gain, const float *dy,
                      float *dx, float *d_gain);

#endif
