#include "server/work/store.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/mem.h"
#include "server/log.h"
#include "server/patience.h"
#include "server/work/memory.h"

enum { OLD_MAX = 4, CHECK_TOKENS = 8, POLL_MS = 10 };

struct store {
    const struct conf *conf;
    struct metrics *metrics;
    pthread_mutex_t lock;
    pthread_cond_t idle;          /* a reload's thread ended */
    struct served *current;
    struct served *old[OLD_MAX];  /* swapped out, still with work */
    unsigned threads;             /* reloads' threads: each loads, swaps, and waits for what it swapped out */
    bool reloading;
    _Atomic bool closing; /* also what gives up a load */
    store_reloaded *done;
    void *ctx;
};

/* What a name may hold: parts of A-Z a-z 0-9 . _ - without a leading dot, with slashes between, as in org/model. */
static bool good_name(const char *name)
{
    static const char part[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (strlen(name) > CONF_NAME_MAX)
        return false;
    for (const char *s = name;; s++) {
        const size_t n = strspn(s, part);
        if (!n || *s == '.' || (s[n] && s[n] != '/'))
            return false;
        s += n;
        if (!*s)
            return true;
    }
}

/* "stories" of "models/stories/" */
static bool name_of(const char *path, char out[CONF_NAME_MAX + 1])
{
    size_t n = strlen(path);
    while (n && path[n - 1] == '/')
        n--;
    size_t start = n;
    while (start && path[start - 1] != '/')
        start--;
    if (n - start > CONF_NAME_MAX)
        return false;
    snprintf(out, CONF_NAME_MAX + 1, "%.*s", (int)(n - start), path + start);
    return good_name(out);
}

struct proof {
    size_t tokens;
    bool finite, numeric;
};

static enum deq_verdict prove(void *ctx, const struct deq_event *e)
{
    struct proof *p = ctx;
    if (e->kind == DEQ_EVENT_TOKEN) {
        p->tokens++;
        p->finite = p->finite && isfinite(e->residual) && isfinite(e->logits[0]);
    }
    p->numeric = p->numeric || (e->kind == DEQ_EVENT_END && e->finish == DEQ_FINISH_NUMERIC);
    return DEQ_CONTINUE;
}

/* A few tokens from an engine of its own: weights that parse but solve to nothing must not replace ones that work. */
static enum deq_rc self_test(const struct deq_model *model, const struct deq_stop *stop, struct deq_err *err)
{
    struct deq_engine *engine;
    struct proof p = {.finite = true};
    const struct deq_model_info info = deq_model_info(model);
    const uint32_t start = info.start_id >= 0 ? (uint32_t)info.start_id : 0;
    const uint32_t positions = info.max_positions ? DEQ_MIN(info.max_positions, CHECK_TOKENS + 1u) : CHECK_TOKENS + 1;
    const struct deq_engine_opts opts = {.max_sequences = 1, .max_positions = positions};
    enum deq_rc rc = deq_engine_new(model, &opts, &engine, err);
    if (rc)
        return rc;
    struct deq_request q = deq_request_defaults(model);
    q.prompt = &start;
    q.n_prompt = 1;
    q.max_tokens = positions - 1;
    q.ignore_eos = true;
    q.want_logits = true;
    q.event = prove;
    q.ctx = &p;
    rc = deq_submit(engine, &q, NULL, err);
    while (!rc && deq_active(engine) && !stop->asked(stop->ctx))
        deq_step(engine);
    deq_engine_free(engine);
    if (!rc && stop->asked(stop->ctx))
        return deq_fail(err, DEQ_ECANCELED, "the server is shutting down");
    if (!rc && (p.numeric || !p.finite || p.tokens != positions - 1))
        rc = deq_fail(err, DEQ_ENUMERIC, "the model's states are not finite numbers");
    return rc;
}

static void served_free(struct served *m)
{
    if (!m)
        return;
    sched_free(m->sched);
    deq_model_free(m->model);
    deq_free(m);
}

static enum deq_rc check(const struct conf *c, char ret_name[CONF_NAME_MAX + 1], struct deq_err *err)
{
    const struct deq_engine_opts opts = sched_engine_opts(c);
    if (c->model_name[0]) /* as it stands */
        snprintf(ret_name, CONF_NAME_MAX + 1, "%s", c->model_name);
    else if (!name_of(c->model_path, ret_name))
        return deq_fail(err, DEQ_EINVAL,
                        "model.path: \"%s\": the directory's name cannot be the model's (at most %d of A-Z a-z 0-9 "
                        ". _ -, no dot first); set model.name",
                        c->model_path, CONF_NAME_MAX);
    if (!good_name(ret_name))
        return deq_fail(err, DEQ_EINVAL,
                        "model.name: \"%s\" is not parts of A-Z a-z 0-9 . _ - with / between them, none with a dot "
                        "first, as in org/model",
                        c->model_name);
    return memory_check(c, &opts, err);
}

enum deq_rc store_check(const struct conf *c, struct deq_err *err)
{
    char name[CONF_NAME_MAX + 1];
    return check(c, name, err);
}

static bool closing(void *ctx)
{
    const struct store *s = ctx;
    return s->closing;
}

static enum deq_rc load(struct store *s, struct served **ret, struct deq_err *err)
{
    const struct conf *c = s->conf;
    const struct deq_stop stop = {closing, s};
    struct served *m = DEQ_NEW(struct served);
    if (!m)
        return deq_fail(err, DEQ_ENOMEM, "no memory for a model");
    enum deq_class numeric;
    enum deq_rc rc = check(c, m->name, err);
    if (!rc)
        rc = deq_model_load_until(c->model_path, conf_numeric(c, &numeric), &stop, &m->model, err);
    if (!rc)
        rc = self_test(m->model, &stop, err);
    if (!rc)
        rc = sched_new(c, m->model, s->metrics, &m->sched, err);
    if (rc) {
        served_free(m);
        return rc;
    }
    m->info = deq_model_info(m->model);
    m->loaded_ms = deq_wall_ms();
    atomic_store(&m->refs, 1);
    *ret = m;
    return DEQ_OK;
}

enum deq_rc store_new(const struct conf *c, struct metrics *m, struct store **ret, struct deq_err *err)
{
    struct store *s = DEQ_NEW(struct store);
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the model store");
    s->conf = c;
    s->metrics = m;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->idle, NULL);
    *ret = s;
    return DEQ_OK;
}

