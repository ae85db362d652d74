/* server/api/request_completion.c: what no single field can tell, and what an answer repeats of its request. */
#include "core/base/buf.h"
#include "tests/unit/requests.h"
#include "tests/unit/test.h"

#define LONG "\"max_tokens\":190,\"prompt\":[1,2,3,4,5,6,7,8,9,10"

static const struct refused together[] = {
    {ON_COMPLETIONS, "{\"n\":3,\"best_of\":2}", NULL, "best_of: must be at least n"},
    {ON_COMPLETIONS, "{\"best_of\":2,\"stream\":true}", NULL, "best_of: more than n cannot be streamed"},
    {ON_COMPLETIONS, "{\"n\":9}", NULL, "n: so many choices with windows of deq.window rows exceed engine.max_rows"},
    {ON_COMPLETIONS, "{\"n\":8,\"best_of\":9}", NULL,
     "best_of: so many choices with windows of deq.window rows exceed engine.max_rows"},
    {ON_COMPLETIONS, "{\"n\":5,\"deq\":{\"window\":13,\"prefill_window\":1}}", NULL,
     "n: so many choices with windows of deq.window rows exceed engine.max_rows"},
    {ON_COMPLETIONS, "{\"n\":5,\"deq\":{\"window\":13}}", NULL,
     "n: so many choices with windows of deq.window rows exceed engine.max_rows"},
    {ON_COMPLETIONS, "{\"max_tokens\":0}", NULL, "max_tokens: 0 is for scoring a prompt, with echo true"},
    {ON_COMPLETIONS, "{\"max_tokens\":0,\"echo\":true,\"n\":2}", NULL, "n: must be 1 when max_tokens is 0"},
    {ON_COMPLETIONS, "{\"max_tokens\":5,\"min_tokens\":6}", NULL, "min_tokens: must be at most max_tokens"},
    {ON_RESPONSES, "{\"input\":\"a\",\"max_output_tokens\":5,\"min_tokens\":6}", NULL,
     "min_tokens: must be at most max_output_tokens"},
    {ON_COMPLETIONS, "{\"logprob_token_ids\":[1]}", NULL, "logprob_token_ids: only with logprobs"},
    {ON_COMPLETIONS, "{" LONG ",11]}", "max_tokens",
     "the prompt has 11 tokens and max_tokens is 190: together more than the limit of 200 (engine.max_positions)"},
    {ON_COMPLETIONS, "{\"n\":8,\"logprobs\":20,\"max_tokens\":190}", NULL,
     "logprobs: so many prompts, choices and tokens would make an answer of about 1 MB; the most is 0 (a third of "
     "limits.answer_bytes)"},
};

TEST(request_completion_as_a_whole)
{
    struct requests r;
    struct request_error err;
    REQUIRE(requests_begin(&r));
    r.conf.answer_bytes = 1 << 20;
    check_refused(&r, together, DEQ_COUNT(together));
    r.conf.answer_bytes = 15 << 20;
    CHECK_EQ(refusal(&r, ON_COMPLETIONS,
                     "{\"n\":8,\"logprobs\":20,\"max_tokens\":190,\"prompt\":[\"a\",\"a\",\"a\",\"a\",\"a\"]}", &err),
             "logprobs: so many prompts, choices and tokens would make an answer of about 6 MB; the most is 5 (a third "
             "of limits.answer_bytes)");
    r.conf.answer_bytes = 1 << 20;
    /* the ends of what fits */
    CHECK_EQ(refusal(&r, ON_COMPLETIONS, "{\"n\":8}", &err), "");
    CHECK_EQ(refusal(&r, ON_COMPLETIONS, "{" LONG "]}", &err), "");
    CHECK_EQ(refusal(&r, ON_COMPLETIONS, "{\"max_tokens\":0,\"echo\":true}", &err), "");
    /* read as it is made */
    CHECK_EQ(refusal(&r, ON_COMPLETIONS, "{\"n\":8,\"stream\":true,\"max_tokens\":190}", &err), "");
    requests_end(&r);
}

