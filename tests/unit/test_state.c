/* core/engine/state.c, and the format it shares with prefix_file.c: a text goes on behind its state with the bits that
 * it would have had, in any engine and through a file; what is damaged, foreign or too large is refused. */
#define _GNU_SOURCE
#include "core/engine/saved.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/cell/toy.h"
#include "tests/unit/answers.h"
#include "tests/unit/scratch.h"

enum { TOKENS = 40, MORE = 30 }; /* of a prompt that ends within a page and within a block; of an answer */

/* The state of the first n tokens of p, by an engine of its own. */
static struct deq_state *state_of(const struct deq_model *m, const struct deq_request *as, size_t n)
{
    struct deq_state *s = NULL;
    struct deq_engine *e = tiny_engine(m, 1, 1);
    struct deq_request q = *as;
    q.n_prompt = n;
    q.max_tokens = 0;
    q.want_logits = false;
    CHECK(e && !deq_state_new(m, n, &s, NULL) && !deq_state_info(s).filled);
    q.keep = s;
    (void)ask(e, &q, NULL);
    CHECK(deq_state_info(s).filled && deq_state_info(s).n_tokens == n &&
          !memcmp(deq_state_info(s).tokens, q.prompt, n * sizeof *q.prompt));
    deq_engine_free(e);
    return s;
}

/* Through a file and back. */
static struct deq_state *again(const struct deq_model *m, struct deq_state *s)
{
    struct deq_err err = {0};
    struct deq_state *read = NULL;
    CHECK_MSG(!deq_state_save(m, s, scratch_path("s"), &err), "%s", err.text);
    CHECK_MSG(!deq_state_load(m, scratch_path("s"), deq_state_bytes(m, deq_state_info(s).n_tokens), &read, &err), "%s",
              err.text);
    deq_state_free(s);
    return read;
}

/* Tokens, and logits at them, to the bit; from the first on that both had to solve. */
static bool same_text(const struct answer *a, const struct answer *b)
{
    return a->n == b->n && !memcmp(a->token, b->token, a->n * sizeof *a->token) &&
           !memcmp(a->logprob, b->logprob, a->n * sizeof *a->logprob) &&
           !memcmp(a->evaluations + 1, b->evaluations + 1, (a->n - 1) * sizeof *a->evaluations) &&
           !memcmp(a->residual + 1, b->residual + 1, (a->n - 1) * sizeof *a->residual) &&
           a->prompt_residual_max == b->prompt_residual_max && a->prompt_converged == b->prompt_converged;
}

/* With no further prompt, at the model's window, sampled: the answer is that of the text that was never interrupted.
 * Its first token comes of the state as it is. */
TEST_EACH_KIND(state_goes_on_to_the_bit)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    REQUIRE(scratch_begin());
    struct deq_engine *fresh = tiny_engine(m, 1, 1), *other = tiny_engine(m, 2, 3);
    struct deq_request q = tiny_request(m, &p, MORE, &x);
    q.sampling = (struct deq_sampling){.temperature = 0.9f, .top_p = 1, .seed = 3};
    for (size_t n = TOKENS; n <= 66; n += 13) { /* within a page, and behind attention's reach */
        q.n_prompt = n;
        const struct answer whole = ask(fresh, &q, NULL);
        struct deq_state *s = again(m, state_of(m, &q, n));
        struct deq_request behind = q;
        struct deq_admission a;
        behind.state = s;
        behind.prompt = NULL;
        behind.n_prompt = 0;
        (void)ask(other, &q, NULL); /* pages and cache are in use there */
        const struct answer on = ask(other, &behind, &a), twice = ask(other, &behind, NULL);
        CHECK(a.cached_tokens == n && on.evaluations[0] == 0 && isnan(on.residual[0]));
        CHECK_MSG(same_text(&whole, &on) && same_text(&whole, &twice), "behind %zu tokens", n);
        CHECK_EQ(deq_engine_stats(other).pages_used, 0);
        deq_state_free(s);
    }
    deq_engine_free(fresh);
    deq_engine_free(other);
    scratch_end("s", NULL);
    deq_tokens_free(&p);
    deq_model_free(m);
}
TEST_IN_INTEGERS(state_goes_on_to_the_bit)

/* With window 1 nothing says where a prompt was cut: the state of its beginning and the rest are the whole, however
 * often it is cut; by every way to begin and to stop. */
