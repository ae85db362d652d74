/* core/score/plain.c: a directory of any kind of model, with and without its tokenizer, and refused by name. */
#include "core/score/plain.h"

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

TEST(plain_opens_any_kind)
{
    static const char *const dirs[] = {"tests/golden/tiny", "tests/golden/tiny-trellis"};
    for (size_t i = 0; i < DEQ_COUNT(dirs); i++) {
        struct deq_plain m;
        REQUIRE(!deq_plain_open(dirs[i], i == 0, &m, NULL));
        CHECK(!m.weights->packed && m.arch->vocab.size == 384);
        CHECK(!m.tokenizer == (i != 0));
        deq_plain_close(&m);
        CHECK(!m.arch && !m.weights && !m.tokenizer);
    }
}

TEST(plain_refuses_by_name)
{
    struct deq_plain m;
    struct deq_err err;
    CHECK(deq_plain_open("tests/golden/nowhere", false, &m, &err) == DEQ_ENOTFOUND);
    CHECK_MSG(strstr(err.text, "tests/golden/nowhere/config.json"), "%s", err.text);
    deq_plain_close(&m);
    REQUIRE(scratch_begin());
    scratch_put("config.json", "{\"model_type\": \"deq_gru\"}");
    CHECK(deq_plain_open(scratch_path(""), false, &m, &err) == DEQ_EFORMAT);
    CHECK_MSG(strstr(err.text, "deq_gru") && strstr(err.text, "deq_transformer, deq_trellis"), "%s", err.text);
    deq_plain_close(&m);
    scratch_end("config.json", NULL);
}
