/* server/api/request.c, and bodies of requests as such: damaged at random they are refused with a reason or accepted
 * within all bounds, never anything else. */
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/requests.h"
#include "tests/unit/test.h"

static const char *const bodies[] = {
    "{\"prompt\":\"Hello\",\"max_tokens\":5,\"temperature\":0.5,\"top_p\":0.9,\"n\":2,\"best_of\":3,"
    "\"stop\":[\"a\",\"b\"],\"seed\":-7}",
    "{\"prompt\":[1,2,3],\"echo\":true,\"logprobs\":3,\"max_tokens\":0,\"model\":\"tiny\"}",
    "{\"prompt\":[[1,2],[3]],\"stream\":true,\"stream_options\":{\"include_usage\":true},"
    "\"logit_bias\":{\"5\":-100,\"6\":2.5}}",
    "{\"prompt\":[\"a\",\"b\"],\"deq\":{\"tol\":0.01,\"max_iter\":8,\"min_iter\":2,\"solver\":\"picard\",\"window\":4,"
    "\"warm_start\":\"zero\",\"preset\":\"fast\"}}",
    "{\"prompt\":\"x\",\"presence_penalty\":1,\"frequency_penalty\":-1,\"repetition_penalty\":1.2,\"top_k\":5,"
    "\"min_p\":0.1,\"stop_token_ids\":[7,8],\"min_tokens\":2}",
    "{\"prompt\":\"x\",\"cache\":\"approximate\",\"cache_salt\":\"s\",\"include\":[\"deq.tokens\"],\"priority\":-3,"
    "\"deadline_ms\":100,\"user\":\"u\",\"truncate_prompt_tokens\":3}",
};
static const char *const others[] = {
    [ON_CHAT] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":["
                "{\"type\":\"text\",\"text\":\"a\"}]}],\"logprobs\":true,\"top_logprobs\":2}",
    [ON_RESPONSES] =
        "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"hi\"}]},{\"type\":\"message\","
        "\"id\":\"m\",\"role\":\"assistant\",\"content\":\"a\"}],\"instructions\":\"b\",\"metadata\":{\"c\":\"d\"},"
        "\"max_output_tokens\":5,\"truncation\":\"auto\",\"text\":{\"format\":{\"type\":\"text\"}}}",
};
static const char *const splices[] = {"null", "-1", "1e999", "1e300", "99999999999999999999", "\"\"", "[]", "{}",
                                      "[[]]", "true", "0.5", "\"\\u0000\"", "\xff", "\\", "[1,\"a\"]", ",", "\"", "}"};

static void check_accepted(const struct completion_request *r, const struct conf *c, uint32_t vocab,
                           uint32_t max_positions)
{
    CHECK(r->n_prompts >= 1 && r->n_prompts <= c->max_prompts && r->n >= 1 && r->best_of >= r->n &&
          r->best_of <= c->max_n);
    CHECK(r->max_tokens >= 0 && r->temperature >= 0 && r->temperature <= 2 && r->top_p >= 0 && r->top_p <= 1 &&
          r->min_p >= 0 && r->min_p <= 1);
    CHECK(r->logprobs >= -1 && r->logprobs <= c->max_logprobs && r->n_stops <= c->max_stop &&
          r->min_tokens <= r->max_tokens && r->priority >= -20 && r->priority <= 20);
    CHECK(r->solve.tol >= c->tol_min && r->solve.tol <= c->tol_max && r->solve.window >= 1 &&
          r->solve.window <= c->max_window && r->solve.max_iter <= c->max_iter_max &&
          r->solve.min_iter <= r->solve.max_iter);
    for (size_t i = 0; i < r->n_prompts; i++) {
        CHECK(r->prompts[i].n >= 1 && r->prompts[i].n <= max_positions &&
              (!r->max_given || r->prompts[i].n + (uint64_t)r->max_tokens <= max_positions));
        for (size_t k = 0; k < r->prompts[i].n; k++)
            CHECK(r->prompts[i].ids[k] < vocab);
    }
    for (size_t i = 0; i < r->n_bias; i++)
        CHECK(r->bias[i].token < vocab && fabsf(r->bias[i].bias) <= 100);
    for (size_t i = 0; i < r->stop_ids.n; i++)
        CHECK(r->stop_ids.ids[i] < vocab);
}

