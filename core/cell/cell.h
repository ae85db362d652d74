/* The seam between the engine and the equations: a cell is a table of functions on rows.
 *
 * A row is one position of one sequence whose equilibrium is being sought. All functions work on a batch of rows; what
 * they compute for a row depends on that row and on the positions before it in its own sequence, never on the other
 * rows of the batch: same bits in any company. They are called on the engine's thread and use its pool; scratch was
 * reserved for `max_rows` when the cell was opened.
 *
 * What a cell remembers of a position (keys and values, a state) lies in pages. The engine knows pages by their
 * numbers alone: which sequence or cached block holds which, which are free, when one must be copied. Their bytes
 * belong to the cell: it says how far back a row looks, how many positions a page has and what it takes, and holds the
 * memory of n_pages of them. */
#ifndef DEQ_CELL_CELL_H
#define DEQ_CELL_CELL_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "core/base/pool.h"

enum { DEQ_PAGE_NONE = UINT32_MAX };

/* The pages of a sequence: logical page p (positions p*page_tok ..) is number page[p % n]. As long as the look-back and
 * the row window need, so that text of any length slides through a fixed number of pages. */
struct deq_ring {
    uint32_t *page; /* [n] numbers, or DEQ_PAGE_NONE */
    uint32_t n;
};

/* Rows of one sequence stand in the order of their positions. */
struct deq_rows {
    size_t n;
    const size_t *position;              /* [n] */
    const struct deq_ring *const *ring;  /* [n] pages of the row's sequence: those of the row's own position and of
                                          * `lookback` before it hold */
    const float *const *z;               /* [n] -> [state_dim] iterates */
    float *const *fz;                    /* [n] -> [state_dim] receives f(z) */
    /* [n] -> [inject_dim] what a cell keeps of a row: written by inject, and by the cell when something of
     * it becomes known for good */
    float *const *u;
};

/* Logits that were computed before: of another state near, or rounded, or both. */
struct deq_known {
    const float *state;  /* [state_dim] */
    const float *logits; /* [V] at that state */
    bool rounded;        /* they are screen's, not readout's */
    uint32_t likely;     /* a word that may well be the best, or UINT32_MAX */
    const uint32_t *allowed; /* bits [V, up to whole words]: those that the best is one of; NULL: all */
};

struct deq_cell;

struct deq_cell_ops {
    const char *name;
    /* Layers before the loop, of positions whose tokens are known or guessed: what they leave lies in the pages of
     * these positions. Positions of a sequence in order, each after the one before it, any number of them ahead of its
     * rows; again where another token takes the place. rows: n (at most max_rows), position, ring. NULL: there are
     * none */
    void (*explicit)(struct deq_cell *c, const struct deq_rows *rows, const uint32_t *tokens);
    /* z0 = what the layers before the loop propose as the state. rows: n, position, ring. NULL: they propose none */
    void (*start)(struct deq_cell *c, const struct deq_rows *rows, float *const *z0);
    /* u = injection of a token that enters at a position; once per row. rows: n, position, ring */
    void (*inject)(struct deq_cell *c, const struct deq_rows *rows, const uint32_t *tokens, float *const *u);
    /* z0 = the predictor's start; z_prev[i]: the state at the position before. NULL when the model has no predictor */
    void (*predict)(struct deq_cell *c, size_t n, const uint32_t *tokens, const float *const *z_prev, float *const *z0);
    /* f(z) of every row; writes what later rows read of these into their pages */
    void (*step)(struct deq_cell *c, const struct deq_rows *rows);
    /* Positions are final: u, z as the last evaluation had them, fz = f(z), which is the state that is read out (both
     * the start, of sequences that evaluate nothing: none of their rows reads what a step writes). Each
     * position of a sequence once, in order, before anything is cached or begins behind it; a position that came from
     * the prefix cache was told when it was solved. NULL: nothing to do */
    void (*commit)(struct deq_cell *c, const struct deq_rows *rows);
    /* Layers behind the loop: y[i] [read_dim], which readout, screen and best_near then take in place of a state. rows:
     * n, position, ring, u, z = the states that are read out. Writes what later positions read of these into their
     * pages: rows of a sequence in order, from its first that is not final, without a gap; every position once more
     * when it is final, at the latest before its commit. NULL: y is the state */
    void (*coda)(struct deq_cell *c, const struct deq_rows *rows, float *const *y);
    /* Logits of states z, logits[i] [vocab_size]; rows: n, position, ring, z. A cell with n_tails > 0 has its
     * vocabulary cut into clusters: then only those of the shortlist are written, as log-probabilities, and tails[i]
     * [n_tails] receives the log-probability of each further cluster (tails NULL when n_tails is 0). */
    void (*readout)(struct deq_cell *c, const struct deq_rows *rows, float *const *logits, float *const *tails);
    /* Adds the log-probabilities of one further cluster, 1..n_tails; tails as readout gave
     * them. NULL when n_tails is 0. */
    void (*readout_tail)(struct deq_cell *c, unsigned cluster, const struct deq_rows *rows, float *const *logits,
                         const float *const *tails);
    /* logits[i] [V] of states z by a head rounded to bytes: about those of readout, at less cost, equal bits in any
     * company too. false: this model has none, nothing is written. NULL: never */
    bool (*screen)(struct deq_cell *c, const struct deq_rows *rows, float *const *logits);
    /* The most probable allowed word at state z, exactly that of readout's logits, where it can be told from what is
     * known without reading the whole vocabulary; else UINT32_MAX. Any thread of the pool, each with its own number.
     * NULL: never */
    uint32_t (*best_near)(struct deq_cell *c, unsigned thread, const float *z, const struct deq_known *known);
    /* Page `to` becomes what page `from` is. */
    void (*page_copy)(struct deq_cell *c, uint32_t to, uint32_t from);
    /* What a page holds of its first n positions, all of them final, as bytes [page_bytes] that any cell of the same
     * model understands; of the others zeros. */
    void (*page_get)(const struct deq_cell *c, uint32_t page, uint32_t n, void *out);
    /* Whether a page of such a cell may have these bytes, of which c needs to have the dimensions alone. NULL: any */
    bool (*page_fits)(const struct deq_cell *c, const void *in);
    /* The reverse of page_get, of bytes that fit. */
    void (*page_put)(struct deq_cell *c, uint32_t page, const void *in);
    void (*free)(struct deq_cell *c);
};

struct deq_cell {
    const struct deq_cell_ops *ops;
    size_t state_dim, inject_dim, vocab_size, max_rows;
    size_t read_dim;   /* what the head reads: state_dim where there is no coda */
    uint32_t max_positions; /* a text has at most as many; 0: any number */
    unsigned n_tails;
    /* multiply-adds a row in matrix products, each with a weight of its own: the floor of the time of one evaluation,
     * of the layers before and behind the loop, of readout */
    uint64_t step_madds, explicit_madds, coda_madds, readout_madds;
    uint32_t lookback; /* positions before its own that a row reads, at least 1 */
    uint32_t page_tok; /* positions of a page */
    uint32_t n_pages;
    size_t page_bytes;
    uint64_t bytes;    /* all that it holds: scratch, pages */
    struct deq_pool *pool; /* borrowed */
};

static inline bool deq_page_fits(const struct deq_cell *c, const void *in)
{
    return !c->ops->page_fits || c->ops->page_fits(c, in);
}

static inline uint32_t deq_page_of(const struct deq_ring *r, size_t logical)
{
    return r->page[logical % r->n];
}

#endif