TEST_EACH_KIND(state_and_what_follows_are_the_whole_prompt)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 1, 2);
    struct deq_request q = tiny_request(m, &p, MORE, &x);
    const struct deq_model_info info = deq_model_info(m);
    REQUIRE(e);
    q.solve.window = 1;
    q.solve.prefill_window = 0;
    q.n_prompt = 2 * TOKENS;
    q.cache = DEQ_CACHE_OFF;
    for (int warm = 0; warm < DEQ_WARM_COUNT; warm++)
        for (int stop = 0; stop < DEQ_STOP_RULES; stop++) {
            if ((warm == DEQ_WARM_PREDICTOR && !info.has_predictor) ||
                (warm == DEQ_WARM_PROPOSAL && !info.has_proposal))
                continue;
            q.solve.warm_start = (enum deq_warm)warm;
            q.solve.stop = (enum deq_stop_rule)stop;
            q.solve.tol = stop == DEQ_STOP_AT_RESIDUAL ? 1e-2f : deq_stop_rule_tol(q.solve.stop);
            const struct answer whole = ask(e, &q, NULL);
            struct deq_state *first = state_of(m, &q, TOKENS), *second = NULL;
            struct deq_request rest = q;
            rest.state = first;
            rest.prompt += TOKENS;
            rest.n_prompt = TOKENS / 2;
            rest.max_tokens = 0;
            CHECK(!deq_state_new(m, TOKENS + TOKENS / 2, &second, NULL));
            rest.keep = second;
            (void)ask(e, &rest, NULL);
            rest.keep = NULL;
            rest.state = second;
            rest.prompt += TOKENS / 2;
            rest.max_tokens = MORE;
            const struct answer cut = ask(e, &rest, NULL);
            CHECK_MSG(same_text(&whole, &cut) && cut.evaluations[0] == whole.evaluations[0], "start %s, stop %s",
                      deq_warm_name(q.solve.warm_start), deq_stop_rule_name(q.solve.stop));
            deq_state_free(first);
            deq_state_free(second);
        }
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* Several choices behind one state are those behind one prompt. */
TEST_EACH_KIND(state_has_choices)
{
    enum { N = 3 };
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_engine *e = tiny_engine(m, 2, N);
    struct deq_request q = tiny_request(m, &p, MORE, &x);
    struct choices whole = {0}, on = {0};
    REQUIRE(e);
    q.n_prompt = TOKENS;
    struct deq_state *s = state_of(m, &q, TOKENS);
    q.sampling = (struct deq_sampling){.temperature = 1, .top_p = 1, .seed = 5, .repetition_penalty = 1.3f};
    q.n = N;
    q.event = record_choice;
    for (int i = 0; i < N; i++)
        whole.a[i].vocab = on.a[i].vocab = x.vocab;
    q.ctx = &whole;
    CHECK(!deq_submit(e, &q, NULL, NULL));
    run_all(e);
    q.ctx = &on;
    q.state = s;
    q.n_prompt = 0;
    CHECK(!deq_submit(e, &q, NULL, NULL));
    run_all(e);
    for (int i = 0; i < N; i++)
        CHECK_MSG(whole.a[i].n == MORE && same_text(&whole.a[i], &on.a[i]), "choice %d", i);
    CHECK(memcmp(on.a[0].token, on.a[1].token, sizeof on.a[0].token) != 0);
    deq_state_free(s);
    deq_engine_free(e);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A state is a function of its text: what others left in the pages before is not in it. */
TEST_EACH_KIND(state_has_nothing_of_others)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_engine *used = tiny_engine(m, 1, 1);
    struct deq_request q = tiny_request(m, &p, MORE, &x);
    struct deq_state *other = NULL;
    struct deq_buf a, b;
    deq_buf_init(&a, 1 << 24);
    deq_buf_init(&b, 1 << 24);
    REQUIRE(used);
    q.prompt += 30;
    q.n_prompt = TOKENS + 3;
    (void)ask(used, &q, NULL);
    q.prompt -= 30;
    q.n_prompt = TOKENS;
    q.max_tokens = 0;
    struct deq_state *s = state_of(m, &q, TOKENS);
    CHECK(!deq_state_new(m, TOKENS, &other, NULL));
    q.keep = other;
    (void)ask(used, &q, NULL);
    CHECK(!deq_state_print(m, s, &a, NULL) && !deq_state_print(m, other, &b, NULL));
    CHECK(a.len == b.len && a.len <= deq_state_bytes(m, TOKENS) && !memcmp(a.data, b.data, a.len));
    deq_buf_free(&a);
    deq_buf_free(&b);
    deq_state_free(s);
    deq_state_free(other);
    deq_engine_free(used);
    deq_tokens_free(&p);
    deq_model_free(m);
}

static bool refused(const struct deq_model *m, const struct deq_buf *b, size_t n)
{
    struct deq_state *s = NULL;
    struct deq_err err = {0};
    const bool ok = deq_state_parse(m, b->data, n, "s", &s, &err) == DEQ_EFORMAT && !strncmp(err.text, "s: ", 3);
    deq_state_free(s);
    return ok;
}

