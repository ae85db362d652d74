/* core/engine/prefix_file.c: a prefix cache that was saved and restored gives the hits, and the bits, that it gave
 * before; what is damaged, foreign or too large leaves an engine as it is. */
#include "core/engine/saved.h"

#include <stdlib.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/engine/engine_impl.h"
#include "tests/unit/answers.h"
#include "tests/unit/scratch.h"

static struct deq_engine *engine_with(const struct deq_model *m, uint32_t block, uint64_t cache_bytes)
{
    struct deq_engine *e = NULL;
    struct deq_err err;
    const struct deq_engine_opts opts = {.threads = 1, .max_sequences = 2, .max_positions = 500, .max_rows = 64,
                                         .prefill_block = block, .cache_bytes = cache_bytes};
    CHECK_MSG(!deq_engine_new(m, &opts, &e, &err), "%s", err.text);
    return e;
}

/* Three texts that share blocks, one of them by generation, one with a salt. */
static void solve_some(struct deq_engine *e, struct deq_request q)
{
    (void)ask(e, &q, NULL);
    q.n_prompt = 70;
    (void)ask(e, &q, NULL);
    q.cache_salt = "mine";
    q.cache_salt_len = 4;
    (void)ask(e, &q, NULL);
}

TEST_EACH_KIND(prefix_survives_a_restart)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_err err = {0};
    size_t blocks = 0;
    struct deq_engine *before = tiny_engine(m, 1, 2), *after = tiny_engine(m, 2, 3), *fresh = tiny_engine(m, 1, 1);
    struct deq_request q = tiny_request(m, &p, 40, &x);
    REQUIRE(before && after && fresh && scratch_begin());
    solve_some(before, q);
    const char *path = scratch_path("prefix");
    CHECK_MSG(!deq_prefix_save(m, before, path, &err), "%s", err.text);
    CHECK_MSG(!deq_prefix_restore(m, after, path, &blocks, &err), "%s", err.text);
    const struct deq_engine_stats was = deq_engine_stats(before), is = deq_engine_stats(after);
    CHECK(blocks > 3 && blocks == was.prefix_entries && is.prefix_entries == blocks &&
          is.prefix_bytes == was.prefix_bytes && is.prefix_evictions == 0 && is.pages_used == 0);
    /* what was saved once more is the same file, but for nothing */
    char *a, *b;
    size_t n_a, n_b;
    REQUIRE(!deq_prefix_save(m, after, scratch_path("again"), NULL) && !deq_io_read(path, 1 << 26, &a, &n_a, NULL) &&
            !deq_io_read(scratch_path("again"), 1 << 26, &b, &n_b, NULL));
    CHECK(n_a == n_b && !memcmp(a, b, n_a));
    deq_free(a);
    deq_free(b);

    struct deq_request asked[4] = {q, q, q, q};
    asked[1].n_prompt = 70;
    asked[2].n_prompt = 70;
    asked[2].cache_salt = "mine";
    asked[2].cache_salt_len = 4;
    asked[3].n_prompt = 70;
    asked[3].cache_salt = "not mine";
    asked[3].cache_salt_len = 8;
    for (size_t i = 0; i < DEQ_COUNT(asked); i++) {
        struct deq_admission hit, hit_before;
        const struct answer alone = ask(fresh, &asked[i], NULL), there = ask(before, &asked[i], &hit_before),
                            here = ask(after, &asked[i], &hit);
        CHECK_MSG(same_answer(&alone, &here) && same_answer(&there, &here), "text %zu", i);
        CHECK_EQ(hit.cached_tokens, hit_before.cached_tokens);
        CHECK_EQ(hit.cached_tokens, i == 3 ? 0 : (asked[i].n_prompt - 1) / 32 * 32);
    }
    deq_engine_free(before);
    deq_engine_free(after);
    deq_engine_free(fresh);
    scratch_end("prefix", "again", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* All of a restored cache can be let go of: every page is somebody's. */
TEST_EACH_KIND(prefix_restored_gives_way)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    size_t blocks = 0;
    struct deq_engine *before = tiny_engine(m, 1, 2), *after = tiny_engine(m, 1, 2);
    struct deq_request q = tiny_request(m, &p, 380, &x);
    REQUIRE(before && after && scratch_begin());
    solve_some(before, q);
    CHECK(!deq_prefix_save(m, before, scratch_path("prefix"), NULL) &&
          !deq_prefix_restore(m, after, scratch_path("prefix"), &blocks, NULL));
    q.cache_salt = "x";
    q.cache_salt_len = 1;
    for (uint64_t i = 0; i < 12; i++) {
        q.sampling = (struct deq_sampling){.temperature = 1.2f, .top_p = 1, .seed = i};
        (void)ask(after, &q, NULL);
    }
    const struct deq_engine_stats s = deq_engine_stats(after);
    CHECK(s.pages_used == 0 && s.pages_reserved == 0 && s.prefix_evictions > 0);
    deq_engine_free(before);
    deq_engine_free(after);
    scratch_end("prefix", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}

static void check_refused(const struct deq_model *m, struct deq_engine *e, const char *path, const char *message)
{
    struct deq_err err = {0};
    size_t blocks = 77;
    CHECK(deq_prefix_restore(m, e, path, &blocks, &err) < 0 && blocks == 77);
    CHECK_MSG(strstr(err.text, message) != NULL, "\"%s\" lacks \"%s\"", err.text, message);
    const struct deq_engine_stats s = deq_engine_stats(e);
    CHECK(s.prefix_entries == 0 && s.prefix_bytes == 0 && s.pages_used == 0);
}

TEST(prefix_of_something_else_is_refused)
{
    struct deq_model *m = tiny_model(), *ints = model_in(TINY, DEQ_CLASS_INT16);
    REQUIRE(m && ints && scratch_begin());
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_request q = tiny_request(m, &p, 40, &x);
    const uint64_t per_token = deq_model_info(m).cache_bytes_per_token;
    struct deq_engine *e = engine_with(m, 32, 0), *other = engine_with(m, 32, 0), *blocks = engine_with(m, 64, 0),
                      *small = engine_with(m, 32, per_token * 16 * 12), *of_ints = engine_with(ints, 32, 0);
    REQUIRE(e && other && blocks && of_ints);
    solve_some(e, q);
    const char *path = scratch_path("prefix");
    CHECK(!deq_prefix_save(m, e, path, NULL));
    check_refused(ints, of_ints, path, "of another numeric class");
    check_refused(m, blocks, path, "of another configuration");
    if (small)
        check_refused(m, small, path, "of a larger cache");
    check_refused(m, other, scratch_path("none"), "cannot open");
    struct deq_err err = {0};
    size_t n;
    CHECK(deq_prefix_restore(m, e, path, &n, &err) == DEQ_EINVAL && strstr(err.text, "has solved nothing yet"));
    CHECK(deq_prefix_save(m, e, "/dev/full", &err) == DEQ_EIO && strstr(err.text, "No space left"));
    /* a state is no cache */
    struct deq_state *s = NULL;
    CHECK(!deq_state_new(m, p.n, &s, NULL));
    q.max_tokens = 0;
    q.want_logits = false;
    q.keep = s;
    (void)ask(e, &q, NULL);
    CHECK(!deq_state_save(m, s, path, NULL));
    check_refused(m, other, path, "of another kind of file");
    deq_state_free(s);
    deq_engine_free(e);
    deq_engine_free(other);
    deq_engine_free(blocks);
    deq_engine_free(small);
    deq_engine_free(of_ints);
    scratch_end("prefix", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
    deq_model_free(ints);
}

/* One bit of any kind of bytes, and cuts; then the whole file is taken by the same engine. */
TEST_EACH_KIND(prefix_damage_is_found)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_request q = tiny_request(m, &p, 2, &x);
    struct deq_engine *e = tiny_engine(m, 1, 1), *after = tiny_engine(m, 1, 1);
    char *bytes = NULL;
    size_t n = 0, blocks = 0, missed = 0;
    REQUIRE(e && after && scratch_begin());
    q.n_prompt = 70;
    (void)ask(e, &q, NULL);
    const char *path = scratch_path("prefix");
    REQUIRE(!deq_prefix_save(m, e, path, NULL) && !deq_io_read(path, 1 << 26, &bytes, &n, NULL));
    for (size_t i = 0; i < n; i += i < 1200 ? 31 : DEQ_MAX(n / 40, (size_t)1)) {
        const struct deq_part parts[] = {{bytes, i}, {(char[]){(char)(bytes[i] ^ 4)}, 1}, {bytes + i + 1, n - i - 1}};
        CHECK(!deq_io_replace(path, parts, DEQ_COUNT(parts), NULL));
        missed += deq_prefix_restore(m, after, path, &blocks, NULL) != DEQ_EFORMAT;
        CHECK(!deq_io_replace(path, parts, 1, NULL));
        missed += deq_prefix_restore(m, after, path, &blocks, NULL) != DEQ_EFORMAT;
    }
    CHECK_EQ(missed, 0);
    CHECK(!deq_io_replace(path, &(struct deq_part){bytes, n}, 1, NULL) &&
          !deq_prefix_restore(m, after, path, &blocks, NULL) && blocks == deq_engine_stats(e).prefix_entries);
    deq_free(bytes);
    deq_engine_free(e);
    deq_engine_free(after);
    scratch_end("prefix", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A file whose checksum is right and whose blocks are not: each says that it stands where another does, or has other
 * pages than it has. Nobody begins behind them, and what they hold can be let go of. */
TEST_EACH_KIND(prefix_blocks_elsewhere_are_none)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    size_t blocks = 0;
    struct deq_engine *from = tiny_engine(m, 1, 1), *fresh = tiny_engine(m, 1, 1);
    struct deq_request q = tiny_request(m, &p, 20, &x);
    REQUIRE(from && fresh && scratch_begin());
    q.n_prompt = 100;
    (void)ask(from, &q, NULL);
    const struct answer alone = ask(fresh, &q, NULL);
    struct deq_prefix *c = &from->prefix;
    for (int fewer = 0; fewer < 2; fewer++) {
        for (uint32_t i = c->newest; i != UINT32_MAX; i = c->entries[i].next) {
            c->entries[i].first_page += 3;
            c->entries[i].n_pages -= fewer && c->entries[i].n_pages > 1;
        }
        struct deq_engine *after = tiny_engine(m, 1, 1);
        struct deq_admission hit = {0};
        REQUIRE(after && !deq_prefix_save(m, from, scratch_path("prefix"), NULL) &&
                !deq_prefix_restore(m, after, scratch_path("prefix"), &blocks, NULL));
        const struct answer here = ask(after, &q, &hit);
        CHECK_MSG(same_answer(&alone, &here) && hit.cached_tokens == 0, "%zu cached", hit.cached_tokens);
        deq_engine_free(after);
    }
    deq_engine_free(from);
    deq_engine_free(fresh);
    scratch_end("prefix", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}
