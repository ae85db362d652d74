/* Bodies of requests: damaged at random they are refused with a reason or accepted within all bounds, never anything else */
#include "server/api/request.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

static const char *const bodies[] = {
    "{\"prompt\":\"Hello\",\"max_tokens\":5,\"temperature\":0.5,\"top_p\":0.9,\"n\":2,\"best_of\":3,\"stop\":[\"a\",\"b\"],\"seed\":-7}",
    "{\"prompt\":[1,2,3],\"echo\":true,\"logprobs\":3,\"max_tokens\":0,\"model\":\"tiny\"}",
    "{\"prompt\":[[1,2],[3]],\"stream\":true,\"stream_options\":{\"include_usage\":true},\"logit_bias\":{\"5\":-100,\"6\":2.5}}",
    "{\"prompt\":[\"a\",\"b\"],\"deq\":{\"tol\":0.01,\"max_iter\":8,\"min_iter\":2,\"solver\":\"picard\",\"window\":4,\"warm_start\":\"zero\",\"preset\":\"fast\"}}",
    "{\"prompt\":\"x\",\"presence_penalty\":1,\"frequency_penalty\":-1,\"repetition_penalty\":1.2,\"top_k\":5,\"min_p\":0.1,\"stop_token_ids\":[7,8],\"min_tokens\":2}",
    "{\"prompt\":\"x\",\"cache\":\"approximate\",\"cache_salt\":\"s\",\"include\":[\"deq.tokens\"],\"priority\":-3,\"deadline_ms\":100,\"user\":\"u\",\"truncate_prompt_tokens\":3}",
};
static const char *const others[] = {
    [ON_CHAT] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}],\"logprobs\":true,\"top_logprobs\":2}",
    [ON_RESPONSES] = "{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"hi\"}]},{\"type\":\"message\","
                     "\"id\":\"m\",\"role\":\"assistant\",\"content\":\"a\"}],\"instructions\":\"b\",\"metadata\":{\"c\":\"d\"},"
                     "\"max_output_tokens\":5,\"truncation\":\"auto\",\"text\":{\"format\":{\"type\":\"text\"}}}",
};
static const char *const splices[] = {"null", "-1", "1e999", "1e300", "99999999999999999999", "\"\"", "[]", "{}", "[[]]", "true", "0.5", "\"\\u0000\"", "\xff", "\\", "[1,\"a\"]", ",", "\"", "}"};

static void check_accepted(const struct completion_request *r, const struct conf *c, uint32_t vocab, uint32_t max_positions)
{
    CHECK(r->n_prompts >= 1 && r->n_prompts <= c->max_prompts && r->n >= 1 && r->best_of >= r->n && r->best_of <= c->max_n);
    CHECK(r->max_tokens >= 0 && r->temperature >= 0 && r->temperature <= 2 && r->top_p >= 0 && r->top_p <= 1 && r->min_p >= 0 && r->min_p <= 1);
    CHECK(r->logprobs >= -1 && r->logprobs <= c->max_logprobs && r->n_stops <= c->max_stop && r->min_tokens <= r->max_tokens && r->priority >= -20 && r->priority <= 20);
    CHECK(r->solve.tol >= c->tol_min && r->solve.tol <= c->tol_max && r->solve.window >= 1 && r->solve.window <= c->max_window && r->solve.max_iter <= c->max_iter_max &&
          r->solve.min_iter <= r->solve.max_iter);
    for (size_t i = 0; i < r->n_prompts; i++) {
        CHECK(r->prompts[i].n >= 1 && r->prompts[i].n <= max_positions && (!r->max_given || r->prompts[i].n + (uint64_t)r->max_tokens <= max_positions));
        for (size_t k = 0; k < r->prompts[i].n; k++)
            CHECK(r->prompts[i].ids[k] < vocab);
    }
    for (size_t i = 0; i < r->n_bias; i++)
        CHECK(r->bias[i].token < vocab && fabsf(r->bias[i].bias) <= 100);
    for (size_t i = 0; i < r->stop_ids.n; i++)
        CHECK(r->stop_ids.ids[i] < vocab);
}

/* The small model, asked with the defaults and a template of chats. */
struct fixture {
    struct deq_model *model;
    struct conf conf;
    struct request_context context;
};

static bool set_up(struct fixture *f)
{
    *f = (struct fixture){0};
    struct deq_err err;
    const bool ok = deq_model_load("tests/golden/tiny", &f->model, &err) == DEQ_OK &&
                    deq_opt_defaults(&conf_table, &f->conf, &err) == DEQ_OK;
    snprintf(f->conf.chat_message, sizeof f->conf.chat_message, "{role}: {content}\n");
    f->context = (struct request_context){
        .model = f->model, .conf = &f->conf, .model_name = "tiny", .max_positions = 200, .max_rows = 256};
    return ok;
}

