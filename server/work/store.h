/* The model that is served: weights, tokenizer, and the scheduler with its engine, as one thing that is swapped whole.
 *
 * A reload loads the directory again beside what serves, proves that it solves, and swaps: requests from then on use
 * the new one, those before it, queued or running, finish on the old one, which is freed when the last has let go. A
 * failed load changes nothing. */
#ifndef DEQ_SERVER_STORE_H
#define DEQ_SERVER_STORE_H

#include "server/work/sched.h"

/* Immutable but for the count. */
struct served {
    struct deq_model *model;
    struct deq_model_info info;
    struct sched *sched;
    char name[CONF_NAME_MAX + 1];
    uint64_t loaded_ms; /* wall time */
    _Atomic int refs;
};

struct store;

enum deq_rc store_new(const struct conf *c, struct metrics *m, struct store **ret, struct deq_err *err);
/* Whether the model could be loaded and has room: its files' headers, its name, the limits of memory. Loads nothing. */
enum deq_rc store_check(const struct conf *c, struct deq_err *err);
/* Loads the first model. */
enum deq_rc store_load(struct store *s, struct deq_err *err);
/* The model at hand, or NULL while none is loaded; give it back with store_release. Any thread. */
struct served *store_acquire(struct store *s);
void store_release(struct served *m);
/* Begins a reload on a thread of its own; false when one is under way, when four models still have work, or when
 * nothing is loaded yet. done, called on that thread, may be NULL. */
typedef void store_reloaded(void *ctx, enum deq_rc rc, const struct deq_err *err, const char *fingerprint);
bool store_reload(struct store *s, store_reloaded *done, void *ctx);
/* What follows concerns every model that still has work. */
bool store_alive(struct store *s, uint64_t stall_ms);
size_t store_pending(struct store *s);
/* Jobs that wait or run, at most max of them, and how many there are; that of this number ends, if it is there. */
size_t store_list(struct store *s, struct sched_job *out, size_t max);
bool store_end_job(struct store *s, uint64_t number);
void store_drain(struct store *s);   /* also: no reload from now on */
void store_end_all(struct store *s);
/* After the last exchange: ends the threads; a reload under way is given up, engines end behind their step. */
void store_stop(struct store *s);
void store_save_cache(struct store *s); /* that of the model that served; behind store_stop */
void store_free(struct store *s); /* the same where that was not done; and what the models hold */

#endif
