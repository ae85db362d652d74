/* server/api/logprobs.c: log-probabilities as numbers, and in the two forms of an answer; every alternative once, the
 * token itself always. */
#include "server/api/logprobs.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "tests/unit/test.h"

enum { V = 384, HIGHEST = 300, SECOND = 70, UNLIKELY = 90, ASKED = 80 };

static struct deq_model *model;
static float logits[V];
static struct logprob_lists lists;
static struct deq_buf found;
static uint32_t asked_for[] = {ASKED, SECOND}; /* the second is among the most probable */

static bool begin(void)
{
    for (uint32_t i = 0; i < V; i++)
        logits[i] = 0.001f * (float)i;
    logits[HIGHEST] = 5;
    logits[SECOND] = 4;
    logprobs_init(&lists, 1 << 20, NULL);
    deq_buf_init(&found, 1 << 20);
    return deq_model_load("tests/golden/tiny", NULL, &model, NULL) == DEQ_OK && deq_model_info(model).vocab_size == V;
}

static void end(void)
{
    logprobs_free(&lists);
    deq_buf_free(&found);
    deq_model_free(model);
}

/* Finds its numbers, and adds it to the lists. */
static void add(const struct completion_request *r, uint32_t token)
{
    const struct deq_log_normaliser n = deq_log_normaliser(logits, V);
    deq_buf_reset(&found);
    const size_t n_top = logprobs_find(r, logits, V, &n, &found);
    CHECK_EQ(found.len, n_top * sizeof(struct logprob));
    const struct logprob_entry e = {.token = {token, deq_logprob(&n, logits[token])},
                                    .predicted = true,
                                    .offset = 7,
                                    .top = (const struct logprob *)found.data,
                                    .n_top = n_top};
    logprobs_add(&lists, r, model, &e);
}

static double expected(uint32_t id)
{
    double sum = 0;
    for (uint32_t i = 0; i < V; i++)
        sum += exp((double)logits[i]);
    return (double)logits[id] - log(sum);
}

/* The entries of a list, which have a comma behind each. */
static json_t *read_list(const struct deq_buf *b)
{
    char text[4096];
    snprintf(text, sizeof text, "[%.*s]", b->len ? (int)b->len - 1 : 0, b->len ? b->data : "");
    json_t *list = json_loads(text, JSON_ALLOW_NUL, NULL);
    CHECK_MSG(list, "%s", text);
    return list;
}

/* The sums are of floats: a few units in the last place of a value of about 6. */
static bool is_logprob(const json_t *v, uint32_t id)
{
    return json_is_real(v) && fabs(json_real_value(v) - expected(id)) < 5e-6;
}

TEST(logprobs_of_completions)
{
    struct completion_request r = {.logprobs = 2, .tokens_as_ids = true, .logprob_ids = {.ids = asked_for, .n = 2}};
    REQUIRE(begin());
    const struct logprob_entry first = {.token.token = SECOND};
    logprobs_add(&lists, &r, model, &first);
    add(&r, UNLIKELY);
    add(&r, SECOND);
    json_t *tokens = read_list(&lists.tokens), *values = read_list(&lists.values), *top = read_list(&lists.top);
    CHECK_EQ(json_string_value(json_array_get(tokens, 1)), "token_id:90");
    CHECK(json_is_null(json_array_get(values, 0)) && json_is_null(json_array_get(top, 0)));
    CHECK(is_logprob(json_array_get(values, 1), UNLIKELY) && is_logprob(json_array_get(values, 2), SECOND));
    const json_t *of_unlikely = json_array_get(top, 1), *of_likely = json_array_get(top, 2);
    CHECK_EQ(json_object_size(of_unlikely), 4); /* two, the one asked for, and the token */
    CHECK_EQ(json_object_size(of_likely), 3);
    CHECK(is_logprob(json_object_get(of_unlikely, "token_id:300"), HIGHEST));
    CHECK(is_logprob(json_object_get(of_unlikely, "token_id:70"), SECOND));
    CHECK(is_logprob(json_object_get(of_unlikely, "token_id:80"), ASKED));
    CHECK(is_logprob(json_object_get(of_unlikely, "token_id:90"), UNLIKELY));
    CHECK(json_object_get(of_likely, "token_id:80"));
    CHECK_EQ((const char *)lists.offsets.data, "0,7,7,");
    json_decref(tokens);
    json_decref(values);
    json_decref(top);
    end();
}

TEST(logprobs_of_chats)
{
    struct completion_request r = {.chat = true, .logprobs = 1, .logprob_ids = {.ids = asked_for, .n = 2}};
    REQUIRE(begin());
    add(&r, UNLIKELY);
    json_t *tokens = read_list(&lists.tokens);
    const json_t *o = json_array_get(tokens, 0), *top = json_object_get(o, "top_logprobs");
    static const uint32_t want[] = {HIGHEST, ASKED, SECOND}; /* the most probable, then as they were asked for */
    CHECK(is_logprob(json_object_get(o, "logprob"), UNLIKELY));
    CHECK_EQ(json_array_size(top), DEQ_COUNT(want));
    for (size_t i = 0; i < json_array_size(top) && i < DEQ_COUNT(want); i++) {
        const json_t *a = json_array_get(top, i), *bytes = json_object_get(a, "bytes");
        size_t n;
        const char *token = deq_token_bytes(model, want[i], &n);
        CHECK(is_logprob(json_object_get(a, "logprob"), want[i]));
        CHECK_EQ(json_array_size(bytes), n);
        for (size_t k = 0; k < n; k++)
            CHECK_EQ(json_integer_value(json_array_get(bytes, k)), (unsigned char)token[k]);
    }
    CHECK(!lists.values.len && !lists.top.len && !lists.offsets.len);
    json_decref(tokens);
    end();
}

/* A token that is no text of its own has a name all the same. */
TEST(logprobs_name_any_bytes)
{
    struct completion_request r = {.logprobs = 0};
    REQUIRE(begin());
    for (uint32_t id = 0; id < V; id++)
        add(&r, id);
    json_t *tokens = read_list(&lists.tokens);
    size_t by_bytes = 0;
    for (uint32_t id = 0; id < V; id++) {
        const json_t *name = json_array_get(tokens, id);
        size_t n;
        const char *bytes = deq_token_bytes(model, id, &n), *text = json_string_value(name);
        const bool as_bytes = text && !strncmp(text, "bytes:\\x", 8) && strlen(text) == 6 + 4 * n;
        CHECK_MSG(as_bytes || (json_string_length(name) == n && !memcmp(text, bytes, n)), "token %u: %s", id, text);
        by_bytes += as_bytes;
    }
    CHECK_EQ(by_bytes, 128); /* the bytes from 0x80 on, which are parts of characters */
    json_decref(tokens);
    end();
}