enum deq_rc store_load(struct store *s, struct deq_err *err)
{
    struct served *m = NULL;
    const enum deq_rc rc = load(s, &m, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&s->lock);
    s->current = m;
    pthread_mutex_unlock(&s->lock);
    return DEQ_OK;
}

struct served *store_acquire(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    struct served *m = s->current;
    if (m)
        atomic_fetch_add(&m->refs, 1);
    pthread_mutex_unlock(&s->lock);
    return m;
}

void store_release(struct served *m)
{
    if (m) /* the reload that swapped it out waits for the last: its engine's thread must not join itself */
        atomic_fetch_sub(&m->refs, 1);
}

static void wait_for_last(const struct served *m)
{
    const struct timespec nap = {.tv_nsec = POLL_MS * 1000000l};
    while (atomic_load(&m->refs) > 1)
        nanosleep(&nap, NULL);
}

static void *reload_main(void *arg)
{
    struct store *s = arg;
    struct served *fresh = NULL, *old = NULL;
    struct deq_err err = {0};
    /* copies: once swapped in, the model may be swapped out and freed by the next reload */
    char fingerprint[17] = "", name[CONF_NAME_MAX + 1] = "";
    const uint64_t t0 = deq_now_ns();
    patience_none(); /* nor will the engine's threads have any */
    enum deq_rc rc = load(s, &fresh, &err);
    store_reloaded *const done = s->done; /* set before this thread began, until reloading is false */
    void *const ctx = s->ctx;
    unsigned slot = 0;
    pthread_mutex_lock(&s->lock);
    if (!rc && s->closing)
        rc = deq_fail(&err, DEQ_ECANCELED, "the server is shutting down");
    if (!rc) {
        snprintf(fingerprint, sizeof fingerprint, "%s", fresh->info.fingerprint);
        memcpy(name, fresh->name, sizeof name);
        while (s->old[slot]) /* store_reload saw that there is one */
            slot++;
        old = s->old[slot] = s->current;
        s->current = fresh;
        sched_retire(old->sched);
    }
    s->reloading = false;
    pthread_mutex_unlock(&s->lock);
    atomic_fetch_add(&s->metrics->reloads[rc == DEQ_OK], 1);
    if (rc) {
        log_line(LOG_ERROR, "reload failed, the model that served goes on", log_text("reason", err.text));
        served_free(fresh);
    } else {
        log_line(LOG_INFO, "reloaded", log_text("model", name), log_text("fingerprint", fingerprint),
                 log_text("before", old->info.fingerprint),
                 log_int("load_ms", (int64_t)((deq_now_ns() - t0) / 1000000)));
    }
    if (done)
        done(ctx, rc, &err, fingerprint);
    if (old) {
        wait_for_last(old);
        pthread_mutex_lock(&s->lock);
        s->old[slot] = NULL;
        pthread_mutex_unlock(&s->lock);
        served_free(old);
    }
    pthread_mutex_lock(&s->lock);
    s->threads--;
    pthread_cond_signal(&s->idle);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

bool store_reload(struct store *s, store_reloaded *done, void *ctx)
{
    pthread_attr_t detached;
    pthread_t thread;
    bool room = false, begun = false;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < OLD_MAX; i++)
        room = room || !s->old[i];
    if (s->current && room && !s->reloading && !s->closing) {
        s->done = done;
        s->ctx = ctx;
        begun = DEQ_THREAD(pthread_create(&thread, &detached, reload_main, s)) == 0;
        s->reloading = begun;
        s->threads += begun;
    }
    pthread_mutex_unlock(&s->lock);
    pthread_attr_destroy(&detached);
    return begun;
}

