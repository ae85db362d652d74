/* The row engine: one loop, one unit of work, one movement.
 *
 * A row is one position of one sequence whose equilibrium is sought. A sequence's window is up to w consecutive rows
 * behind its committed prefix; rows enter at the right and commit from the left. One step:
 *
 *     fill      every window from the right: known tokens (a prompt, whose own window is filled by and by) or guesses
 *               (the token that the row before would pick now). Of a cell with layers before its loop, these have run
 *               by then: of a prompt a block ahead of its window, in large batches; of a token picked or guessed as
 *               it enters, and again when another takes its place
 *     evaluate  f once on all rows of all windows: one batch of matrix products
 *     residual  of every row; rows that begin a window and have r < tol can be committed (or by another rule of
 *               stopping: core/solve/terms.h; those that look at logits are asked after the readout)
 *     coda      of a cell with layers behind its loop: of the rows of a window from its front to the last that may
 *               commit or whose guess is due; what they leave of rows that are not final is made again
 *     readout   logits of rows that may commit, and of rows whose guess is due (first two
 *               evaluations, and when they converge; none in a window of one row). Greedy picks
 *               take no whole product: what is known of all words, from the row's earlier logits
 *               or from a head in bytes, leaves few that may be best, and those are read
 *               (core/cell/near.h)
 *     commit    leading rows with r < tol: what their pages hold is final, their logits give the next token; a
 *               guess that turns out wrong is dropped with every row behind it, which then enter again
 *     solve     one solver step of every row that stays
 *
 * What makes answers independent of the batch: a row's iterates are a function of its own sequence (tokens up to it, w,
 * solver settings) alone. Every window is reserved whole at submission, so a sequence takes part in a step with all its
 * rows, or, paused, with none, whatever the load. A prompt's window, which has a width of its own, drains at multiples
 * of prefill_block positions, so whole blocks do not depend on what follows them and may come from the prefix cache
 * (prefix.h); and at its end, so that n choices can begin from one solve of it.
 *
 * With max_iter 0 nothing is evaluated: the start, the proposal of layers before the loop, is the state that is read.
 *
 * A row that begins its window is solved against a final prefix: from then on its evaluations count against
 * max_iter. Before that it may have as many, and then rests: a position takes less than 2 max_iter. The last of them
 * commits whatever the residual. It is one more iterate of the solver's where the one before it was the best so far,
 * else it goes back to the best: the pages hold what the last evaluation left, so that an older iterate is committed by
 * evaluating it again. What is committed: f(z), as the state that is read out, and what the cell leaves in its pages (a
 * transformer the keys and values of z, a trellis network f(z) itself).
 *
 * A step allocates nothing. One thread at a time. Memory: max_rows rows, the cache, scratch;
 * all from deq_engine_open. */
#ifndef DEQ_ENGINE_ENGINE_H
#define DEQ_ENGINE_ENGINE_H

#include "core/cell/cell.h"
#include "core/data/serving.h"
#include "core/data/vocab.h"
#include "core/deq.h"

/* An engine over any cell (the toy cell in tests), opened with as many pages as deq_engine_pages says. Takes the cell
 * and its pool (on failure they stay the caller's). */
enum deq_rc deq_engine_open(struct deq_cell *cell, const struct deq_vocab *vocab, const struct deq_serving *serving,
                            struct deq_pool *pool, const struct deq_engine_opts *opts, struct deq_engine **ret,
                            struct deq_err *err);
/* Defaults and bounds of options over a cell of that shape. */
enum deq_rc deq_engine_opts_fill(const struct deq_cell *shape, const struct deq_engine_opts *in,
                                 struct deq_engine_opts *ret, struct deq_err *err);
/* Pages that a text of so many positions needs at once, with row window w. */
uint32_t deq_engine_pages_of(const struct deq_cell *shape, const struct deq_engine_opts *opts, size_t positions,
                             uint32_t window);
/* Pages that (filled) options ask for. */
uint32_t deq_engine_pages(const struct deq_cell *shape, const struct deq_engine_opts *opts);
/* What an engine with these (filled) options takes, with its cell and pool, to the byte. */
uint64_t deq_engine_memory_bytes(const struct deq_serving *serving, const struct deq_engine_opts *opts,
                                 const struct deq_cell *shape);

#endif
