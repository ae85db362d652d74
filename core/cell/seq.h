/* The seam between training and the equations: a cell on whole sequences [B, T], with its vector-Jacobian
 * product. (cell.h is the seam of serving, on single rows; tests compare the two forms of every kind.) A kind's
 * struct begins with struct deq_seq.
 *
 *     begin      tokens in: embeddings, injection, masks; once a batch, whatever the number of evaluations
 *     forward    fz = f(z); what the VJP of this evaluation needs is kept in a *tape*. Solving uses one tape over and
 *                over, so memory does not depend on the number of evaluations
 *     vjp        dz = J_f' d_fz at an evaluation kept; with grads, parameter gradients are added and
 *                those of the injection gathered
 *     end        carries the gathered gradients to injection and embedding
 *     remember   the sequences' positions, at their states z, become what lies before the next ones; no gradient goes
 *                there. shown [N, shown_dim], or NULL, receives the states as the authors' code lists them
 *
 * States z are [N, S] with N = B*T rows n = b*T + t, S = state_dim. Memory is allocated once, by deq_seq_new.
 * One thread a struct deq_seq. */
#ifndef DEQ_CELL_SEQ_H
#define DEQ_CELL_SEQ_H

#include "core/cell/kind.h"
#include "core/cell/vocabulary.h"

/* What room is needed for. */
struct deq_seq_shape {
    size_t b, t;      /* sequences, positions of each at most */
    size_t memory;    /* positions that may lie before them, of kinds that keep as many as they are told to */
    unsigned n_tapes;
    bool dropout;
};

struct deq_seq;

/* Variational dropout: one mask a sequence, the same in every evaluation. weights: share of a kind's recurrent weights
 * that are left out of a batch. */
struct deq_dropout {
    float units, weights;
    uint64_t seed, stream; /* the masks are a function of these */
};

struct deq_seq_ops {
    void (*begin)(struct deq_seq *s, const struct deq_weights *w, const uint32_t *tokens,
                  const struct deq_dropout *d /* NULL: none */);
    void (*forward)(struct deq_seq *s, unsigned tape, const float *z, float *fz); /* fz may be z */
    void (*vjp)(struct deq_seq *s, unsigned tape, const float *d_fz, float *dz,
                struct deq_weights *grads /* may be NULL */); /* dz may be d_fz */
    /* The gradient of where iterates began, d_z [N, S], gathered for end; NULL: that is constant. */
    void (*start_vjp)(struct deq_seq *s, const float *d_z);
    void (*end)(struct deq_seq *s, struct deq_weights *grads);
    void (*remember)(struct deq_seq *s, const float *z, float *shown);
    void (*forget)(struct deq_seq *s); /* nothing lies before the next sequences */
    /* What the head reads of the states: x [N, deq_vocab_out()], the seq's own or z itself,
     * until read_vjp or forward. */
    const float *(*read)(struct deq_seq *s, const float *z);
    /* Its VJP for all N rows: d_z [N, S] from d_x [N, deq_vocab_out()]; grads may be NULL */
    void (*read_vjp)(struct deq_seq *s, const float *z, const float *d_x, float *d_z, struct deq_weights *grads);
    void (*free)(struct deq_seq *s);
};

