/* The prefix cache on disk, in engine.cache_dir: restored when an engine begins, saved while it goes on, every
 * engine.cache_save_ms in which blocks have come, and when it ends. So a daemon that is killed loses little.
 *
 * A thread that lives as long as a save writes the file; the engine's thread copies for it between steps, a slice at a
 * time (core/engine/state.h), and never waits for it. What cannot be read or written is logged, once until it can, and
 * counted. */
#ifndef DEQ_SERVER_CACHE_H
#define DEQ_SERVER_CACHE_H

#include <pthread.h>
#include <stdatomic.h>

#include "server/conf.h"
#include "server/metrics.h"

/* Of one engine. Its thread's, but for what is said. */
struct cache {
    const struct conf *conf;
    struct metrics *metrics;
    const struct deq_model *model;
    uint64_t due_ns;              /* the next save; 0: not known yet */
    struct deq_prefix_copy *copy; /* under way, or NULL: there is no thread */
    pthread_t thread;
    _Atomic bool written;         /* by the thread: it is done */
    _Atomic bool retired;         /* any thread: another engine's cache is to stand in the file */
    bool told;                    /* the log has that it cannot be written; the thread's, one after the other */
};

/* Restores it into an engine that has solved nothing yet. */
void cache_begin(struct cache *c, const struct conf *conf, struct metrics *m, const struct deq_model *model,
                 struct deq_engine *engine);
/* Between steps, and where none is to be made. */
void cache_follow(struct cache *c, struct deq_engine *engine, uint64_t now_ns);
/* A copy is under way: the engine's thread is to come again soon. */
bool cache_is_copying(const struct cache *c);
/* Any thread: nothing more is saved. */
void cache_retire(struct cache *c);
/* Behind the engine's last step: ends a save under way. */
void cache_end(struct cache *c);
/* The whole, once more, of an engine that solves nothing any more; behind cache_end. */
void cache_save(struct cache *c, const struct deq_engine *engine);

#endif
