/* server/api/completion_json.c: the answers of /v1/completions and of chats, whole and in chunks that add up to the
 * same. */
#include <jansson.h>

#include "core/base/buf.h"
#include "server/api/completion.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

static struct outcome o;

static const json_t *at(const json_t *v, const char *key)
{
    return json_object_get(v, key);
}

/* The next "data: ..." of a stream as JSON, or NULL behind the last; "[DONE]" is *ret_done. */
static json_t *next_chunk(const char **at_text, bool *ret_done)
{
    const char *s = *at_text, *end = strstr(s, "\n\n");
    if (!end)
        return NULL;
    CHECK_MSG(!strncmp(s, "data: ", 6), "%.20s", s);
    *at_text = end + 2;
    *ret_done = !strncmp(s, "data: [DONE]\n\n", 14);
    return *ret_done ? NULL : json_loadb(s + 6, (size_t)(end - s - 6), 0, NULL);
}

TEST(completion_words_of_ends)
{
    CHECK_EQ(finish_word(DEQ_FINISH_LENGTH), "length");
    CHECK_EQ(finish_word(DEQ_FINISH_EOS), "stop");
    CHECK_EQ(finish_word(DEQ_FINISH_STOP), "stop");
    CHECK_EQ(finish_word(DEQ_FINISH_DEADLINE), "length");
    CHECK_EQ(finish_word(DEQ_FINISH_BUDGET), "length");
}

static void nobody(void *conn, struct wakeups *w)
{
    (void)conn;
    (void)w;
}

/* For want of memory a text was lost in a stream: a chunk that had none told nobody. */
TEST(completion_chunk_tells_lost_text)
{
    for (int chat = 0; chat < 2; chat++) {
        struct completion c = {.req = {.chat = chat, .stream = true, .n_prompts = 1, .best_of = 1, .logprobs = -1}};
        struct choice ch = {.c = &c, .sent = true};
        c.choices = &ch;
        c.channel = channel_new(&c, nobody, 4096, NULL, 1);
        REQUIRE(c.channel);
        deq_buf_init(&c.chunk, 4096);
        CHECK(!choice_has_news(&ch));
        deq_buf_fail(&ch.shown);
        CHECK(choice_has_news(&ch) && !choice_send(&ch, NULL) && channel_starved(c.channel));
        deq_buf_free(&c.chunk);
        channel_unref(c.channel);
    }
}

TEST(completion_stream_adds_up)
{
    static const char fields[] = "\"prompt\":[\"ROMEO\",\"To\"],\"max_tokens\":12,\"n\":2,\"seed\":5,\"cache\":\"off\"";
    char body[300];
    REQUIRE(inside_begin((const char *const[]){"stream.flush_ms=0", NULL}));
    snprintf(body, sizeof body, "{%s}", fields);
    inside_ask("POST", "/v1/completions", body, &o);
    CHECK_EQ(o.status, 200);
    json_t *whole = json_loads(o.text, 0, NULL);
    const json_t *choices = at(whole, "choices");
    CHECK_EQ(json_array_size(choices), 4u);
    CHECK_EQ(json_string_value(at(whole, "object")), "text_completion");
    CHECK_EQ(json_string_value(at(whole, "id")), "cmpl-r");
    CHECK_EQ(json_integer_value(at(at(whole, "usage"), "completion_tokens")), 48);
    CHECK_EQ(json_integer_value(at(at(whole, "deq"), "seed")), 5);

    snprintf(body, sizeof body, "{%s,\"stream\":true,\"stream_options\":{\"include_usage\":true}}", fields);
    inside_ask("POST", "/v1/completions", body, &o);
    CHECK(o.status == 200 && o.streamed);
    struct deq_buf text[4];
    unsigned chunks = 0, finished = 0, usages = 0;
    bool done = false;
    for (size_t i = 0; i < 4; i++)
        deq_buf_init(&text[i], 1 << 12);
    const char *s = o.text;
    for (json_t *c; !done && ((c = next_chunk(&s, &done)) || done); json_decref(c)) {
        const json_t *choice = json_array_get(at(c, "choices"), 0);
        chunks += choice != NULL;
        usages += json_is_object(at(c, "usage"));
        finished += json_is_string(at(choice, "finish_reason"));
        if (choice)
            deq_buf_str(&text[json_integer_value(at(choice, "index")) & 3], json_string_value(at(choice, "text")));
    }
    CHECK(done && !*s);
    CHECK(chunks > 4 && finished == 4 && usages == 1);
    for (size_t i = 0; i < 4; i++) {
        const json_t *choice = json_array_get(choices, i);
        CHECK_EQ(json_integer_value(at(choice, "index")), i);
        CHECK_EQ(text[i].data, json_string_value(at(choice, "text")));
        CHECK_EQ(json_string_value(at(choice, "finish_reason")), "length");
        deq_buf_free(&text[i]);
    }
    json_decref(whole);
    inside_end();
}