TEST(request_completion_lengths)
{
    struct requests r;
    struct request_error err = {0};
    struct completion_request q;
    REQUIRE(requests_begin(&r));
    struct deq_buf b;
    deq_buf_init(&b, 4096);
    deq_buf_str(&b, "{\"prompt\":[1");
    for (int i = 1; i < 201; i++)
        deq_buf_str(&b, ",2");
    deq_buf_str(&b, "]}");
    CHECK_EQ(refusal(&r, ON_COMPLETIONS, b.data, &err),
             "the prompt has 201 tokens, the limit is 200 (engine.max_positions)");
    CHECK(!strcmp(err.code, "context_length_exceeded") && !strcmp(err.param, "prompt") && err.n_prompt_tokens == 201 &&
          err.n_ctx == 200);
    b.len -= 2; /* the same, asked to be cut: room for the answer stays */
    deq_buf_str(&b, "],\"truncate_prompt_tokens\":-1,\"max_tokens\":50}");
    CHECK(request_completion(&r.context, ON_COMPLETIONS, b.data, b.len, &q, &err) && q.prompts[0].n == 150);
    completion_request_free(&q);
    deq_buf_free(&b);
    /* nothing said: an end that was chosen here gives way, the start of a text is the model's */
    CHECK(request_completion(&r.context, ON_COMPLETIONS, "{}", 2, &q, &err));
    CHECK(q.max_tokens == 16 && !q.max_given && q.n_prompts == 1 && q.prompts[0].n == 1 && q.prompts[0].ids[0] == 0);
    completion_request_free(&q);
    requests_end(&r);
}

TEST(request_responses_repeat_what_was_asked)
{
    static const struct {
        const char *body, *told;
    } t[] = {
        {"{\"input\":\"a\"}",
         "\"instructions\":null,\"max_output_tokens\":null,\"metadata\":{},\"user\":null,"
         "\"text\":{\"format\":{\"type\":\"text\"}},\"temperature\":1.0,"
                              "\"top_p\":1.0,\"top_logprobs\":0,\"truncation\":\"disabled\","},
        {"{\"input\":\"a\",\"instructions\":\"b\",\"max_output_tokens\":7,\"metadata\":{\"k\":\"v\"},\"user\":\"u\","
         "\"temperature\":0.3,\"truncation\":\"auto\",\"include\":[\"message.output_text.logprobs\"],"
         "\"top_logprobs\":2}",
         "\"instructions\":\"b\",\"max_output_tokens\":7,\"metadata\":{\"k\":\"v\"},\"user\":\"u\","
         "\"text\":{\"format\":{\"type\":\"text\"}},\"temperature\":0.3,"
         "\"top_p\":1.0,\"top_logprobs\":2,\"truncation\":\"auto\","},
    };
    struct requests r;
    REQUIRE(requests_begin(&r));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct completion_request q = {0};
        struct request_error err = {0};
        CHECK_MSG(request_completion(&r.context, ON_RESPONSES, t[i].body, strlen(t[i].body), &q, &err), "%s",
                  err.message);
        CHECK_MSG(q.told_len == strlen(t[i].told) && !memcmp(q.told, t[i].told, q.told_len), "%.*s", (int)q.told_len,
                  q.told);
        completion_request_free(&q);
    }
    requests_end(&r);
}

TEST(request_without_a_seed_draws_one)
{
    struct requests r;
    struct request_error err;
    int64_t seeds[8] = {0};
    REQUIRE(requests_begin(&r));
    for (size_t i = 0; i < DEQ_COUNT(seeds); i++) {
        struct completion_request q;
        if (i == 6)
            strcpy(r.conf.sampling_seed, "12");
        const char *body = i % 2 ? "{\"seed\":null}" : i == 4 ? "{\"seed\":-9223372036854775808}" : "{}";
        const bool ok = request_completion(&r.context, ON_COMPLETIONS, body, strlen(body), &q, &err);
        CHECK(ok);
        if (!ok)
            continue;
        seeds[i] = q.seed;
        completion_request_free(&q);
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK(seeds[i] >= 0 && seeds[i] < INT64_C(1) << 53); /* whole in every client's JSON */
        for (size_t k = 0; k < i; k++)
            CHECK(seeds[k] != seeds[i]);
    }
    CHECK(seeds[4] == INT64_MIN && seeds[6] == 12 && seeds[7] == 12);
    requests_end(&r);
}
