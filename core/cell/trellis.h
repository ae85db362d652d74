/* The trellis network as a fixed point (Bai, Kolter, Koltun, "Trellis networks for sequence modeling", ICLR
 * 2019; "Deep equilibrium models", NeurIPS 2019, section 4): a temporal convolution with the gates of an LSTM,
 * the same weights at every level.
 *
 *     u_t = b_x + sum_j W_x[j] e_{t-(k-1-j)}                     [4H]   taps j = 0 .. k-1; tap k-1 is position t itself
 *     a_t = u_t + b_z + sum_j W_z[j] h_{t-(k-1-j)s}              i, o, g, f = split(a_t);   dilation s
 *     c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);   h_t = sigmoid(o) tanh(c_t)
 *     y_t = the last deq_vocab_out() of h_t
 *
 * h_t is the only unknown of position t: c_t follows from it and from what lies before. So a state is h [H], a position
 * leaves h, c and its token to the next ones, and nothing grows with the text. Before a text h, c and e are zero.
 * (Dilation is the authors': of the state alone.) trellis.c is the cell on rows (serving), trellis_seq.c the form on
 * whole sequences (training, scoring); tests/unit/test_trellis.c compares the two. */
#ifndef DEQ_CELL_TRELLIS_H
#define DEQ_CELL_TRELLIS_H

#include "core/cell/kind.h"
#include "core/cell/predictor.h"
#include "core/cell/vocabulary.h"

enum { DEQ_TAPS_MAX = 8 };

struct deq_trellis_arch {
    struct deq_arch base;
    uint32_t state_size;  /* H */
    uint32_t kernel_size; /* k, at least 2 */
    uint32_t dilation;    /* s, of the taps on the state */
    bool embed_scale;     /* e is the embedding times sqrt(hidden_size) */
    bool levels;          /* an ordinary trellis network: its levels, a fixed number of evaluations of (h, c) together,
                           * in which c_{t-1} too is that of the level below; the state is h, then c [2H] */
};

extern const struct deq_kind deq_trellis_kind;

struct deq_trellis_weights {
    struct deq_weights base;
    struct deq_trellis_arch arch;
    struct deq_vocabulary vocabulary;
    float *inject_w[DEQ_TAPS_MAX]; /* W_x[j] [4H, D] */
    float *inject_b;               /* b_x [4H] */
    float *state_w[DEQ_TAPS_MAX];  /* W_z[j] [4H, H], rows: all of i, then o, g, f */
    float *state_b;                /* b_z [4H] */
    struct deq_predictor predictor;
    struct {
        struct deq_packed inject[DEQ_TAPS_MAX], state[DEQ_TAPS_MAX];
    } packed;
};

static inline const struct deq_trellis_arch *deq_trellis_arch(const struct deq_arch *a)
{
    return (const struct deq_trellis_arch *)a;
}
static inline struct deq_trellis_weights *deq_trellis_weights(struct deq_weights *w)
{
    return (struct deq_trellis_weights *)w;
}
/* S, the width of a state */
static inline size_t deq_trellis_state(const struct deq_trellis_arch *a)
{
    return (a->levels ? 2 : 1) * (size_t)a->state_size;
}

/* The kind's row ops (kind.h). */
struct deq_cell deq_trellis_shape(const struct deq_arch *a, size_t max_rows, uint32_t n_pages, unsigned threads);
enum deq_rc deq_trellis_open(const struct deq_weights *w, size_t max_rows, uint32_t n_pages, struct deq_pool *pool,
                             struct deq_cell **ret, struct deq_err *err);

#endif