/* Calls fn for the model that serves and for those that finish. */
static void each(struct store *s, void (*fn)(struct sched *sched, void *ctx), void *ctx)
{
    pthread_mutex_lock(&s->lock);
    if (s->current)
        fn(s->current->sched, ctx);
    for (unsigned i = 0; i < OLD_MAX; i++)
        if (s->old[i])
            fn(s->old[i]->sched, ctx);
    pthread_mutex_unlock(&s->lock);
}

struct liveness {
    uint64_t stall_ms;
    bool alive;
};

static void add_alive(struct sched *sched, void *ctx)
{
    struct liveness *l = ctx;
    l->alive = l->alive && sched_alive(sched, l->stall_ms);
}

bool store_alive(struct store *s, uint64_t stall_ms)
{
    struct liveness l = {stall_ms, true};
    each(s, add_alive, &l);
    return l.alive;
}

static void add_pending(struct sched *sched, void *ctx)
{
    *(size_t *)ctx += sched_pending(sched);
}

size_t store_pending(struct store *s)
{
    size_t n = 0;
    each(s, add_pending, &n);
    return n;
}

struct listing {
    struct sched_job *out;
    size_t n, max;
};

static void add_jobs(struct sched *sched, void *ctx)
{
    struct listing *l = ctx;
    const size_t listed = DEQ_MIN(l->n, l->max);
    l->n += sched_list(sched, l->out + listed, l->max - listed);
}

size_t store_list(struct store *s, struct sched_job *out, size_t max)
{
    struct listing l = {out, 0, max};
    each(s, add_jobs, &l);
    return l.n;
}

struct ending {
    uint64_t number;
    bool found;
};

static void end_job(struct sched *sched, void *ctx)
{
    struct ending *e = ctx;
    e->found = e->found || sched_end(sched, e->number);
}

bool store_end_job(struct store *s, uint64_t number)
{
    struct ending e = {number, false};
    each(s, end_job, &e);
    return e.found;
}

static void drain(struct sched *sched, void *ctx)
{
    (void)ctx;
    sched_drain(sched);
}

static void end_all(struct sched *sched, void *ctx)
{
    (void)ctx;
    sched_end_all(sched);
}

void store_drain(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_mutex_unlock(&s->lock);
    each(s, drain, NULL);
}

void store_end_all(struct store *s)
{
    each(s, end_all, NULL);
}

void store_stop(struct store *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    while (s->threads)
        pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
    if (s->current)
        sched_stop(s->current->sched);
}

void store_save_cache(struct store *s)
{
    if (s && s->current)
        sched_save_cache(s->current->sched);
}

void store_free(struct store *s)
{
    if (!s)
        return;
    store_stop(s);
    served_free(s->current);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    deq_free(s);
}
