/* core/engine/prefix_copy.c: a prefix cache is saved while its engine goes on; what went meanwhile is left out, and the
 * rest gives the bits that it gave. How it is read again: test_prefix_file.c. */
#include <pthread.h>
#include <stdatomic.h>

#include "core/engine/engine_impl.h"
#include "core/engine/saved.h"
#include "tests/unit/answers.h"
#include "tests/unit/scratch.h"

struct saving {
    const struct deq_model *model;
    struct deq_prefix_copy *copy;
    const char *path;
    _Atomic bool done;
    enum deq_rc rc;
};

static void *save(void *arg)
{
    struct saving *s = arg;
    s->rc = deq_prefix_copy_save(s->model, s->copy, s->path, NULL);
    atomic_store(&s->done, true);
    return NULL;
}

/* Other texts of the same length, which take the place of what is being copied. */
static struct answer solve_other(struct deq_engine *e, struct deq_request q, uint64_t i)
{
    char salt[8];
    q.cache_salt_len = (size_t)snprintf(salt, sizeof salt, "%u", (unsigned)i);
    q.cache_salt = salt;
    return ask(e, &q, NULL);
}

TEST_EACH_KIND(prefix_copied_while_the_engine_goes_on)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_admission a;
    size_t blocks = 0;
    struct deq_engine *e = tiny_engine(m, 1, 2), *after = tiny_engine(m, 1, 2), *fresh = tiny_engine(m, 1, 1);
    struct deq_request q = tiny_request(m, &p, 4, &x);
    pthread_t thread;
    REQUIRE(e && after && fresh && scratch_begin());
    const struct answer alone = ask(fresh, &q, NULL);
    (void)solve_other(e, q, 0);
    (void)ask(e, &q, NULL);
    const uint32_t there = deq_engine_stats(e).prefix_entries;
    struct saving s = {.model = m, .path = scratch_path("prefix")};
    REQUIRE(!deq_prefix_copy_new(e, &s.copy, NULL) && s.copy);
    REQUIRE(!pthread_create(&thread, NULL, save, &s));
    for (uint64_t i = 1; !atomic_load(&s.done); i++) {
        deq_prefix_copy_more(s.copy, e);
        (void)solve_other(e, q, i % 4);
    }
    pthread_join(thread, NULL);
    deq_prefix_copy_free(s.copy);
    CHECK(s.rc == DEQ_OK && !deq_prefix_restore(m, after, s.path, &blocks, NULL));
    CHECK(blocks <= there && deq_engine_stats(after).prefix_entries == blocks);
    const struct answer hit = ask(after, &q, &a);
    CHECK_MSG(same_answer(&alone, &hit), "behind %zu cached tokens", a.cached_tokens);
    deq_engine_free(e);
    deq_engine_free(after);
    deq_engine_free(fresh);
    scratch_end("prefix", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Between the beginning and the slice some entries go: they are none in the file, and need no pages. */
TEST_EACH_KIND(prefix_copy_leaves_out_what_went)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_admission a;
    struct deq_engine *e = tiny_engine(m, 1, 2), *fresh = tiny_engine(m, 1, 1);
    struct deq_request q = tiny_request(m, &p, 4, &x);
    struct deq_prefix_copy *c;
    REQUIRE(e && fresh && scratch_begin());
    const struct answer alone = ask(fresh, &q, NULL);
    (void)solve_other(e, q, 0); /* the older ones */
    (void)ask(e, &q, NULL);
    const uint32_t there = deq_engine_stats(e).prefix_entries;
    for (uint32_t gone = 0; gone <= there; gone += there / 2) {
        struct deq_engine *after = tiny_engine(m, 1, 2);
        size_t blocks = 99;
        REQUIRE(after && !deq_prefix_copy_at_rest(e, &c, NULL));
        while (deq_engine_stats(e).prefix_entries > there - gone)
            CHECK(deq_prefix_evict(&e->prefix));
        CHECK(!deq_prefix_copy_save(m, c, scratch_path("prefix"), NULL));
        deq_prefix_copy_free(c);
        CHECK(!deq_prefix_restore(m, after, scratch_path("prefix"), &blocks, NULL));
        const struct deq_engine_stats was = deq_engine_stats(e), is = deq_engine_stats(after);
        CHECK_EQ(blocks, there - gone);
        CHECK(is.prefix_entries == blocks && is.prefix_bytes == was.prefix_bytes && is.pages_used == 0);
        const struct answer hit = ask(after, &q, &a);
        CHECK(same_answer(&alone, &hit) && (a.cached_tokens > 0) == (blocks > 0));
        deq_engine_free(after);
    }
    deq_engine_free(e);
    deq_engine_free(fresh);
    scratch_end("prefix", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST(prefix_copy_of_what_has_come)
{
    struct deq_model *m = tiny_model();
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 2);
    struct deq_request q = tiny_request(m, &p, 1, &x);
    struct deq_prefix_copy *c;
    REQUIRE(e && scratch_begin());
    CHECK(!deq_prefix_copy_new(e, &c, NULL) && !c); /* nothing yet */
    (void)ask(e, &q, NULL);
    CHECK(!deq_prefix_copy_new(e, &c, NULL) && c);
    deq_prefix_copy_end(c); /* before anything was copied */
    scratch_put("prefix", "as it was");
    CHECK(deq_prefix_copy_save(m, c, scratch_path("prefix"), NULL) == DEQ_ECANCELED);
    CHECK(scratch_is("prefix", "as it was"));
    deq_prefix_copy_free(c);
    (void)ask(e, &q, NULL);
    CHECK(!deq_prefix_copy_new(e, &c, NULL) && !c); /* the same again */
    (void)solve_other(e, q, 1);
    CHECK(!deq_prefix_copy_new(e, &c, NULL) && c);
    deq_prefix_copy_free(c);
    deq_engine_free(e);
    scratch_end("prefix", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}
