/* server/api/request_completion_fields.c: every field with a value that it does not take, and what is said of it. */
#include "tests/unit/requests.h"
#include "tests/unit/test.h"

static const struct refused wrong[] = {
    {ON_COMPLETIONS, "{\"model\":7}", NULL, "model: expected a string"},
    {ON_COMPLETIONS, "{\"temperature\":2.1}", NULL, "temperature: must be between 0 and 2"},
    {ON_COMPLETIONS, "{\"top_p\":-0.1}", NULL, "top_p: must be between 0 and 1"},
    {ON_COMPLETIONS, "{\"stream\":1}", NULL, "stream: expected a boolean"},
    {ON_COMPLETIONS, "{\"stop\":[1]}", NULL, "stop: expected a string or an array of strings"},
    {ON_COMPLETIONS, "{\"stop\":{}}", NULL, "stop: expected a string or an array of strings"},
    {ON_COMPLETIONS, "{\"stop\":[\"a\",\"b\",\"c\"]}", NULL, "stop: at most 2 strings"},
    {ON_COMPLETIONS, "{\"stop\":\"12345\"}", NULL, "stop: a string must have at most 4 bytes (limits.max_stop_bytes)"},
    {ON_COMPLETIONS, "{\"presence_penalty\":3}", NULL, "presence_penalty: must be between -2 and 2"},
    {ON_COMPLETIONS, "{\"frequency_penalty\":-3}", NULL, "frequency_penalty: must be between -2 and 2"},
    {ON_COMPLETIONS, "{\"logit_bias\":[]}", NULL, "logit_bias: expected an object of token ids and numbers"},
    {ON_COMPLETIONS, "{\"logit_bias\":{\"x\":1}}", NULL, "logit_bias: \"x\" is not an id of the vocabulary of 384"},
    {ON_COMPLETIONS, "{\"logit_bias\":{\"384\":1}}", NULL, "logit_bias: \"384\" is not an id of the vocabulary of 384"},
    {ON_COMPLETIONS, "{\"logit_bias\":{\"5\":101}}", NULL, "logit_bias: must be between -100 and 100"},
    {ON_COMPLETIONS, "{\"seed\":1.5}", NULL, "seed: expected an integer"},
    {ON_COMPLETIONS, "{\"user\":1}", NULL, "user: expected a string"},
    {ON_COMPLETIONS, "{\"top_k\":-2}", NULL, "top_k: must be between -1 and 2147483647"},
    {ON_COMPLETIONS, "{\"min_p\":1.1}", NULL, "min_p: must be between 0 and 1"},
    {ON_COMPLETIONS, "{\"repetition_penalty\":0}", NULL, "repetition_penalty: must be between 0.01 and 100"},
    {ON_COMPLETIONS, "{\"stop_token_ids\":7}", NULL, "stop_token_ids: expected an array of token ids"},
    {ON_COMPLETIONS, "{\"stop_token_ids\":[-1]}", NULL,
     "stop_token_ids: token -1 at 0 is not in the vocabulary of 384"},
    {ON_COMPLETIONS, "{\"ignore_eos\":\"no\"}", NULL, "ignore_eos: expected a boolean"},
    {ON_COMPLETIONS, "{\"min_tokens\":-1}", NULL, "min_tokens: must be between 0 and 2147483647"},
    {ON_COMPLETIONS, "{\"return_tokens_as_token_ids\":0}", NULL, "return_tokens_as_token_ids: expected a boolean"},
    {ON_COMPLETIONS, "{\"truncate_prompt_tokens\":-2}", NULL,
     "truncate_prompt_tokens: must be between -1 and 2147483647"},
    {ON_COMPLETIONS, "{\"priority\":21}", NULL, "priority: must be between -20 and 20"},
    {ON_COMPLETIONS, "{\"cache_salt\":\"\"}", NULL, "cache_salt: must have 1 to 1024 bytes"},
    {ON_COMPLETIONS, "{\"cache\":\"on\"}", NULL, "cache: must be exact, approximate or off"},
    {ON_COMPLETIONS, "{\"logprobs\":3,\"logprob_token_ids\":[1,2,3,4]}", NULL,
     "logprob_token_ids: 4 token ids, at most 3"},
    {ON_COMPLETIONS, "{\"deadline_ms\":0}", NULL, "deadline_ms: must be between 1 and 86400000"},
    {ON_COMPLETIONS, "{\"deq\":[]}", NULL, "deq: expected an object"},
    {ON_COMPLETIONS, "{\"n\":5}", NULL, "n: must be between 1 and 4"},
    {ON_COMPLETIONS, "{\"stream_options\":[]}", NULL, "stream_options: expected an object"},
    {ON_COMPLETIONS, "{\"stream_options\":{\"include_usage\":1}}", NULL,
     "stream_options.include_usage: expected a boolean"},
    {ON_COMPLETIONS, "{\"stream_options\":{\"x\":1}}", NULL, "stream_options.x: unknown field"},
    {ON_COMPLETIONS, "{\"stream_options\":{\"include_usage\":true}}", NULL, "stream_options: only with stream true"},
    {ON_COMPLETIONS, "{\"return_token_ids\":[]}", NULL, "return_token_ids: expected a boolean"},
    {ON_COMPLETIONS, "{\"include\":[\"usage\"]}", NULL, "include: knows deq.tokens, deq.trace and timings"},
    {ON_COMPLETIONS, "{\"include\":\"deq.tokens\"}", NULL, "include: expected an array of strings"},
    {ON_COMPLETIONS, "{\"max_tokens\":-1}", NULL, "max_tokens: must be between 0 and 2147483647"},
    {ON_COMPLETIONS, "{\"logprobs\":4}", NULL, "logprobs: must be between 0 and 3"},
    {ON_COMPLETIONS, "{\"logprobs\":true}", NULL, "logprobs: expected an integer"},
    {ON_COMPLETIONS, "{\"best_of\":-1}", NULL, "best_of: must be between 0 and 4"},
    {ON_COMPLETIONS, "{\"echo\":\"x\"}", NULL, "echo: expected a boolean"},
    {ON_COMPLETIONS, "{\"prompt\":7}", NULL,
     "prompt: expected a string, an array of strings, of token ids, or of arrays of token ids"},
    {ON_COMPLETIONS, "{\"prompt\":[\"a\",[1]]}", NULL,
     "prompt: expected a string, an array of strings, of token ids, or of arrays of token ids"},
    {ON_COMPLETIONS, "{\"prompt\":[\"a\",\"b\",\"c\",\"d\"]}", NULL,
     "prompt: 4 prompts, at most 3 (limits.max_prompts)"},
    {ON_COMPLETIONS, "{\"prompt\":[1,384]}", NULL, "prompt: token 384 at 1 is not in the vocabulary of 384"},
    {ON_COMPLETIONS, "{\"prompt\":[[1],[]]}", NULL, "prompt: the array is empty"},
    {ON_COMPLETIONS, "{\"messages\":[]}", NULL, "messages: unknown field"},
    {ON_CHAT, "{\"max_tokens\":0}", NULL, "max_tokens: must be between 1 and 2147483647"},
    {ON_CHAT, "{\"max_completion_tokens\":\"5\"}", NULL, "max_completion_tokens: expected an integer"},
    {ON_CHAT, "{\"logprobs\":1}", NULL, "logprobs: expected a boolean"},
    {ON_CHAT, "{\"top_logprobs\":2}", NULL, "top_logprobs: only with logprobs true"},
    {ON_CHAT, "{\"logprobs\":true,\"top_logprobs\":4}", NULL, "top_logprobs: must be between 0 and 3"},
    {ON_CHAT, "{\"prompt\":\"x\"}", NULL, "prompt: unknown field"},
    {ON_RESPONSES, "{\"max_output_tokens\":0}", NULL, "max_output_tokens: must be between 1 and 2147483647"},
    {ON_RESPONSES, "{\"max_tokens\":5}", NULL, "max_tokens: unknown field"},
    {ON_RESPONSES, "{\"include\":[7]}", NULL, "include: expected an array of strings"},
    {ON_RESPONSES, "{\"include\":[\"file_search_call.results\"]}", NULL,
     "include: knows message.output_text.logprobs and reasoning.encrypted_content (others are not supported)"},
    {ON_RESPONSES, "{\"top_logprobs\":2}", NULL, "top_logprobs: only with message.output_text.logprobs in include"},
    {ON_RESPONSES, "{\"truncation\":\"left\"}", NULL, "truncation: must be auto or disabled"},
    {ON_RESPONSES, "{\"instructions\":[]}", NULL, "instructions: expected a string"},
    {ON_RESPONSES, "{\"metadata\":\"x\"}", NULL, "metadata: expected an object"},
};