TEST(completion_chat_shape)
{
    static const char fields[] =
        "\"messages\":[{\"role\":\"user\",\"content\":\"To\"}],\"max_tokens\":8,\"seed\":5,\"cache\":\"off\"";
    char body[300];
    REQUIRE(inside_begin((const char *const[]){"stream.flush_ms=0", NULL}));
    snprintf(body, sizeof body, "{%s,\"logprobs\":true,\"top_logprobs\":2}", fields);
    inside_ask("POST", "/v1/chat/completions", body, &o);
    json_t *whole = json_loads(o.text, 0, NULL);
    const json_t *choice = json_array_get(at(whole, "choices"), 0), *message = at(choice, "message");
    CHECK_EQ(json_string_value(at(whole, "object")), "chat.completion");
    CHECK_EQ(json_string_value(at(message, "role")), "assistant");
    CHECK(json_is_string(at(message, "content")) && json_is_null(at(message, "refusal")));
    const json_t *entries = at(at(choice, "logprobs"), "content");
    CHECK_EQ(json_array_size(entries), json_integer_value(at(at(whole, "usage"), "completion_tokens")));
    CHECK_EQ(json_array_size(at(json_array_get(entries, 0), "top_logprobs")), 2u);

    snprintf(body, sizeof body, "{%s,\"stream\":true}", fields);
    inside_ask("POST", "/v1/chat/completions", body, &o);
    struct deq_buf text;
    deq_buf_init(&text, 1 << 12);
    deq_buf_str(&text, "");
    unsigned roles = 0, chunks = 0;
    bool done = false;
    const char *s = o.text;
    for (json_t *c; !done && ((c = next_chunk(&s, &done)) || done); json_decref(c)) {
        const json_t *delta = at(json_array_get(at(c, "choices"), 0), "delta");
        if (done)
            continue;
        CHECK_EQ(json_string_value(at(c, "object")), "chat.completion.chunk");
        CHECK(!!at(delta, "role") == !chunks); /* in the first alone */
        roles += at(delta, "role") != NULL;
        chunks++;
        if (at(delta, "content"))
            deq_buf_str(&text, json_string_value(at(delta, "content")));
    }
    CHECK_EQ(roles, 1u);
    CHECK_EQ(text.data, json_string_value(at(message, "content")));
    deq_buf_free(&text);
    json_decref(whole);
    inside_end();
}

/* Scoring: with echo the prompt's tokens stand there with their log-probabilities; nothing predicts the first. */
TEST(completion_echo_scores_a_prompt)
{
    REQUIRE(inside_begin(NULL));
    inside_ask("POST", "/v1/completions", "{\"prompt\":\"To be\",\"max_tokens\":0,\"echo\":true,\"logprobs\":1}", &o);
    json_t *whole = json_loads(o.text, 0, NULL);
    const json_t *choice = json_array_get(at(whole, "choices"), 0), *l = at(choice, "logprobs");
    const size_t n = json_array_size(at(l, "tokens"));
    CHECK_EQ(json_string_value(at(choice, "text")), "To be");
    CHECK(n > 1 && json_array_size(at(l, "token_logprobs")) == n && json_array_size(at(l, "top_logprobs")) == n &&
          json_array_size(at(l, "text_offset")) == n);
    CHECK(json_is_null(json_array_get(at(l, "token_logprobs"), 0)) &&
          json_is_null(json_array_get(at(l, "top_logprobs"), 0)));
    json_int_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        CHECK_EQ(json_integer_value(json_array_get(at(l, "text_offset"), i)), offset);
        offset += (json_int_t)json_string_length(json_array_get(at(l, "tokens"), i));
        CHECK(!i || json_real_value(json_array_get(at(l, "token_logprobs"), i)) < 0);
    }
    json_decref(whole);
    inside_end();
}
