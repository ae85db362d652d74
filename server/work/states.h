/* What the daemon keeps of equilibria on disk: saved states by name (state.dir); the prefix cache is cache.h's
 * (engine.cache_dir). Both directories may be full, read-only, or hold what a crash has left: the daemon serves on,
 * says it once in the log, and counts it.
 *
 * A state is the file NAME.safetensors; there is no index, so files may come and go by other means, from other daemons
 * too. Files are written by a thread of their own, for which the engine never waits, and appear whole or not at all.
 * Any thread. */
#ifndef DEQ_SERVER_STATES_H
#define DEQ_SERVER_STATES_H

#include "server/conf.h"
#include "server/metrics.h"

enum { STATE_NAME_MAX = 96 };

struct states;

/* A state that is to be written, and who is told then, on the writer's thread; the caller's until that. */
struct state_task {
    const struct deq_model *model;
    const struct deq_state *state;
    char name[STATE_NAME_MAX + 1];
    void (*done)(struct state_task *t, enum deq_rc rc, uint64_t bytes, const struct deq_err *err);
    struct state_task *next; /* the writer's */
};

/* DEQ_EINVAL: state.dir is engine.cache_dir, whose file is all callers'. */
enum deq_rc states_check(const struct conf *c, struct deq_err *err);
/* Looks after both directories: what is not there is made, what was left unfinished is removed; then checks them. */
enum deq_rc states_new(const struct conf *c, struct metrics *m, struct states **ret, struct deq_err *err);
/* After the last task was handed over; writes those that wait. */
void states_free(struct states *s);
bool states_kept(const struct states *s); /* state.dir is set */
/* 1..STATE_NAME_MAX of A-Z a-z 0-9 . _ -, no dot first. */
bool states_good_name(const char *name, size_t n);
/* Whether one more of that name and size may be kept. DEQ_EFULL says which limit is in the way. */
enum deq_rc states_room(const struct states *s, const char *name, uint64_t bytes, struct deq_err *err);
void states_save(struct states *s, struct state_task *t);
/* DEQ_ENOTFOUND: there is none; DEQ_EFORMAT: it is refused, as the message says, which names no path. max_bytes: beyond
 * that nothing is read. */
enum deq_rc states_load(struct states *s, const struct deq_model *model, const char *name, uint64_t max_bytes,
                        struct deq_state **ret, struct deq_err *err);
/* Its bytes; deq_free. */
enum deq_rc states_read(const struct states *s, const char *name, uint64_t max_bytes, char **ret, size_t *ret_len,
                        struct deq_err *err);
enum deq_rc states_remove(const struct states *s, const char *name, struct deq_err *err);
/* In order of names. *ret: deq_free. */
struct state_entry {
    char name[STATE_NAME_MAX + 1];
    uint64_t bytes, written_s; /* wall time */
};
enum deq_rc states_list(const struct states *s, struct state_entry **ret, size_t *ret_n, struct deq_err *err);

#endif