TEST(request_damaged_at_random)
{
    struct requests fixture;
    REQUIRE(requests_begin(&fixture));
    strcpy(fixture.conf.chat_message, "{role}: {content}\n");
    fixture.context.max_rows = 256;
    const struct request_context *const context = &fixture.context;
    size_t accepted = 0, refused = 0;
    for (uint64_t round = 0; round < 30000; round++) {
        const enum endpoint endpoint = round % 7 == 6 ? ON_CHAT : round % 7 == 5 ? ON_RESPONSES : ON_COMPLETIONS;
        const char *from = endpoint ? others[endpoint] : bodies[round % DEQ_COUNT(bodies)];
        char text[600];
        size_t n = strlen(from);
        uint64_t r = 0;
#define DRAW(k) deq_rng_below(round, 1, r++, (k))
        memcpy(text, from, n);
        for (uint64_t k = DRAW(4); k > 0 && n; k--) { /* bytes changed, cut out, put in */
            const size_t at = DRAW(n);
            const uint64_t what = DRAW(4), few = DRAW(8); /* DEQ_MIN takes its arguments twice: draw before */
            if (what == 0) {
                text[at] = (char)DRAW(256);
            } else if (what == 1) {
                const size_t len = DEQ_MIN(few, n - at);
                memmove(text + at, text + at + len, n - at - len);
                n -= len;
            } else {
                const char *s = splices[DRAW(DEQ_COUNT(splices))];
                const size_t len = strlen(s), over = what == 2 ? DEQ_MIN(few, n - at) : 0;
                if (n + len < sizeof text) {
                    memmove(text + at + len, text + at + over, n - at - over);
                    memcpy(text + at, s, len);
                    n += len - over;
                }
            }
        }
        struct completion_request q;
        struct request_error err;
        if (request_completion(context, endpoint, text, n, &q, &err)) {
            accepted++;
            check_accepted(&q, &fixture.conf, 384, 200);
            completion_request_free(&q);
        } else {
            refused++;
            CHECK_MSG((err.status == 400 || err.status == 404) && err.code && err.message[0], "%d: %.*s", err.status,
                      (int)n, text);
        }
    }
    CHECK_MSG(accepted > 3000 && refused > 3000, "%zu accepted, %zu refused", accepted, refused);
    /* memory runs out at every place: refused, nothing is lost (the leak checker of the sanitizer build watches) */
    for (size_t i = 0; i < DEQ_COUNT(bodies) + 2; i++)
        for (uint64_t nth = 1; nth < 60; nth++) {
            const enum endpoint endpoint = i < DEQ_COUNT(bodies) ? ON_COMPLETIONS
                                                                     : (enum endpoint)(i - DEQ_COUNT(bodies) + ON_CHAT);
            const char *body = endpoint ? others[endpoint] : bodies[i];
            struct completion_request q;
            struct request_error err;
            deq_mem_count_plain(true);
            deq_mem_fault(nth, false);
            const bool ok = request_completion(context, endpoint, body, strlen(body), &q, &err);
            deq_mem_fault(0, false);
            deq_mem_count_plain(false);
            if (ok)
                completion_request_free(&q);
            else
                CHECK(err.status == 503 && !strcmp(err.code, "out_of_memory"));
        }
    requests_end(&fixture);
}

/* The field that the body is refused for, "" when it is taken. */
static const char *refused_for(const struct requests *r, enum endpoint at, const char *body)
{
    static struct request_error err;
    (void)refusal(r, at, body, &err);
    return err.param;
}