/* One bit anywhere: of the length, the header, every kind of tensor, the checksum; and any cut. */
TEST_EACH_KIND(state_damage_is_found)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_request q = tiny_request(m, &p, 0, &x);
    struct deq_state *s = state_of(m, &q, 20), *back = NULL;
    struct deq_buf b;
    deq_buf_init(&b, 1 << 24);
    REQUIRE(!deq_state_print(m, s, &b, NULL));
    REQUIRE(!deq_state_parse(m, b.data, b.len, "s", &back, NULL));
    deq_state_free(back);
    const size_t head = 8 + (unsigned char)b.data[0] + 256 * (size_t)(unsigned char)b.data[1];
    size_t missed = 0, tried = 0;
    /* all of the header, tokens and checksum, and of numbers one in 97 bytes, a prime: every place in a number */
    for (size_t i = 0, end = b.len - 17; i < b.len; i += i < head + 20 * 4 || i >= end ? 1 : DEQ_MIN(97, end - i)) {
        b.data[i] = (char)(b.data[i] ^ 1 << i % 8);
        missed += !refused(m, &b, b.len);
        b.data[i] = (char)(b.data[i] ^ 1 << i % 8);
        tried++;
    }
    CHECK_MSG(!missed && tried > head + 16, "%zu of %zu changes were not found", missed, tried);
    for (size_t n = 0; n < b.len; n += n < head ? 7 : 1009)
        missed += !refused(m, &b, n);
    CHECK_EQ(missed, 0);
    deq_buf_free(&b);
    deq_state_free(s);
    deq_tokens_free(&p);
    deq_model_free(m);
}

static void check_refused_file(const struct deq_model *m, const char *path, uint64_t most, const char *message)
{
    struct deq_state *s = NULL;
    struct deq_err err = {0};
    CHECK(deq_state_load(m, path, most, &s, &err) < 0 && !s);
    CHECK_MSG(strstr(err.text, message) != NULL, "\"%s\" lacks \"%s\"", err.text, message);
    deq_state_free(s);
}

TEST(state_of_something_else_is_refused_by_name)
{
    struct deq_model *m = tiny_model(), *looped = tiny_looped(), *ints = model_in(TINY, DEQ_CLASS_INT8);
    REQUIRE(m && looped && ints && scratch_begin());
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    const struct deq_request q = tiny_request(m, &p, 0, &x);
    struct deq_state *s = state_of(m, &q, 20);
    const char *path = scratch_path("s");
    struct stat st;
    CHECK(!deq_state_save(m, s, path, NULL) && !stat(path, &st) && (st.st_mode & 0777) == 0600);
    check_refused_file(looped, path, 1 << 24, "of another kind of model: its model_type is deq_transformer, here it");
    check_refused_file(ints, path, 1 << 24, "of another numeric class: its numeric_class is float32, here it is int8");
    check_refused_file(m, path, (uint64_t)st.st_size - 1, "bytes, the limit is");
    check_refused_file(m, scratch_path("none"), 1 << 24, "cannot open");
    check_refused_file(m, scratch_dir(), 1 << 24, "not a regular file");
    check_refused_file(m, TINY "/model.safetensors", 1 << 24, "of another kind of file: its format is deq_transformer");
    const struct deq_saved_of of[] = {
        {"deq.state", "deq_transformer", "float32", "0123456789abcdef", "0"},
        {"deq.state", "deq_transformer", "float32", deq_model_info(m).fingerprint, "0"},
        {"deq.prefix", "deq_transformer", "float32", deq_model_info(m).fingerprint, "0"}};
    const char *const why[] = {"of another model: its fingerprint is 0123456789abcdef, here it is",
                               "of another configuration of the model: its", "of another kind of file: its format is"};
    for (size_t i = 0; i < DEQ_COUNT(of); i++) {
        CHECK(!deq_state_write(&of[i], s, path, NULL));
        check_refused_file(m, path, 1 << 24, why[i]);
    }
    /* 10 GB, of which nothing is read: none of them are there */
    const int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && !ftruncate(fd, 10ll << 30));
    close(fd);
    check_refused_file(m, path, 1 << 24, "10737418240 bytes, the limit is 16777216");
    scratch_end("s", NULL);
    deq_state_free(s);
    deq_tokens_free(&p);
    deq_model_free(m);
    deq_model_free(looped);
    deq_model_free(ints);
}

