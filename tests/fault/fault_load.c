/* Loading a model and opening its engine while memory, files and threads fail: refused with the reason, or as good as
 * ever; and what an engine left on disk of its prefix cache stays what it was, or is the new one. */
#include <stdlib.h>

#include "core/deq.h"
#include "tests/fault/walk.h"
#include "tests/unit/answers.h"
#include "tests/unit/scratch.h"

static struct answer good;
static struct deq_tokens prompt;

static bool solves_as_ever(const struct deq_model *m, struct deq_engine *e)
{
    struct answer x = {0};
    struct deq_request q = tiny_request(m, &prompt, 8, &x);
    const struct answer got = ask(e, &q, NULL);
    return same_answer(&got, &good);
}

static bool load(void *dir)
{
    struct deq_model *m = NULL;
    struct deq_engine *e = NULL;
    struct deq_err err = {0};
    walk_arm();
    enum deq_rc rc = deq_model_load(dir, &(enum deq_class){DEQ_CLASS_FLOAT32}, &m, &err);
    if (!rc)
        rc = deq_engine_new(m, &(struct deq_engine_opts){.threads = 3, .max_sequences = 2, .prefill_block = 32}, &e,
                            &err);
    walk_disarm();
    CHECK_MSG(rc ? walk_expects(rc) && err.code == rc && err.text[0] : solves_as_ever(m, e), "%s: %d %s",
              (const char *)dir, rc, err.text);
    deq_engine_free(e);
    deq_model_free(m);
    return !rc;
}

TEST(fault_load)
{
    static const char *const dirs[] = {TINY, TINY_TRELLIS, TINY_LOOPED};
    for (size_t i = 0; i < DEQ_COUNT(dirs); i++) {
        char dir[64], what[80];
        struct deq_model *m = model_in(dirs[i], DEQ_CLASS_FLOAT32);
        REQUIRE(m);
        prompt = encode_text(m, "What shall I say");
        struct deq_engine *e = tiny_engine(m, 1, 1);
        struct answer x = {0};
        struct deq_request q = tiny_request(m, &prompt, 8, &x);
        good = ask(e, &q, NULL);
        deq_engine_free(e);
        deq_model_free(m);
        snprintf(dir, sizeof dir, "%s", dirs[i]);
        snprintf(what, sizeof what, "load %s", strrchr(dirs[i], '/') + 1);
        walk(what, WALK_ALLOC | WALK_FILES | WALK_THREAD, load, dir);
        deq_tokens_free(&prompt);
    }
}

/* --- The prefix cache on disk --- */

struct caches {
    struct deq_model *m;
    struct deq_engine *less, *more; /* of one text and of two */
    size_t n_less, n_more;          /* their blocks */
    const char *path;
};

static struct deq_engine *engine_of(const struct deq_model *m)
{
    struct deq_engine *e = NULL;
    const struct deq_engine_opts o = {.threads = 1, .max_sequences = 2, .max_positions = 300, .prefill_block = 32};
    CHECK(!deq_engine_new(m, &o, &e, NULL));
    return e;
}

static bool save_cache(void *ctx)
{
    const struct caches *c = ctx;
    struct deq_err err = {0};
    size_t blocks = 0;
    CHECK(!deq_prefix_save(c->m, c->less, c->path, NULL));
    walk_arm();
    const enum deq_rc rc = deq_prefix_save(c->m, c->more, c->path, &err);
    walk_disarm();
    CHECK_MSG(!rc || walk_expects(rc), "%d %s", rc, err.text);
    struct deq_engine *e = engine_of(c->m);
    CHECK_MSG(!deq_prefix_restore(c->m, e, c->path, &blocks, &err), "%s", err.text);
    CHECK(blocks == c->n_more || (rc && blocks == c->n_less));
    CHECK(solves_as_ever(c->m, e));
    deq_engine_free(e);
    return !rc;
}

static bool restore_cache(void *ctx)
{
    const struct caches *c = ctx;
    struct deq_err err = {0};
    size_t blocks = 0;
    struct deq_engine *e = engine_of(c->m);
    walk_arm();
    const enum deq_rc rc = deq_prefix_restore(c->m, e, c->path, &blocks, &err);
    walk_disarm();
    CHECK_MSG(rc ? walk_expects(rc) : blocks == c->n_more, "%d %s", rc, err.text);
    CHECK(solves_as_ever(c->m, e));
    CHECK(deq_engine_stats(e).pages_used == 0);
    deq_engine_free(e);
    return !rc;
}

TEST(fault_prefix_cache)
{
    REQUIRE(scratch_begin());
    struct caches c = {.m = tiny_model(), .path = scratch_path("prefix")};
    REQUIRE(c.m);
    struct answer x = {0};
    prompt = encode_text(c.m, LONG_TEXT);
    c.less = engine_of(c.m);
    c.more = engine_of(c.m);
    struct deq_request q = tiny_request(c.m, &prompt, 8, &x);
    good = ask(c.more, &q, NULL);
    q.n_prompt = 50;
    (void)ask(c.less, &q, NULL);
    c.n_less = deq_engine_stats(c.less).prefix_entries;
    c.n_more = deq_engine_stats(c.more).prefix_entries;
    CHECK(c.n_less && c.n_less < c.n_more);
    walk("save prefix cache", WALK_ALLOC | WALK_FILES, save_cache, &c);
    CHECK(!deq_prefix_save(c.m, c.more, c.path, NULL));
    walk("restore prefix cache", WALK_ALLOC | WALK_FILES, restore_cache, &c);
    deq_engine_free(c.less);
    deq_engine_free(c.more);
    deq_tokens_free(&prompt);
    deq_model_free(c.m);
    scratch_end("prefix", NULL);
}
