/* core/api.c: the door (core/deq.h), asked as a program asks it. */
#include "core/deq.h"

#include "core/base/mem.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define TINY "tests/golden/tiny"

TEST(api_directories_that_are_no_model)
{
    REQUIRE(scratch_begin());
    static const struct {
        const char *file, *text, *says;
    } steps[] = {
        /* what is there grows by a file; each time the next thing is missed */
        {NULL, NULL, "config.json"},
        {"config.json", "{\"model_type\": \"gpt2\"}", "deq_transformer"}, /* the known kinds are named */
        {"config.json", "{\"model_type\": \"deq_transformer\"}", "missing"},
    };
    struct deq_model *m = NULL;
    struct deq_memory memory;
    struct deq_err err;
    CHECK(deq_model_load("/nonexistent", NULL, &m, &err) == DEQ_ENOTFOUND && !m &&
          strstr(err.text, "/nonexistent: not a directory"));
    CHECK(deq_model_load("", NULL, &m, &err) == DEQ_ENOTFOUND && strstr(err.text, "\"\""));
    for (size_t i = 0; i < DEQ_COUNT(steps); i++) {
        if (steps[i].file)
            scratch_put(steps[i].file, steps[i].text);
        CHECK(deq_model_load(scratch_dir(), NULL, &m, &err) < 0 && !m);
        CHECK_MSG(strstr(err.text, scratch_dir()) && strstr(err.text, steps[i].says), "%s", err.text);
        CHECK(deq_check(scratch_dir(), NULL, &(struct deq_engine_opts){0}, &memory, &err) < 0 &&
              strstr(err.text, steps[i].says));
    }
    scratch_end("config.json", NULL);
    deq_model_free(NULL);
}

TEST(api_model)
{
    struct deq_model *m = NULL;
    struct deq_err err;
    REQUIRE(!deq_model_load(TINY, NULL, &m, &err));
    const struct deq_model_info i = deq_model_info(m);
    CHECK_EQ(i.model_type, "deq_transformer");
    CHECK(i.vocab_size == 384 && i.d_model == 32 && i.parameters == 34432 && i.eos_id == 0 && i.has_predictor);
    CHECK_EQ(i.dtype, "f32");
    CHECK_EQ(strlen(i.fingerprint), 16u);
    const char *heads = NULL;
    for (size_t k = 0; k < i.n_facts; k++)
        heads = !strcmp(i.facts[k].key, "num_attention_heads") ? i.facts[k].value : heads;
    CHECK_EQ(heads, "2"); /* what is the kind's own is told by its keys */
    const struct deq_request q = deq_request_defaults(m);
    CHECK(q.max_tokens == 16 && q.solve.tol == i.tol && q.solve.window == i.window && q.sampling.top_p == 1);
    struct deq_tokens t = {0};
    CHECK(!deq_encode(m, "To <|endoftext|>", 16, true, &t, &err) && t.n > 1 && t.ids[t.n - 1] == 0);
    CHECK(deq_token_is_special(m, 0) && !deq_token_is_special(m, t.ids[0]));
    size_t n = 0;
    /* a special token is no text, but has a name */
    CHECK(!deq_token_text(m, -1, 0, &n) && deq_token_bytes(m, 0, &n) && n == 13);
    CHECK(!deq_token_bytes(m, 384, &n));
    deq_tokens_free(&t);

    struct deq_engine *e = NULL;
    CHECK(deq_engine_new(m, &(struct deq_engine_opts){.max_rows = 3}, &e, &err) == DEQ_EINVAL && !e &&
          strstr(err.text, "max_rows 3"));
    unsigned nth = 1;
    for (; nth < 100; nth++) { /* without memory at every place */
        deq_mem_fault(nth, false);
        const enum deq_rc rc = deq_engine_new(m, &(struct deq_engine_opts){.max_sequences = 1}, &e, &err);
        deq_mem_fault(0, false);
        if (!rc)
            break;
        CHECK(rc == DEQ_ENOMEM && !e);
    }
    CHECK(nth > 3 && nth < 100);
    deq_engine_free(e);
    deq_model_free(m);
}

/* A state that was computed in one class is none of another's: whatever is kept by a model's fingerprint. */
TEST(api_classes_are_different_models)
{
    char fingerprint[DEQ_CLASS_COUNT][17];
    for (enum deq_class c = 0; c < DEQ_CLASS_COUNT; c++) {
        struct deq_model *m = NULL;
        REQUIRE(!deq_model_load(TINY, &c, &m, NULL));
        const struct deq_model_info i = deq_model_info(m);
        CHECK(i.numeric == c);
        memcpy(fingerprint[c], i.fingerprint, sizeof fingerprint[c]);
        for (enum deq_class other = 0; other < c; other++)
            CHECK(strcmp(fingerprint[other], fingerprint[c]));
        deq_model_free(m);
    }
}
