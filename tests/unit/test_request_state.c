/* server/api/request_state.c: the body of /v1/states, and names of states elsewhere. */
#include "server/api/request_impl.h"
#include "tests/unit/requests.h"
#include "tests/unit/test.h"

static const char *why(const struct requests *r, const char *body, struct state_request *ret)
{
    static struct request_error err;
    *ret = (struct state_request){0};
    return request_state(&r->context, body, strlen(body), ret, &err) ? "" : err.message;
}

TEST(request_state_reads_what_it_may)
{
    struct requests r;
    struct state_request s;
    REQUIRE(requests_begin(&r));
    CHECK_EQ(why(&r, "{\"name\": \"a.b\", \"prompt\": [1, 2], \"deq\": {\"tol\": 0.1}}", &s), "");
    CHECK(!strcmp(s.name, "a.b") && !s.state[0] && s.prompt.n == 2 && s.prompt.ids[1] == 2 && s.solve.tol == 0.1f);
    deq_tokens_free(&s.prompt);
    CHECK_EQ(why(&r, "{\"prompt\": \"The\", \"state\": \"before\", \"name\": null}", &s), "");
    CHECK(!s.name[0] && !strcmp(s.state, "before") && s.prompt.n > 0);
    deq_tokens_free(&s.prompt);
    static const char *const bad[][2] = {
        {"{}", "prompt: "},
        {"{\"prompt\": 1}", "prompt: expected a string or an array of token ids"},
        {"{\"prompt\": []}", "prompt: the array is empty"},
        {"{\"prompt\": \"a\", \"name\": \"../a\"}", "name: must be 1 to 96"},
        {"{\"prompt\": \"a\", \"name\": \"a\\u0000\"}", ""},
        {"{\"prompt\": \"a\", \"state\": \"\"}", "state: must be 1 to 96"},
        {"{\"prompt\": \"a\", \"state\": 3}", "state: expected a string"},
        {"{\"prompt\": \"a\", \"x\": 3}", "x: "}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        const char *text = why(&r, bad[i][0], &s);
        CHECK_MSG(*text && !strncmp(text, bad[i][1], strlen(bad[i][1])) && !s.prompt.ids, "%s: %s", bad[i][0], text);
    }
    requests_end(&r);
}

/* Behind a state a prompt may be empty or absent, and does not begin a text; echo has nothing to show. */
TEST(request_completion_behind_a_state)
{
    struct requests r;
    struct request_error err;
    struct completion_request c;
    REQUIRE(requests_begin(&r));
    static const char *const bodies[] = {"{\"state\": \"a\"}", "{\"state\": \"a\", \"prompt\": \"\"}",
                                         "{\"prompt\": [], \"state\": \"a\"}",
                                         "{\"prompt\": [\"\", \"The\"], \"state\": \"a\"}"};
    for (size_t i = 0; i < DEQ_COUNT(bodies); i++) {
        REQUIRE(request_completion(&r.context, ON_COMPLETIONS, bodies[i], strlen(bodies[i]), &c, &err));
        CHECK(!strcmp(c.state, "a") && c.prompts[0].n == 0 && c.n_prompts == (i == 3 ? 2 : 1));
        CHECK(i != 3 || c.prompts[1].n > 0);
        completion_request_free(&c);
    }
    static const struct refused cases[] = {
        {ON_COMPLETIONS, "{\"state\": \"a\", \"echo\": true}", "echo",
         "echo: must be false with state, whose text is not shown"},
        {ON_COMPLETIONS, "{\"state\": \".a\"}", "state",
         "state: must be 1 to 96 of A-Z a-z 0-9 . _ -, no dot first"}};
    check_refused(&r, cases, DEQ_COUNT(cases));
    requests_end(&r);
}

/* Messages follow a state as they follow those before them: what begins a conversation is left out. */
TEST(request_chat_behind_a_state)
{
    static const struct {
        enum endpoint at;
        const char *alone, *behind;
    } t[] = {{ON_CHAT, "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}]}",
              "{\"state\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"ab\"}]}"},
             {ON_RESPONSES, "{\"input\": \"ab\"}", "{\"input\": \"ab\", \"state\": \"a\"}"}};
    struct requests r;
    struct request_error err;
    REQUIRE(requests_begin(&r));
    snprintf(r.conf.chat_message, sizeof r.conf.chat_message, "<{content}>");
    snprintf(r.conf.chat_begin, sizeof r.conf.chat_begin, "%%");
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct completion_request alone, behind;
        REQUIRE(request_completion(&r.context, t[i].at, t[i].alone, strlen(t[i].alone), &alone, &err));
        REQUIRE(request_completion(&r.context, t[i].at, t[i].behind, strlen(t[i].behind), &behind, &err));
        const struct deq_tokens *p = &alone.prompts[0], *q = &behind.prompts[0];
        CHECK(!alone.state[0] && !strcmp(behind.state, "a"));
        CHECK(p->n == q->n + 1 && !memcmp(p->ids + 1, q->ids, q->n * sizeof *q->ids));
        completion_request_free(&alone);
        completion_request_free(&behind);
    }
    requests_end(&r);
}
