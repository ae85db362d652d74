/* Loading, swapping and letting go of models, with real ones and without sockets. */
#include "server/work/store.h"

#include <sched.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/test.h"

enum { HANG_S = 120, OLD_MODELS = 4 };

static struct conf conf;
static struct metrics metrics;
static FILE *log_file; /* what goes to standard error meanwhile */
static int standard_error;

struct reload {
    sem_t done;
    enum deq_rc rc;
    char fingerprint[17], why[512];
};

static void on_done(void *ctx, enum deq_rc rc, const struct deq_err *err, const char *fingerprint)
{
    struct reload *r = ctx;
    r->rc = rc;
    snprintf(r->fingerprint, sizeof r->fingerprint, "%s", fingerprint);
    snprintf(r->why, sizeof r->why, "%s", rc ? err->text : "");
    sem_post(&r->done);
}

/* The limit is a guard against a test that hangs, and no bound on anything. */
static bool wait_for(sem_t *s)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HANG_S;
    return sem_timedwait(s, &until) == 0;
}

static struct store *begin(const char *path)
{
    struct store *s = NULL;
    struct deq_err err;
    CHECK(deq_opt_defaults(&conf_table, &conf, &err) == DEQ_OK);
    snprintf(conf.model_path, sizeof conf.model_path, "%s", path);
    conf.threads = 1;
    conf.max_sequences = 2;
    metrics_init(&metrics);
    log_file = tmpfile();
    standard_error = dup(STDERR_FILENO);
    CHECK(log_file && dup2(fileno(log_file), STDERR_FILENO) >= 0);
    CHECK(store_new(&conf, &metrics, &s, &err) == DEQ_OK);
    return s;
}

/* Frees the store; the log told of so many reloads that were done, and that failed. */
static void end(struct store *s, unsigned done, unsigned failed)
{
    char line[4096];
    store_free(s); /* waits for threads that free old models */
    dup2(standard_error, STDERR_FILENO);
    close(standard_error);
    rewind(log_file);
    while (fgets(line, sizeof line, log_file)) {
        done -= strstr(line, "\"message\":\"reloaded\"") != NULL;
        failed -= strstr(line, "\"message\":\"reload failed") != NULL;
    }
    CHECK_EQ(done, 0);
    CHECK_EQ(failed, 0);
    CHECK_EQ(metrics.engine.max_sequences, 0);
    fclose(log_file);
}

static enum deq_rc reload(struct store *s, struct reload *ret)
{
    sem_init(&ret->done, 0, 0);
    CHECK(store_reload(s, on_done, ret) && wait_for(&ret->done));
    return ret->rc;
}

TEST(store_loads_and_swaps)
{
    struct deq_err err;
    struct reload r;
    struct store *s = begin("tests/golden/tiny/");
    REQUIRE(s);
    CHECK(!store_acquire(s) && !store_reload(s, NULL, NULL)); /* nothing is loaded yet */
    CHECK(store_alive(s, 0) && store_pending(s) == 0);
    CHECK_MSG(store_load(s, &err) == DEQ_OK, "%s", err.text);
    struct served *before = store_acquire(s);
    REQUIRE(before);
    CHECK_EQ(before->name, "tiny");
    CHECK(reload(s, &r) == DEQ_OK);
    CHECK_EQ(r.fingerprint, before->info.fingerprint);
    struct served *after = store_acquire(s);
    CHECK(after && after != before);
    CHECK(sched_max_positions(before->sched) == sched_max_positions(after->sched)); /* it lives until it is let go */
    CHECK_EQ(metrics.reloads[1], 1);
    CHECK_EQ(metrics.engine.max_sequences, 2 * 2);
    store_release(before);
    store_release(after);
    end(s, 1, 0);
}

TEST(store_keeps_what_serves_when_a_reload_fails)
{
    struct deq_err err;
    struct reload r;
    struct store *s = begin("tests/golden/tiny");
    REQUIRE(s && store_load(s, &err) == DEQ_OK);
    struct served *before = store_acquire(s);
    snprintf(conf.model_path, sizeof conf.model_path, "tests/golden/there-is-none");
    CHECK(reload(s, &r) != DEQ_OK);
    CHECK_MSG(strstr(r.why, "there-is-none"), "%s", r.why);
    CHECK_EQ(r.fingerprint, "");
    struct served *after = store_acquire(s);
    CHECK(after == before);
    CHECK_EQ(metrics.reloads[0], 1);
    CHECK_EQ(metrics.engine.max_sequences, 2);
    store_release(before);
    store_release(after);
    end(s, 0, 1);
}

/* Each model that was swapped out while it has work takes a place; beyond them nothing is reloaded. */
TEST(store_holds_so_many_old_models)
{
    struct deq_err err;
    struct reload r;
    struct served *old[OLD_MODELS];
    struct store *s = begin("tests/golden/tiny");
    REQUIRE(s && store_load(s, &err) == DEQ_OK);
    for (size_t i = 0; i < OLD_MODELS; i++) {
        old[i] = store_acquire(s);
        CHECK(reload(s, &r) == DEQ_OK);
    }
    CHECK(!store_reload(s, on_done, &r));
    store_release(old[2]);
    sem_init(&r.done, 0, 0);
    while (!store_reload(s, on_done, &r)) /* its thread frees it some time after */
        sched_yield();
    CHECK(wait_for(&r.done) && r.rc == DEQ_OK);
    for (size_t i = 0; i < OLD_MODELS; i++)
        if (i != 2)
            store_release(old[i]);
    store_drain(s);
    CHECK(!store_reload(s, on_done, &r));
    end(s, OLD_MODELS + 1, 0);
    CHECK_EQ(metrics.reloads[1], OLD_MODELS + 1);
}

TEST(store_checks_names)
{
    static const char *const good[] = {"a", "org/model", "A-1_b.c/d.e/f", "tiny.v2"};
    static const char *const bad[] = {".tiny", "a b", "a//b", "/a", "a/", "a/.b", "..", "\xc3\xa4", "a:b"};
    struct deq_err err;
    end(begin("tests/golden/tiny"), 0, 0);
    for (size_t i = 0; i < DEQ_COUNT(good); i++) {
        snprintf(conf.model_name, sizeof conf.model_name, "%s", good[i]);
        CHECK_MSG(store_check(&conf, &err) == DEQ_OK, "%s: %s", good[i], err.text);
    }
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        snprintf(conf.model_name, sizeof conf.model_name, "%s", bad[i]);
        CHECK_MSG(store_check(&conf, &err) == DEQ_EINVAL && !strncmp(err.text, "model.name", 10), "%s", bad[i]);
    }
    conf.model_name[0] = 0;
    snprintf(conf.model_path, sizeof conf.model_path, "tests/golden/not a name");
    CHECK(store_check(&conf, &err) == DEQ_EINVAL && !strncmp(err.text, "model.path", 10));
}