/* A checksum can be made by anybody: what it holds is looked at all the same. */
TEST_EACH_KIND(state_of_impossible_numbers_is_refused)
{
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_request q = tiny_request(m, &p, MORE, &x);
    struct deq_state *s = state_of(m, &q, 20), *back = NULL;
    const uint32_t was = s->tokens[3];
    struct deq_buf b;
    struct deq_err err = {0};
    deq_buf_init(&b, 1 << 24);
    s->tokens[3] = deq_model_info(m).vocab_size;
    CHECK(!deq_state_print(m, s, &b, NULL) && deq_state_parse(m, b.data, b.len, "s", &back, &err) == DEQ_EFORMAT &&
          strstr(err.text, "at 3 is outside the vocabulary"));
    deq_buf_free(&b);
    deq_buf_init(&b, 1 << 24);
    s->tokens[3] = was;
    s->state[1] = NAN;
    CHECK(!deq_state_print(m, s, &b, NULL) && deq_state_parse(m, b.data, b.len, "s", &back, &err) == DEQ_EFORMAT &&
          strstr(err.text, "not finite"));
    deq_buf_free(&b);
    /* pages of any bits end a text, or give one; a trellis network's say which token stood there, and are refused */
    s->state[1] = 0;
    memset(s->pages, 0xff, s->n_pages * s->page_bytes);
    deq_buf_init(&b, 1 << 24);
    const enum deq_rc rc = deq_state_print(m, s, &b, NULL) ? DEQ_ENOMEM
                                                           : deq_state_parse(m, b.data, b.len, "s", &back, &err);
    CHECK(rc ? rc == DEQ_EFORMAT && strstr(err.text, "page 0 is none of this model's") : back != NULL);
    CHECK_EQ(rc != DEQ_OK, !strcmp(deq_model_info(m).model_type, "deq_trellis"));
    q.state = back;
    q.n_prompt = 3;
    struct deq_engine *e = tiny_engine(m, 1, 1);
    struct answer a = {.vocab = x.vocab};
    q.ctx = &a;
    CHECK(rc || !deq_submit(e, &q, NULL, &err));
    run_all(e);
    CHECK(rc || (a.ended && a.finish == DEQ_FINISH_NUMERIC));
    CHECK(deq_engine_stats(e).pages_reserved == 0 && !deq_active(e));
    deq_engine_free(e);
    deq_state_free(s);
    deq_state_free(back);
    deq_buf_free(&b);
    deq_tokens_free(&p);
    deq_model_free(m);
}

TEST(state_requests_that_cannot_be)
{
    struct deq_model *m = tiny_model();
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    struct deq_request q = tiny_request(m, &p, MORE, &x);
    struct deq_state *s = state_of(m, &q, TOKENS), *empty = NULL, *longer = NULL;
    struct deq_engine *e = tiny_engine(m, 1, 1), *toy = toy_engine(&(struct deq_toy){.dim = 24}, 1, 1, NULL);
    CHECK(!deq_state_new(m, TOKENS, &empty, NULL) && !deq_state_new(m, TOKENS + 1, &longer, NULL) &&
          deq_state_new(m, 0, &empty, NULL) == DEQ_EINVAL);
    REQUIRE(e && toy && empty && longer);
    q.state = s;
    q.n_prompt = 0;
    struct deq_request bad[5] = {q, q, q, q, q};
    bad[0].state = empty;
    bad[1].want_prompt = true;
    bad[2].max_tokens = 0;
    bad[3].keep = longer;
    bad[4].max_tokens = 500 - TOKENS + 1;
    const char *const why[] = {"state: nothing is in it", "want_prompt", "max_tokens: 0", "keep: is of 41 tokens",
                               "limit of 500 positions"};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        struct deq_err err = {0};
        CHECK_MSG(deq_submit(e, &bad[i], NULL, &err) == DEQ_EINVAL && strstr(err.text, why[i]), "%zu: %s", i, err.text);
    }
    struct deq_err err;
    CHECK(deq_submit(toy, &q, NULL, &err) == DEQ_EINVAL && strstr(err.text, "of another model"));
    deq_engine_free(toy);
    deq_engine_free(e);
    deq_state_free(s);
    deq_state_free(empty);
    deq_state_free(longer);
    deq_tokens_free(&p);
    deq_model_free(m);
}

/* A disk that is full, a directory that is not there: an error that says so. */
TEST(state_that_cannot_be_written)
{
    struct deq_model *m = tiny_model();
    REQUIRE(m);
    struct deq_tokens p = encode_text(m, LONG_TEXT);
    struct answer x = {0};
    const struct deq_request q = tiny_request(m, &p, MORE, &x);
    struct deq_state *s = state_of(m, &q, TOKENS);
    struct deq_err err = {0};
    CHECK(deq_state_save(m, s, "/dev/full", &err) == DEQ_EIO && strstr(err.text, "No space left"));
    CHECK(deq_state_save(m, s, "tests/golden/none/s", &err) == DEQ_ENOTFOUND);
    struct deq_buf small;
    deq_buf_init(&small, 1000);
    CHECK(deq_state_print(m, s, &small, &err) == DEQ_ENOMEM);
    deq_buf_free(&small);
    deq_state_free(s);
    deq_tokens_free(&p);
    deq_model_free(m);
}