static void tear_down(struct fixture *f)
{
    deq_model_free(f->model);
}

TEST(request_damaged_at_random)
{
    struct fixture f;
    REQUIRE(set_up(&f));
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
        if (request_completion(&f.context, endpoint, text, n, &q, &err)) {
            accepted++;
            check_accepted(&q, &f.conf, 384, 200);
            completion_request_free(&q);
        } else {
            refused++;
            CHECK_MSG((err.status == 400 || err.status == 404) && err.code && err.message[0], "%d: %.*s", err.status, (int)n, text);
        }
    }
    CHECK_MSG(accepted > 3000 && refused > 3000, "%zu accepted, %zu refused", accepted, refused);
    /* memory runs out at every place: refused, nothing is lost (the leak checker of the sanitizer build watches) */
    for (size_t i = 0; i < DEQ_COUNT(bodies) + 2; i++)
        for (uint64_t nth = 1; nth < 60; nth++) {
            const enum endpoint endpoint = i < DEQ_COUNT(bodies) ? ON_COMPLETIONS : (enum endpoint)(i - DEQ_COUNT(bodies) + ON_CHAT);
            const char *body = endpoint ? others[endpoint] : bodies[i];
            struct completion_request q;
            struct request_error err;
            deq_mem_count_plain(true);
            deq_mem_fault(nth, false);
            const bool ok = request_completion(&f.context, endpoint, body, strlen(body), &q, &err);
            deq_mem_fault(0, false);
            deq_mem_count_plain(false);
            if (ok)
                completion_request_free(&q);
            else
                CHECK(err.status == 503 && !strcmp(err.code, "out_of_memory"));
        }
    tear_down(&f);
}

static const char *refused_for(const struct request_context *c, bool chat, const char *body, struct request_error *err)
{
    struct completion_request r;
    if (request_completion(c, chat, body, strlen(body), &r, err)) {
        completion_request_free(&r);
        return "";
    }
    return err->param;
}

TEST(request_fields_of_other_servers)
{
    struct fixture f;
    struct request_error err;
    REQUIRE(set_up(&f));
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
        const char *param = refused_for(&f.context, true, body, &err);
        CHECK_MSG(!strcmp(param, cases[i][1]), "%s: refused for \"%s\", not \"%s\"", body, param, cases[i][1]);
    }
    strcpy(f.conf.unknown_fields, "ignore");
    CHECK(!*refused_for(&f.context, false, "{\"nobody_knows\":0,\"deq\":{\"nor_this\":[]}}", &err));
    CHECK(!strcmp(refused_for(&f.context, false, "{\"nobody_knows\":0,\"suffix\":\"x\"}", &err), "suffix"));
    tear_down(&f);
}

TEST(request_without_a_seed_draws_one)
{
    struct fixture f;
    struct request_error err;
    int64_t seeds[8] = {0};
    REQUIRE(set_up(&f));
    for (size_t i = 0; i < DEQ_COUNT(seeds); i++) {
        struct completion_request r;
        if (i == 6)
            strcpy(f.conf.sampling_seed, "12");
        const char *body = i % 2 ? "{\"seed\":null}" : i == 4 ? "{\"seed\":-9223372036854775808}" : "{}";
        const bool ok = request_completion(&f.context, false, body, strlen(body), &r, &err);
        CHECK(ok);
        if (!ok)
            continue;
        seeds[i] = r.seed;
        completion_request_free(&r);
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK(seeds[i] >= 0 && seeds[i] < INT64_C(1) << 53); /* whole in every client's JSON */
        for (size_t k = 0; k < i; k++)
            CHECK(seeds[k] != seeds[i]);
    }
    CHECK(seeds[4] == INT64_MIN && seeds[6] == 12 && seeds[7] == 12);
    tear_down(&f);
}

/* NUL is a character of a text, and no end of a name */
TEST(request_names_end_at_their_end)
{
    struct fixture f;
    struct request_error err;
    REQUIRE(set_up(&f));
    CHECK(!refused_for(&f.context, false, "{\"prompt\": \"a\\u0000b\", \"model\": \"tiny\", \"stop\": \"\\u0000\"}", &err)[0]);
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
        const char *param = refused_for(&f.context, t[i].chat, t[i].body, &err);
        CHECK_MSG(!strcmp(param, t[i].param), "%s: \"%s\"", t[i].body, param);
    }
    tear_down(&f);
}
