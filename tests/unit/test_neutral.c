/* server/api/neutral.c: what other servers' clients send is taken when it asks for what is done anyway. */
#include "server/api/fields.h"

#include "tests/unit/test.h"

/* "": taken; "?": not known there; or the message. */
static const char *take(enum body body, const char *name, const char *value)
{
    static struct request_error err;
    const struct fields fields = {.body = body};
    bool known = false;
    err = (struct request_error){0};
    const struct object o = {NULL, "", &fields, NULL, &err};
    json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
    const bool ok = fields_take_neutral(&o, name, v, &known);
    CHECK(v && ok == !err.status);
    json_decref(v);
    return known ? err.message : "?";
}

TEST(neutral_values)
{
    static const struct {
        enum body body;
        const char *name, *value, *says;
    } t[] = {
        {BODY_COMPLETION, "suffix", "\"\"", ""},
        {BODY_COMPLETION, "suffix", "\"x\"", "suffix: not supported by this server: texts are continued at their end"},
        {BODY_CHAT, "suffix", "\"x\"", "?"},
        {BODY_CHAT, "tool_choice", "\"none\"", ""},
        {BODY_CHAT, "tool_choice", "\"required\"", "tool_choice: not supported by this server: no tools are called"},
        {BODY_RESPONSES, "response_format", "{\"type\":\"text\"}", ""},
        {BODY_RESPONSES, "response_format", "{\"type\":\"json_object\"}",
         "response_format: not supported by this server: text.format has it"},
        {BODY_CHAT, "length_penalty", "1.0", ""}, /* 1 and 1.0 are one number */
        {BODY_CHAT, "length_penalty", "1.1", "length_penalty: not supported by this server: there is no beam search"},
        {BODY_CHAT, "prediction", "{}", "prediction: not supported by this server: the engine makes its own guesses"},
        {BODY_CHAT, "prompt_cache_key", "\"k\"", ""}, /* a hint: any text */
        {BODY_CHAT, "prompt_cache_key", "7", "prompt_cache_key: expected a string"},
        {BODY_RESPONSES, "max_tool_calls", "7", ""},
        {BODY_RESPONSES, "max_tool_calls", "7.5", "max_tool_calls: expected an integer"},
        {BODY_CHAT, "metadata", "{\"a\":[1]}", ""},
        {BODY_CHAT, "metadata", "[]", "metadata: expected an object"},
        {BODY_MESSAGE, "tool_calls", "[]", ""},
        {BODY_MESSAGE, "temperature", "1", "?"},
        {(enum body)0, "store", "false", "?"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++)
        CHECK_EQ(take(t[i].body, t[i].name, t[i].value), t[i].says);
}
