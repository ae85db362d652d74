/* server/api/answer.c: memory runs out at every place of a request's way, from its body to its last byte. The answer
 * is the one that it would have been, or an error; never one with a part missing. */
#include "core/base/clock.h"
#include "core/base/mem.h"
#include "tests/unit/inside.h"
#include "tests/unit/test.h"

/* Two seconds of the wall clock are one answer. */
static void forget_time(char *text)
{
    for (char *p = text; (p = strstr(p, "\"created")) != NULL;)
        for (p += strcspn(p, "0123456789"); *p >= '0' && *p <= '9'; p++)
            *p = '0';
}

/* A request whose nth allocation fails; 0: none. False: it needs fewer. */
static bool ask(const char *path, const char *body, uint64_t nth, struct outcome *ret)
{
    const struct exchange head = {.method = "POST", .path = path, .request_id = "r", .arrived_ns = deq_now_ns(),
                                  .caller = {.id = 1, .weight = 1}};
    const bool reached = inside_ask_as(&head, body, nth, ret);
    forget_time(ret->text);
    return reached;
}

static bool is_error(const struct outcome *o)
{
    if (o->streamed)
        return !o->status || (strstr(o->text, "out_of_memory") && !strstr(o->text, "[DONE]"));
    return o->status == 503 && strstr(o->text, "\"out_of_memory\"");
}

TEST(answer_is_whole_or_an_error)
{
    static const struct {
        const char *path, *body;
    } cases[] = {
        {"/v1/completions", "{\"prompt\":\"The\",\"max_tokens\":3,\"logprobs\":2,\"echo\":true,\"n\":2,"
                            "\"stop\":\"zzz\",\"cache\":\"off\",\"seed\":1,\"include\":[\"deq.tokens\"]}"},
        /* streams have one token: how many make a chunk is a matter of time */
        {"/v1/completions", "{\"prompt\":\"The\",\"max_tokens\":1,\"stream\":true,\"cache\":\"off\",\"seed\":1,"
                            "\"logprobs\":1,\"stream_options\":{\"include_usage\":true}}"},
        {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"The\"}],\"max_tokens\":3,"
                                 "\"cache\":\"off\",\"seed\":1,\"logprobs\":true,\"top_logprobs\":1}"},
        {"/v1/responses", "{\"input\":\"The\",\"max_output_tokens\":3,\"cache\":\"off\",\"seed\":1}"},
        {"/v1/responses", "{\"input\":\"The\",\"max_output_tokens\":1,\"cache\":\"off\",\"seed\":1,\"stream\":true}"},
        {"/v1/logits", "{\"prompt\":\"A\",\"positions\":\"last\"}"},
        {"/v1/equilibria", "{\"prompt\":\"The\",\"positions\":\"all\",\"jacobian\":true}"},
        {"/v1/embeddings", "{\"input\":[\"A\",\"The\"],\"encoding_format\":\"base64\"}"},
        {"/tokenize", "{\"prompt\":\"The king\"}"},
        {"/detokenize", "{\"tokens\":[70,71,72]}"},
    };
    static struct outcome good, got;
    REQUIRE(inside_begin((const char *const[]){"stream.flush_ms=0", NULL}));
    deq_mem_count_plain(true);
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        size_t errors = 0;
        (void)ask(cases[i].path, cases[i].body, 0, &good);
        CHECK_MSG(good.status == 200, "%s: %d %s", cases[i].path, good.status, good.text);
        for (uint64_t nth = 1; ask(cases[i].path, cases[i].body, nth, &got); nth++) {
            const bool same = got.status == 200 && !strcmp(got.text, good.text);
            errors += !same;
            CHECK_MSG(same || is_error(&got), "%s, allocation %llu: %d %s", cases[i].body, (unsigned long long)nth,
                      got.status, got.text);
        }
        CHECK_MSG(errors > 5, "%s: %zu errors", cases[i].path, errors);
        CHECK(deq_budget_used(&inside.budget) == 0);
    }
    deq_mem_count_plain(false);
    inside_end();
}
