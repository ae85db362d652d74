/* The seam between the engine and the equations: a cell is a table of functions on rows.
 *
 * A row is one position of one sequence whose equilibrium is being sought. All functions work on a batch of rows; what they compute for a row
 * depends on that row and on the positions before it in its own sequence, never on the other rows of the batch: same bits in any
 * company. They are called on the engine's thread and use its pool; scratch was reserved for `max_rows` when the cell was opened. */
#ifndef DEQ_SOLVE_CELL_H
#define DEQ_SOLVE_CELL_H

#include "core/base/pool.h"
#include "core/data/kv.h"

struct deq_rows {
    size_t n;
    const float *const *z;               /* [n] -> [state_dim] iterates */
    float *const *fz;                    /* [n] -> [state_dim] receives f(z) */
    const float *const *u;               /* [n] -> [inject_dim] */
    const size_t *position;              /* [n] */
    const struct deq_kv_seq *const *seq; /* [n] the row's sequence in `kv` */
    const struct deq_kv_pool *kv;
};

struct deq_cell;

struct deq_cell_ops {
    const char *name;
    /* u = injection of a token; once per token */
    void (*inject)(struct deq_cell *c, size_t n, const uint32_t *tokens, float *const *u);
    /* z0 = the predictor's start; z_prev[i]: the state at the position before. NULL when the model has no predictor */
    void (*predict)(struct deq_cell *c, size_t n, const uint32_t *tokens, const float *const *z_prev, float *const *z0);
    /* f(z) of every row; writes the rows' keys and values into the cache */
    void (*step)(struct deq_cell *c, const struct deq_rows *rows);
    /* Logits of states, logits[i] [vocab_size]. A cell with n_tails > 0 has its vocabulary cut into clusters: then only those of the shortlist are
     * written, as log-probabilities, and tails[i] [n_tails] receives the log-probability of each further cluster (tails NULL when n_tails is 0). */
    void (*readout)(struct deq_cell *c, size_t n, const float *const *z, float *const *logits, float *const *tails);
    /* Adds the log-probabilities of one further cluster, 1..n_tails; tails as readout gave them. NULL when n_tails is 0. */
    void (*readout_tail)(struct deq_cell *c, unsigned cluster, size_t n, const float *const *z, float *const *logits, const float *const *tails);
    void (*free)(struct deq_cell *c);
};

struct deq_cell {
    const struct deq_cell_ops *ops;
    size_t state_dim, inject_dim, vocab_size, max_rows, scratch_bytes;
    unsigned n_tails;
    struct deq_pool *pool; /* borrowed */
};

#endif