TEST(request_fields_with_a_wrong_value)
{
    struct requests r;
    REQUIRE(requests_begin(&r));
    r.conf.max_stop = 2;
    r.conf.max_stop_bytes = 4;
    r.conf.max_logprobs = 3;
    r.conf.max_n = 4;
    r.conf.max_prompts = 3;
    check_refused(&r, wrong, DEQ_COUNT(wrong));
    struct request_error err;
    CHECK_EQ(refusal(&r, ON_COMPLETIONS, "{\"model\":\"other\"}", &err),
             "model: \"other\" is not served here; \"tiny\" is");
    CHECK_EQ(err.status, 404);
    CHECK_EQ(err.code, "model_not_found");
    requests_end(&r);
}

/* Each value at the end of its range, and where it goes. */
TEST(request_fields_at_their_ends)
{
    static const char body[] =
        "{\"model\":\"tiny\",\"temperature\":0,\"top_p\":1.0,\"stream\":true,\"stop\":[\"\",\"ab\"],"
        "\"presence_penalty\":-2,"
        "\"frequency_penalty\":2,\"logit_bias\":{\"383\":-100},\"seed\":-9223372036854775808,\"user\":\"u\","
        "\"top_k\":-1,"
        "\"min_p\":1,\"repetition_penalty\":0.01,\"stop_token_ids\":[0,5.0],\"ignore_eos\":true,\"min_tokens\":3,"
        "\"return_tokens_as_token_ids\":true,\"truncate_prompt_tokens\":2,\"priority\":-20,\"cache_salt\":\"s\","
        "\"cache\":\"off\",\"logprobs\":0,\"logprob_token_ids\":[],\"deadline_ms\":86400000,\"n\":2,"
        "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":false},\"return_token_ids\":true,"
        "\"include\":[\"deq.tokens\",\"deq.trace\"],\"max_tokens\":3,\"best_of\":2,\"echo\":false,\"prompt\":[1,2,3]}";
    struct requests r;
    struct completion_request q;
    struct request_error err = {0};
    REQUIRE(requests_begin(&r));
    const bool ok = request_completion(&r.context, ON_COMPLETIONS, body, sizeof body - 1, &q, &err);
    CHECK_MSG(ok, "%s", err.message);
    REQUIRE(ok);
    CHECK(q.temperature == 0 && q.top_p == 1 && q.min_p == 1 && q.repetition_penalty == 0.01f &&
          q.presence_penalty == -2 &&
          q.frequency_penalty == 2 && q.top_k == -1);
    CHECK(q.n_stops == 1 && q.stop_len[0] == 2 && !memcmp(q.stop[0], "ab", 2)); /* an empty one asks for nothing */
    CHECK(q.n_bias == 1 && q.bias[0].token == 383 && q.bias[0].bias == -100);
    CHECK(q.seed_given && q.seed == INT64_MIN && q.user_hash && q.stop_ids.n == 2 && q.stop_ids.ids[1] == 5);
    CHECK(q.stream && q.ignore_eos && q.tokens_as_ids && q.token_ids && q.telemetry && q.include_usage &&
          !q.continuous_usage);
    CHECK(q.min_tokens == 3 && q.max_tokens == 3 && q.max_given && q.n == 2 && q.best_of == 2 && q.logprobs == 0);
    CHECK(q.priority == -20 && q.deadline_ms == 86400000 && q.cache == DEQ_CACHE_OFF && q.salt.len == 1);
    /* of a prompt that is cut the end stays */
    CHECK(q.n_prompts == 1 && q.prompts[0].n == 2 && q.prompts[0].ids[0] == 2);
    completion_request_free(&q);
    requests_end(&r);
}
