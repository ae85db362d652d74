/* server/api/completion_responses.c: /v1/responses as one object, and as numbered events that tell the same. */
#include <jansson.h>

#include "core/base/buf.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

#define FIELDS "\"input\":\"To\",\"max_output_tokens\":8,\"seed\":5,\"cache\":\"off\",\"metadata\":{\"k\":\"v\"}"

static struct outcome o;

static const json_t *at(const json_t *v, const char *key)
{
    return json_object_get(v, key);
}

static const char *text_of(const json_t *response)
{
    const json_t *item = json_array_get(at(response, "output"), 0), *part = json_array_get(at(item, "content"), 0);
    return json_string_value(at(part, "text"));
}

/* "event: NAME\ndata: {...}\n\n" */
static json_t *next_event(const char **text, char name[64])
{
    const char *s = *text, *data = strstr(s, "\ndata: "), *end = strstr(s, "\n\n");
    if (!end || !data || strncmp(s, "event: ", 7))
        return NULL;
    snprintf(name, 64, "%.*s", (int)(data - s - 7), s + 7);
    *text = end + 2;
    return json_loadb(data + 7, (size_t)(end - data - 7), 0, NULL);
}

TEST(responses_events_tell_the_object)
{
    static const char *const begin[] = {"response.created", "response.in_progress", "response.output_item.added",
                                        "response.content_part.added"};
    static const char *const end[] = {"response.output_text.done", "response.content_part.done",
                                      "response.output_item.done",
                                      "response.incomplete"};
    /* a template without a stop string: the length ends it */
    REQUIRE(inside_begin((const char *const[]){"stream.flush_ms=0", "chat.message={content}", NULL}));
    inside_ask("POST", "/v1/responses", "{" FIELDS "}", &o);
    CHECK_EQ(o.status, 200);
    json_t *whole = json_loads(o.text, 0, NULL), *last = NULL;
    CHECK_EQ(json_string_value(at(whole, "object")), "response");
    CHECK_EQ(json_string_value(at(at(whole, "metadata"), "k")), "v");
    CHECK_EQ(json_integer_value(at(whole, "max_output_tokens")), 8);

    inside_ask("POST", "/v1/responses", "{" FIELDS ",\"stream\":true}", &o);
    CHECK(o.status == 200 && o.streamed);
    struct deq_buf text;
    deq_buf_init(&text, 1 << 12);
    deq_buf_str(&text, "");
    char name[64];
    const char *s = o.text;
    size_t n = 0, n_end = 0;
    for (json_t *e; (e = next_event(&s, name)); n++) {
        CHECK_EQ(json_string_value(at(e, "type")), name);
        CHECK_EQ(json_integer_value(at(e, "sequence_number")), n);
        if (n < DEQ_COUNT(begin)) {
            CHECK_EQ(name, begin[n]);
        } else if (!strcmp(name, "response.output_text.delta")) {
            CHECK_EQ(n_end, 0u);
            deq_buf_str(&text, json_string_value(at(e, "delta")));
        } else if (n_end < DEQ_COUNT(end)) {
            CHECK_EQ(name, end[n_end++]);
        }
        json_decref(last);
        last = e;
    }
    CHECK(!*s && n_end == DEQ_COUNT(end));
    const json_t *told = at(last, "response");
    CHECK_EQ(text.data, text_of(whole));
    CHECK_EQ(text_of(told), text_of(whole));
    CHECK_EQ(json_string_value(at(told, "status")), "incomplete"); /* cut at max_output_tokens, and why: */
    CHECK_EQ(json_string_value(at(whole, "status")), "incomplete");
    CHECK_EQ(json_string_value(at(at(whole, "incomplete_details"), "reason")), "max_output_tokens");
    CHECK(json_equal(at(told, "usage"), at(whole, "usage")) && json_equal(at(told, "metadata"), at(whole, "metadata")));
    deq_buf_free(&text);
    json_decref(last);
    json_decref(whole);
    inside_end();
}