TEST(request_fields_of_other_servers)
{
    struct requests r;
    REQUIRE(requests_begin(&r));
    strcpy(r.conf.chat_message, "{role}: {content}\n");
    /* body of a chat without its messages, and the field that it is refused for, "" when it is not */
    static const char *const cases[][2] = {
        {"\"store\":null,\"nobody_knows\":null,\"deq\":{\"tol\":null,\"x\":null},\"logit_bias\":{\"5\":null}", ""},
        {"\"store\":false,\"n\":1.0,\"length_penalty\":1.0,\"stop\":\"\"", ""},
        {"\"response_format\":{\"type\":\"text\",\"json_schema\":null}", ""},
        {"\"store\":true", "store"},
        {"\"metadata\":{\"a\":[1e999]},\"prompt_cache_key\":\"k\"", ""},
        {"\"metadata\":\"a\"", "metadata"},
        {"\"max_tokens\":1e30", "max_tokens"},
        {"\"seed\":-9223372036854775809", "seed"},
        {"\"deq\":{\"max_iter\":1e999}", "deq.max_iter"},
        {"\"stop_token_ids\":[1.0,18446744073709551616]", "stop_token_ids"},
        {"\"nobody_knows\":0", "nobody_knows"},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        char body[400];
        snprintf(body, sizeof body,
                 "{%s,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                 "{\"role\":\"assistant\",\"content\":null,\"refusal\":null}]}",
                 cases[i][0]);
        const char *param = refused_for(&r, ON_CHAT, body);
        CHECK_MSG(!strcmp(param, cases[i][1]), "%s: refused for \"%s\", not \"%s\"", body, param, cases[i][1]);
    }
    strcpy(r.conf.unknown_fields, "ignore");
    CHECK(!*refused_for(&r, ON_COMPLETIONS, "{\"nobody_knows\":0,\"deq\":{\"nor_this\":[]}}"));
    CHECK(!strcmp(refused_for(&r, ON_COMPLETIONS, "{\"nobody_knows\":0,\"suffix\":\"x\"}"), "suffix"));
    requests_end(&r);
}

/* NUL is a character of a text, and no end of a name */
TEST(request_names_end_at_their_end)
{
    struct requests r;
    REQUIRE(requests_begin(&r));
    strcpy(r.conf.chat_message, "{role}: {content}\n");
    CHECK(!refused_for(&r, ON_COMPLETIONS,
                       "{\"prompt\": \"a\\u0000b\", \"model\": \"tiny\", \"stop\": \"\\u0000\"}")[0]);
    static const struct {
        bool chat;
        const char *body, *param;
    } t[] = {
        {false, "{\"prompt\": \"a\", \"model\": \"tiny\\u0000x\"}", "model"},
        {false, "{\"prompt\": \"a\", \"deq\": {\"solver\": \"picard\\u0000\"}}", "deq.solver"},
        {false, "{\"prompt\": \"a\", \"deq\": {\"warm_start\": \"zero\\u0000\"}}", "deq.warm_start"},
        {false, "{\"prompt\": \"a\", \"deq\": {\"preset\": \"fast\\u0000\"}}", "deq.preset"},
        {false, "{\"prompt\": \"a\", \"cache\": \"off\\u0000\"}", "cache"},
        {false, "{\"prompt\": \"a\", \"include\": [\"deq.tokens\\u0000\"]}", "include"},
        {true, "{\"messages\": [{\"role\": \"user\\u0000\", \"content\": \"a\"}]}", "messages[0].role"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        const char *param = refused_for(&r, t[i].chat ? ON_CHAT : ON_COMPLETIONS, t[i].body);
        CHECK_MSG(!strcmp(param, t[i].param), "%s: \"%s\"", t[i].body, param);
    }
    requests_end(&r);
}

/* The other endpoints' bodies: what is wrong, and what is said of it. */
TEST(request_of_one_prompt_in_an_array)
{
    static const char *const one[] = {"{\"prompt\":[\"Hello\"]}", "{\"prompt\":[[1,2,3]]}", "{\"prompt\":[1,2,3]}"};
    struct requests r;
    struct request_error err;
    REQUIRE(requests_begin(&r));
    for (size_t i = 0; i < DEQ_COUNT(one); i++) {
        struct completion_request q;
        REQUIRE(request_completion(&r.context, ON_COMPLETIONS, one[i], strlen(one[i]), &q, &err));
        CHECK_EQ(q.n_prompts, (size_t)1);
        CHECK(i ? q.prompts[0].n == 3 && q.prompts[0].ids[2] == 3 : q.prompts[0].n > 0);
        completion_request_free(&q);
    }
    requests_end(&r);
}

TEST(request_other_bodies)
{
    static const struct {
        char of; /* 'l'ogits, 't'okenize, 'd'etokenize */
        const char *body, *says;
    } t[] = {
        {'l', "{}", ""}, /* the start of a text */
        {'l', "{\"prompt\":[1,2],\"positions\":\"all\"}", ""},
        {'l', "{\"prompt\":{}}", "prompt: expected a string or an array of token ids"},
        {'l', "{\"positions\":7}", "positions: expected \"last\" or \"all\""},
        {'l', "{\"positions\":\"first\"}", "positions: must be \"last\" or \"all\""},
        {'l', "{\"deq\":{\"tol\":9}}", "deq.tol: must be between 1e-05 and 0.5"},
        {'l', "{\"prompt\":[1,2,3],\"positions\":\"all\"}",
         "positions: 4608 bytes of logits exceed limits.max_logits_bytes 4000"},
        {'l', "{\"max_tokens\":1}", "max_tokens: unknown field"},
        {'t', "{\"prompt\":\"a\"}", ""},
        {'t', "{\"content\":\"a\",\"add_special\":true}", ""},
        {'t', "{}", "prompt: missing"},
        {'t', "{\"prompt\":[1]}", "prompt: expected a string"},
        {'t', "{\"parse_special\":1,\"prompt\":\"a\"}", "parse_special: expected a boolean"},
        {'d', "{\"tokens\":[1,2]}", ""},
        {'d', "{}", "tokens: missing"},
        {'d', "{\"tokens\":[384]}", "tokens: token 384 at 0 is not in the vocabulary of 384"},
        /* they are ids of 64 bits, not what is left of them */
        {'d', "{\"tokens\":[1,4294967297]}", "tokens: token 4294967297 at 1 is not in the vocabulary of 384"},
        {'d', "{\"tokens\":[-4294967295]}", "tokens: token -4294967295 at 0 is not in the vocabulary of 384"},
        {'d', "{\"model\":\"a\\u001f\\u007f\xc2\x80~\"}", "model: \"a????~\" is not served here; \"tiny\" is"},
        {'d', "{\"tokens\":[1e300]}", "tokens: token above 9223372036854775807 at 0 is not in the vocabulary of 384"},
        {'d', "{\"tokens\":\"a\"}", "tokens: expected an array of token ids"},
    };
    struct requests r;
    REQUIRE(requests_begin(&r));
    r.conf.max_logits_bytes = 4000;
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        const struct request_context *c = &r.context;
        struct request_error err = {0};
        struct logits_request logits = {0};
        struct tokenize_request tokens = {0};
        const size_t n = strlen(t[i].body);
        const bool ok = t[i].of == 'l'   ? request_logits(c, t[i].body, n, &logits, &err)
                        : t[i].of == 't' ? request_tokenize(c, t[i].body, n, &tokens, &err)
                                         : request_detokenize(c, t[i].body, n, &tokens, &err);
        CHECK(ok == !err.status && ok == (logits.prompt.n || tokens.tokens.n));
        CHECK_EQ(err.message, t[i].says);
        deq_tokens_free(&logits.prompt);
        deq_tokens_free(&tokens.tokens);
    }
    requests_end(&r);
}
