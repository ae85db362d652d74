/* The most probable word of a state without a product with the whole head: about all words something is known, and few
 * are multiplied.
 *
 *   logits of another state near it    a row's iterates come closer together from one evaluation to the next:
 *                                      |w_n x' - w_n x| <= |w_n| |x' - x|
 *   logits from the head in bytes      w_n = v_n + e_n, v_n = s_n q_n of bytes, half or a quarter of the work:
 *                                      |w_n x - v_n x| <= |e_n| |x|
 *
 * or both, the second at a state near. A word that cannot reach the best one by that is left out; those that can are
 * multiplied with x', in units of DEQ_PANEL_UNIT words, and their logits have the bits of the whole product. So the
 * answer is that of the whole product as well, ties included: it is proven, or not given. (Previews of the whole
 * vocabulary in few dimensions or bits: Shim et al., "SVD-Softmax", 2017; here nothing is left to chance.)
 *
 * What is rounded, relative to |w_n| |x|. Floats: a chain of K fused multiply-adds rounds K times by 2^-24 of partial
 * sums that |w_n| |x| bounds (Cauchy-Schwarz on absolute values), so (K + 1) 2^-24 with second orders. Integers: the
 * activations alone are rounded, each by t/2 = max|x| / 65024 and what the division by t was off, so by sqrt(K) |x| /
 * 64000 in all. What is rounded once at the end (a bias that is added, a sum that is scaled) is at most
 * 2^-24 (|w_n| |x| + |b_n|) each, which is why length[n] is |w_n| + |b_n| and |x| counts at least 1; eight such are
 * allowed for, and 1 % on everything for the lengths themselves, whose sums have relative errors of K 2^-24.
 *
 * For a vocabulary in one cluster whose head reads states as they are (deq_head_is_plain). */
#ifndef DEQ_CELL_NEAR_H
#define DEQ_CELL_NEAR_H

#include "core/cell/cell.h"
#include "core/cell/vocabulary.h"

struct deq_near_scratch {
    float *x, *before; /* [out] what the head reads of the two states: the caller's to fill in */
    float *unit;       /* [DEQ_PANEL_UNIT] */
    float *most;       /* [units] what the best word of each may be */
    char *operand;
};

struct deq_near {
    const struct deq_vocabulary *v;
    struct deq_pool *pool;  /* borrowed */
    float *length, *error;  /* [V] |w_n| + |b_n|, |e_n| */
    float longest;          /* of them; not finite: nothing can be said */
    float rounding;         /* relative, as above */
    struct deq_near_scratch *thread; /* [threads] NULL: the vocabulary is of another form */
    char *operands;         /* [rows] */
    /* the call under way */
    size_t n;
    const float *x;
    float *const *logits;
};

/* Counts or cuts (core/base/layout.h); then deq_near_init. */
void deq_near_lay_out(struct deq_near *n, const struct deq_vocab *v, enum deq_class c, size_t rows, unsigned threads,
                      struct deq_layout *l);
void deq_near_init(struct deq_near *n, const struct deq_vocabulary *v, struct deq_pool *pool);

/* logits[i] [V] of the rows x [rows, out] by the head in bytes, on all threads; false: there is none. Their bits are
 * equal at every level. */
bool deq_near_screen(struct deq_near *n, size_t rows, const float *x, float *const *logits);

/* The most probable word at the thread's x, the lowest of several, from logits at its `before` (known->state is not
 * looked at). UINT32_MAX: more than one part in DEQ_NEAR_PART of all words would have to be read. Any thread, each with
 * its own scratch. */
enum { DEQ_NEAR_PART = 4 };
uint32_t deq_near_best(const struct deq_near *n, unsigned thread, const struct deq_known *known);

#endif
