/* server/api/completion_job.c: what ends a choice. */
#include <jansson.h>
#include <stdlib.h>

#include "tests/unit/inside.h"
#include "tests/unit/test.h"

static struct outcome o;

/* The first choice of a whole answer; *ret is to be freed. */
static const json_t *ask(const char *body, json_t **ret)
{
    inside_ask("POST", "/v1/completions", body, &o);
    CHECK_MSG(o.status == 200, "%s: %d %s", body, o.status, o.text);
    *ret = json_loads(o.text, 0, NULL);
    return json_array_get(json_object_get(*ret, "choices"), 0);
}

static const char *text(const json_t *choice, const char *key)
{
    return json_string_value(json_object_get(choice, key));
}

TEST(completion_job_ends)
{
    json_t *answer;
    char body[200], begin[64];
    REQUIRE(inside_begin(NULL));
    /* greedy: the same each time */
    const json_t *c = ask("{\"prompt\":\"ROMEO\",\"max_tokens\":20,\"temperature\":0,\"return_token_ids\":true}",
                          &answer);
    const json_t *ids = json_object_get(c, "token_ids");
    CHECK_EQ(json_array_size(ids), 20u);
    CHECK_EQ(text(c, "finish_reason"), "length");
    CHECK(!json_object_get(c, "stop_reason"));
    const json_int_t third = json_integer_value(json_array_get(ids, 2));
    snprintf(begin, sizeof begin, "%.6s", text(c, "text"));
    snprintf(body, sizeof body,
             "{\"prompt\":\"ROMEO\",\"max_tokens\":20,\"temperature\":0,\"stop_token_ids\":[%d]}", (int)third);
    json_t *stopped;
    c = ask(body, &stopped);
    CHECK_EQ(text(c, "finish_reason"), "stop");
    CHECK_EQ(json_integer_value(json_object_get(c, "stop_reason")), third);
    json_decref(stopped);

    json_t *stop = json_pack("{s:s, s:i, s:i, s:s#}", "prompt", "ROMEO", "max_tokens", 20, "temperature", 0, "stop",
                             begin + 2, 3);
    char *stop_body = json_dumps(stop, JSON_COMPACT);
    c = ask(stop_body, &stopped);
    CHECK_EQ(text(c, "finish_reason"), "stop");
    CHECK(json_string_length(json_object_get(c, "text")) <= 2 && !strncmp(text(c, "stop_reason"), begin + 2, 3));
    free(stop_body);
    json_decref(stop);
    json_decref(stopped);
    json_decref(answer);
    inside_end();
}
