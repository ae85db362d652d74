#define _GNU_SOURCE
#include "server/work/states.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/fault.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "server/log.h"

#define SUFFIX ".safetensors"

enum { PATH_BYTES = 1024 + STATE_NAME_MAX + sizeof SUFFIX + 1 };

struct states {
    const struct conf *conf;
    struct metrics *metrics;
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    struct state_task *first, **last;
    bool started, stop;
    bool told; /* the log has that files cannot be written, and none has been since */
};

bool states_kept(const struct states *s)
{
    return s->conf->state_dir[0];
}

bool states_good_name(const char *name, size_t n)
{
    static const char may[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (!n || n > STATE_NAME_MAX || name[0] == '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!memchr(may, name[i], sizeof may - 1))
            return false;
    return true;
}

static void path_of(const struct states *s, const char *name, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/%s" SUFFIX, s->conf->state_dir, name);
}

/* What a client is told: the name in place of the path. */
static enum deq_rc by_name(struct deq_err *err, const char *path, const char *name)
{
    char rest[sizeof err->text];
    const size_t n = strlen(path);
    const bool told = !strncmp(err->text, path, n);
    snprintf(rest, sizeof rest, "%s", err->text + (told ? n : 0));
    return deq_fail(err, err->code, "%s%s", told ? name : "", rest);
}

/* --- Directories --- */

/* There, one's own to write in, and without what a crash has left. */
static void look_after(const char *dir, const char *option)
{
    struct deq_err err = {0};
    if (!*dir)
        return;
    enum deq_rc rc = deq_io_mkdir(dir, &err);
    if (!rc && access(dir, W_OK | X_OK))
        rc = deq_fail(&err, DEQ_EIO, "%s: cannot write there: %s", dir, strerror(errno));
    if (rc)
        log_line(LOG_WARN, "nothing can be kept in a directory", log_text("option", option),
                 log_text("reason", err.text));
    const unsigned left = rc ? 0 : deq_io_sweep(dir);
    if (left)
        log_line(LOG_WARN, "removed unfinished files of an earlier run", log_text("option", option),
                 log_int("files", left));
}

/* One directory by whatever name; one that is not there yet is what its name says. */
static bool same_place(const char *a, const char *b)
{
    struct stat of_a, of_b;
    if (stat(a, &of_a) || stat(b, &of_b))
        return !strcmp(a, b);
    return of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

enum deq_rc states_check(const struct conf *c, struct deq_err *err)
{
    if (!c->state_dir[0] || !c->cache_dir[0] || !same_place(c->state_dir, c->cache_dir))
        return DEQ_OK;
    return deq_fail(err, DEQ_EINVAL,
                    "state.dir: %s is engine.cache_dir too: clients would read and delete the prefix cache as a state",
                    c->state_dir);
}

/* The name of a state's file; false: it is none's. */
static bool name_of(const char *file, char name[STATE_NAME_MAX + 1])
{
    const size_t n = strlen(file), end = sizeof SUFFIX - 1;
    if (n <= end || strcmp(file + n - end, SUFFIX) || !states_good_name(file, n - end))
        return false;
    snprintf(name, STATE_NAME_MAX + 1, "%.*s", (int)(n - end), file);
    return true;
}

/* Calls fn for every state there is. */
static enum deq_rc each(const struct states *s, void (*fn)(void *ctx, const struct state_entry *e), void *ctx,
                        struct deq_err *err)
{
    const int fd = DEQ_SYS(EMFILE, open(s->conf->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        const int e = errno;
        if (fd >= 0)
            close(fd);
        return deq_fail(err, DEQ_EIO, "the directory of states cannot be read: %s", strerror(e));
    }
    for (struct dirent *f; (f = readdir(d));) {
        struct state_entry e;
        struct stat st;
        if (!name_of(f->d_name, e.name) || fstatat(dirfd(d), f->d_name, &st, 0) || !S_ISREG(st.st_mode))
            continue;
        e.bytes = (uint64_t)st.st_size;
        e.written_s = (uint64_t)st.st_mtime;
        fn(ctx, &e);
    }
    closedir(d);
    return DEQ_OK;
}

struct others {
    const char *but;
    size_t n;
    uint64_t bytes;
};

static void add_other(void *ctx, const struct state_entry *e)
{
    struct others *o = ctx;
    if (!strcmp(e->name, o->but))
        return;
    o->n++;
    o->bytes += e->bytes;
}

enum deq_rc states_room(const struct states *s, const char *name, uint64_t bytes, struct deq_err *err)
{
    const struct conf *c = s->conf;
    struct others o = {.but = name};
    const enum deq_rc rc = each(s, add_other, &o, err);
    if (rc)
        return rc;
    if (o.n >= c->state_max)
        return deq_fail(err, DEQ_EFULL, "%zu states are kept, at most %u (state.max_states): delete one", o.n,
                        c->state_max);
    if (o.bytes + bytes > c->state_max_bytes)
        return deq_fail(err, DEQ_EFULL,
                        "states of %llu bytes are kept, this takes %llu, at most %llu (state.max_bytes): delete one",
                        (unsigned long long)o.bytes, (unsigned long long)bytes,
                        (unsigned long long)c->state_max_bytes);
    return DEQ_OK;
}

struct list {
    struct state_entry *e;
    size_t n, cap;
    bool failed;
};

static void add_to_list(void *ctx, const struct state_entry *e)
{
    struct list *l = ctx;
    if (l->n == l->cap) {
        const size_t cap = l->cap ? 2 * l->cap : 64;
        struct state_entry *more = deq_realloc(l->e, l->cap * sizeof *more, cap * sizeof *more);
        l->failed = l->failed || !more;
        if (!more)
            return;
        l->e = more;
        l->cap = cap;
    }
    l->e[l->n++] = *e;
}

static int by_entry(const void *a, const void *b)
{
    return strcmp(((const struct state_entry *)a)->name, ((const struct state_entry *)b)->name);
}

enum deq_rc states_list(const struct states *s, struct state_entry **ret, size_t *ret_n, struct deq_err *err)
{
    struct list l = {0};
    enum deq_rc rc = states_kept(s) ? each(s, add_to_list, &l, err) : DEQ_OK;
    if (!rc && l.failed)
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for the list of states");
    if (rc) {
        deq_free(l.e);
        return rc;
    }
    if (l.n)
        qsort(l.e, l.n, sizeof *l.e, by_entry);
    *ret = l.e;
    *ret_n = l.n;
    return DEQ_OK;
}

/* --- One state --- */

static enum deq_rc not_kept(struct deq_err *err, const char *name)
{
    return deq_fail(err, DEQ_ENOTFOUND, "%s: there is no such state", name);
}

/* Of a file that may be gone. */
static enum deq_rc told(struct deq_err *err, enum deq_rc rc, const char *path, const char *name)
{
    return rc == DEQ_ENOTFOUND ? not_kept(err, name) : rc ? by_name(err, path, name) : DEQ_OK;
}

enum deq_rc states_load(struct states *s, const struct deq_model *model, const char *name, uint64_t max_bytes,
                        struct deq_state **ret, struct deq_err *err)
{
    char path[PATH_BYTES];
    if (!states_kept(s) || !states_good_name(name, strlen(name)))
        return not_kept(err, name);
    path_of(s, name, path);
    const enum deq_rc rc = deq_state_load(model, path, max_bytes, ret, err);
    if (rc != DEQ_ENOTFOUND)
        atomic_fetch_add(&s->metrics->state_reads[rc == DEQ_OK], 1);
    return told(err, rc, path, name);
}

enum deq_rc states_read(const struct states *s, const char *name, uint64_t max_bytes, char **ret, size_t *ret_len,
                        struct deq_err *err)
{
    char path[PATH_BYTES];
    if (!states_kept(s) || !states_good_name(name, strlen(name)))
        return not_kept(err, name);
    path_of(s, name, path);
    return told(err, deq_io_read(path, (size_t)max_bytes, ret, ret_len, err), path, name);
}

enum deq_rc states_remove(const struct states *s, const char *name, struct deq_err *err)
{
    char path[PATH_BYTES];
    if (!states_kept(s) || !states_good_name(name, strlen(name)))
        return not_kept(err, name);
    path_of(s, name, path);
    if (!DEQ_SYS(EACCES, unlink(path)))
        return DEQ_OK;
    return errno == ENOENT ? not_kept(err, name)
                           : deq_fail(err, DEQ_EIO, "%s: cannot be removed: %s", name, strerror(errno));
}

/* --- The writer's thread --- */

/* Counts, and says that it failed once, until it works again. */
static void note_write(struct states *s, enum deq_rc rc, const struct deq_err *err)
{
    const bool failed = rc && rc != DEQ_EFULL;
    atomic_fetch_add(&s->metrics->state_writes[!rc], 1);
    if (failed && !s->told)
        log_line(LOG_ERROR, "states cannot be saved", log_text("reason", err->text));
    s->told = failed || (s->told && rc);
}

static void write_state(struct states *s, struct state_task *t)
{
    char path[PATH_BYTES];
    struct deq_err err = {0};
    struct stat st = {0};
    const uint64_t bytes = deq_state_bytes(t->model, deq_state_info(t->state).n_tokens);
    path_of(s, t->name, path);
    enum deq_rc rc = states_room(s, t->name, bytes, &err);
    if (!rc)
        rc = deq_state_save(t->model, t->state, path, &err);
    if (!rc)
        (void)stat(path, &st);
    note_write(s, rc, &err);
    if (rc)
        (void)by_name(&err, path, t->name);
    t->done(t, rc, (uint64_t)st.st_size, &err);
}

static void *writer(void *arg)
{
    struct states *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->first && !s->stop)
            pthread_cond_wait(&s->wake, &s->lock);
        struct state_task *t = s->first;
        if (!t)
            break;
        s->first = t->next;
        if (!s->first)
            s->last = &s->first;
        pthread_mutex_unlock(&s->lock);
        write_state(s, t);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void states_save(struct states *s, struct state_task *t)
{
    pthread_mutex_lock(&s->lock);
    t->next = NULL;
    *s->last = t;
    s->last = &t->next;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* --- Beginning and end --- */

enum deq_rc states_new(const struct conf *c, struct metrics *m, struct states **ret, struct deq_err *err)
{
    struct states *s = DEQ_NEW(struct states);
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory for states");
    s->conf = c;
    s->metrics = m;
    s->last = &s->first;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    look_after(c->cache_dir, "engine.cache_dir");
    look_after(c->state_dir, "state.dir");
    const enum deq_rc rc = states_check(c, err); /* now that they are there */
    if (rc) {
        states_free(s);
        return rc;
    }
    if (states_kept(s) && DEQ_THREAD(pthread_create(&s->thread, NULL, writer, s))) {
        states_free(s);
        return deq_fail(err, DEQ_EIO, "cannot start the thread that writes states");
    }
    s->started = states_kept(s);
    if (s->started)
        (void)pthread_setname_np(s->thread, "states");
    *ret = s;
    return DEQ_OK;
}

void states_free(struct states *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    if (s->started)
        pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    deq_free(s);
}
