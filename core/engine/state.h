/* The state of a text: all that a sequence needs to go on behind it, as bytes. What positions behind it read of its
 * last ones (a transformer one layer of keys and values, whatever its depth), its last equilibrium, its tokens. A
 * request leaves one (deq_request.keep) and another begins behind it (deq_request.state), in this process or, through a
 * file, on any machine that serves the same model in the same numeric class.
 *
 * Answers from a state are a function of the state and the request, to the byte and wherever it is loaded: with no
 * further prompt those of the request that left it, had it gone on; behind a prompt of more tokens those of that text
 * read in two pieces, which are those of one piece with window 1, and within the tolerance otherwise.
 *
 * Immutable once it is filled; then any thread may read it. What is left of a text is sensitive as the text is: files
 * are made for their owner alone. core/engine/saved.h has their format. */
#ifndef DEQ_ENGINE_STATE_H
#define DEQ_ENGINE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/bytes.h"
#include "core/base/rc.h"

struct deq_model;
struct deq_engine;
struct deq_state;

struct deq_state_info {
    const uint32_t *tokens; /* [n_tokens] */
    size_t n_tokens;
    bool filled;            /* a new one is not, until the request that it was given to has solved its prompt */
    float residual_max;     /* over the positions of the text; */
    bool converged;         /* all of them did */
};

/* Room for the state of a text of so many tokens; the caller's, deq_state_free. */
enum deq_rc deq_state_new(const struct deq_model *model, size_t n_tokens, struct deq_state **ret, struct deq_err *err);
void deq_state_free(struct deq_state *state);
struct deq_state_info deq_state_info(const struct deq_state *state);
/* What a text of so many tokens takes, in memory and, about, as a file. */
uint64_t deq_state_bytes(const struct deq_model *model, size_t n_tokens);
/* A filled one into a file, which is replaced whole or not at all; and into a buffer, the same bytes. */
enum deq_rc deq_state_save(const struct deq_model *model, const struct deq_state *state, const char *path,
                           struct deq_err *err);
enum deq_rc deq_state_print(const struct deq_model *model, const struct deq_state *state, struct deq_buf *out,
                            struct deq_err *err);
/* A file, or bytes of one (called `name` in messages). DEQ_EFORMAT: larger than max_bytes, which is seen before
 * anything is read; no saved state; damaged; of another model, class or configuration. */
enum deq_rc deq_state_load(const struct deq_model *model, const char *path, uint64_t max_bytes,
                           struct deq_state **ret, struct deq_err *err);
enum deq_rc deq_state_parse(const struct deq_model *model, const void *bytes, size_t len, const char *name,
                            struct deq_state **ret, struct deq_err *err);

/* The prefix cache of an engine as a file of the same kind. Restored, into an engine that has solved nothing yet, it
 * gives the same hits with the same bits; what is refused (as above) leaves it empty. *ret_blocks: how many it has. */
enum deq_rc deq_prefix_save(const struct deq_model *model, const struct deq_engine *engine, const char *path,
                            struct deq_err *err);
enum deq_rc deq_prefix_restore(const struct deq_model *model, struct deq_engine *engine, const char *path,
                               size_t *ret_blocks, struct deq_err *err);
/* The same while the engine goes on: one thread writes the file, and the engine's copies for it, between steps, some
 * hundred kB at a time. Blocks that go meanwhile are left out. */
struct deq_prefix_copy;
/* The engine's thread. *ret NULL: no block has come since the last copy began. */
enum deq_rc deq_prefix_copy_new(struct deq_engine *engine, struct deq_prefix_copy **ret, struct deq_err *err);
/* The engine's thread: copies, if all that it had copied is written. */
void deq_prefix_copy_more(struct deq_prefix_copy *copy, const struct deq_engine *engine);
/* The engine's thread will not come again: what it has not copied all of is given up by DEQ_ECANCELED, and the file
 * stays as it was. */
void deq_prefix_copy_end(struct deq_prefix_copy *copy);
/* Another thread, which waits for the engine's; returns when the file is there, or why it is not. */
enum deq_rc deq_prefix_copy_save(const struct deq_model *model, struct deq_prefix_copy *copy, const char *path,
                                 struct deq_err *err);
void deq_prefix_copy_free(struct deq_prefix_copy *copy); /* after that; takes NULL */

#endif
