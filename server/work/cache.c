#define _GNU_SOURCE
#include "server/work/cache.h"

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/io.h"
#include "server/log.h"

#define FILE_NAME "prefix.safetensors"

enum { PATH_BYTES = 1024 + sizeof FILE_NAME + 1 };

static bool path_of(const struct cache *c, char path[PATH_BYTES])
{
    return c->conf->cache_dir[0] && deq_io_join(path, PATH_BYTES, c->conf->cache_dir, FILE_NAME);
}

static int64_t ms_since(uint64_t t0)
{
    return (int64_t)((deq_now_ns() - t0) / 1000000);
}

void cache_begin(struct cache *c, const struct conf *conf, struct metrics *m, const struct deq_model *model,
                 struct deq_engine *engine)
{
    char path[PATH_BYTES];
    struct deq_err err = {0};
    size_t blocks = 0;
    const uint64_t t0 = deq_now_ns();
    *c = (struct cache){.conf = conf, .metrics = m, .model = model};
    if (!path_of(c, path))
        return;
    const enum deq_rc rc = deq_prefix_restore(model, engine, path, &blocks, &err);
    if (rc == DEQ_ENOTFOUND) /* the first run */
        return;
    atomic_fetch_add(&m->state_reads[!rc], 1);
    atomic_store(&m->restored_blocks, blocks);
    if (rc)
        log_line(LOG_WARN, "prefix cache not restored", log_text("reason", err.text));
    else
        log_line(LOG_INFO, "prefix cache restored", log_int("blocks", (int64_t)blocks), log_int("ms", ms_since(t0)));
}

/* Counts it, and says that it failed once, until it works again. */
static void note_save(struct cache *c, enum deq_rc rc, const struct deq_err *err)
{
    if (rc == DEQ_ECANCELED) /* the engine ended */
        return;
    atomic_fetch_add(&c->metrics->state_writes[!rc], 1);
    if (rc && !c->told)
        log_line(LOG_ERROR, "prefix cache not saved", log_text("reason", err->text));
    c->told = rc != DEQ_OK;
}

/* --- While the engine goes on --- */

static void *writer(void *arg)
{
    struct cache *c = arg;
    char path[PATH_BYTES];
    struct deq_err err = {0};
    const uint64_t t0 = deq_now_ns();
    const enum deq_rc rc = path_of(c, path) ? deq_prefix_copy_save(c->model, c->copy, path, &err) : DEQ_OK;
    note_save(c, rc, &err);
    if (!rc)
        log_line(LOG_DEBUG, "prefix cache saved meanwhile", log_int("ms", ms_since(t0)));
    atomic_store(&c->written, true);
    return NULL;
}

static void start(struct cache *c, struct deq_engine *engine)
{
    struct deq_err err;
    enum deq_rc rc = deq_prefix_copy_new(engine, &c->copy, &err);
    if (!c->copy) {
        if (rc)
            note_save(c, rc, &err);
        return;
    }
    atomic_store(&c->written, false);
    if (DEQ_THREAD(pthread_create(&c->thread, NULL, writer, c))) {
        rc = deq_fail(&err, DEQ_EIO, "cannot start the thread that writes it");
        note_save(c, rc, &err);
        deq_prefix_copy_free(c->copy);
        c->copy = NULL;
        return;
    }
    (void)pthread_setname_np(c->thread, "cache");
}

static void finish(struct cache *c)
{
    pthread_join(c->thread, NULL);
    deq_prefix_copy_free(c->copy);
    c->copy = NULL;
}

void cache_follow(struct cache *c, struct deq_engine *engine, uint64_t now_ns)
{
    const uint64_t interval_ns = c->conf->cache_save_ms * 1000000ull;
    if (c->copy && atomic_load(&c->written))
        finish(c);
    else if (c->copy)
        deq_prefix_copy_more(c->copy, engine);
    if (c->copy || !interval_ns || !c->conf->cache_dir[0] || atomic_load(&c->retired))
        return;
    if (c->due_ns && now_ns >= c->due_ns)
        start(c, engine);
    if (!c->due_ns || now_ns >= c->due_ns)
        c->due_ns = now_ns + interval_ns;
}

bool cache_is_copying(const struct cache *c)
{
    return c->copy != NULL;
}

void cache_retire(struct cache *c)
{
    atomic_store(&c->retired, true);
}

/* --- Behind its end --- */

void cache_end(struct cache *c)
{
    if (!c->copy)
        return;
    deq_prefix_copy_end(c->copy);
    finish(c);
}

void cache_save(struct cache *c, const struct deq_engine *engine)
{
    char path[PATH_BYTES];
    struct deq_err err = {0};
    const uint64_t t0 = deq_now_ns();
    if (!path_of(c, path))
        return;
    c->told = false; /* once more: it is the end */
    const enum deq_rc rc = deq_prefix_save(c->model, engine, path, &err);
    note_save(c, rc, &err);
    if (!rc)
        log_line(LOG_INFO, "prefix cache saved", log_int("blocks", (int64_t)deq_engine_stats(engine).prefix_entries),
                 log_int("ms", ms_since(t0)));
}