struct deq_seq {
    const struct deq_seq_ops *ops;
    const struct deq_weights *weights;       /* given to begin */
    const struct deq_vocabulary *vocabulary; /* theirs */
    struct deq_vocab vocab;
    size_t b, t, n, t_max; /* B, T, N; room for T */
    size_t state_dim;      /* S */
    size_t shown_dim;
    unsigned n_tapes;
    size_t bytes, logits_bytes; /* all that it holds, and of that the head's work on rows of logits */
    deq_gemm_fn *xwt, *dyw;    /* products of the forward evaluation: fast, or wide */
    const uint32_t *tokens;    /* [N], borrowed from begin to end */
    float *e;                  /* [N, D] embeddings times their scale */
    /* of kinds with layers before their loop, from begin on: what enters it [N, D], and where iterates begin [N, S];
     * NULL: there are none; at zero */
    const float *prelude, *start;
    float logit_softcap;       /* c: logits x become c * tanh of x / c; 0: they do not */
    float *d_x;                /* [N, deq_vocab_out()] */
    /* work of both ends, on some rows at a time */
    size_t loss_rows;
    float *logits;               /* [loss_rows, V] */
    float *tails;                /* [loss_rows, n_cutoffs] */
    float *gather, *d_gather;    /* [loss_rows, max of D and deq_vocab_out()] rows of one cluster, of several */
    float *hidden, *d_hidden;    /* [loss_rows, E_0] of projections */
    float *capped;               /* [V] logits of a row behind their cap */
    uint32_t *row;               /* [loss_rows] which rows these are */
};

/* registry_seq.c */
enum deq_rc deq_seq_new(const struct deq_arch *a, const struct deq_seq_shape *shape, struct deq_seq **ret,
                        struct deq_err *err);
void deq_seq_free(struct deq_seq *s);
/* From now on sequences have t positions, 1 .. t_max. */
void deq_seq_length(struct deq_seq *s, size_t t);
/* z [N, S] = where iterates begin. */
void deq_seq_start(const struct deq_seq *s, float *z);
/* From now on every sum of products is made in double: slow, for comparisons with what other
 * code computed in float64. */
void deq_seq_wide(struct deq_seq *s);

/* For kinds: fills in what is common, and counts or cuts its parts (core/base/layout.h). */
void deq_seq_init(struct deq_seq *s, const struct deq_seq_ops *ops, const struct deq_arch *a,
                  const struct deq_seq_shape *shape, size_t state_dim);
void deq_seq_lay_out(struct deq_seq *s, struct deq_layout *l);
/* Of begin: s->weights, vocabulary and tokens are these, s->e = embeddings of the tokens times scale. Of end: the
 * gradient of that, d_e [N, D], to the embedding's. */
void deq_seq_embed(struct deq_seq *s, const struct deq_weights *w, const struct deq_vocabulary *v,
                   const uint32_t *tokens, float scale);
void deq_seq_embed_vjp(const struct deq_seq *s, const float *d_e, float scale, struct deq_weights *grads);
/* On rows of n numbers: y [rows, n] += b [n]; d_b [n] += the sum of dy [rows, n]. */
void deq_seq_add_bias(float *y, const float *b, size_t rows, size_t n);
void deq_seq_sum_rows(const float *dy, size_t rows, size_t n, float *d_b);
/* mask [B, n]: 0, or 1 / (1 - dropout); and y [N, n] times its sequence's mask. */
void deq_seq_draw_mask(float *mask, size_t n, float dropout, uint64_t seed, uint64_t stream);
void deq_seq_apply_mask(const struct deq_seq *s, const float *mask, size_t n, float *y);

/* --- vocabulary_seq.c: what any vocabulary and head say of states (vocabulary.h has the equations) --- */

/* The whole distribution of all N rows, log-probabilities out [N, V], summed in double (for goldens, not for speed). */
enum deq_rc deq_seq_logprobs(struct deq_seq *s, const float *z, float *out, struct deq_err *err);

/* Cross entropy (nats) of targets [N] at states z, for which of a vocabulary in clusters only the shortlist and the
 * targets' own clusters are computed. UINT32_MAX targets are left out; weight: of each of the others in the loss (one
 * over their number in the whole batch makes that the mean). d_z [N, S] is written and grads are added to when not
 * NULL; ret_nll (may be NULL) [N] receives each position's nats. Returns the sum of nats times weight. */
double deq_seq_loss(struct deq_seq *s, const float *z, const uint32_t *targets, float weight, float *d_z,
                    struct deq_weights *grads, double *ret_nll);

#endif
