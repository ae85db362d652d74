/* server/api/request_equilibria.c: one prompt or many inputs, which states of them, in which form. */
#include "tests/unit/requests.h"
#include "tests/unit/test.h"

static struct requests fixture;

/* The code and field of the refusal, "code field", or "". */
static const char *why(bool embeddings, const char *body)
{
    static char text[128];
    struct equilibria_request r;
    struct request_error e;
    text[0] = 0;
    if (request_equilibria(&fixture.context, embeddings, body, strlen(body), &r, &e))
        equilibria_request_free(&r);
    else
        snprintf(text, sizeof text, "%s %s", e.code, e.param);
    return text;
}

TEST(request_equilibria_forms)
{
    static const struct {
        bool embeddings;
        const char *body;
        size_t prompts, first; /* how many, and tokens of the first; 0: of one text */
        bool all, mean, base64;
    } cases[] = {
        {false, "{}", 1, 1, false, false, false},
        {false, "{\"prompt\":[1,2,3]}", 1, 3, false, false, false},
        {false, "{\"prompt\":[1,2,3],\"positions\":\"all\",\"encoding_format\":\"base64\"}", 1, 3, true, false, true},
        {false, "{\"prompt\":[1,2],\"pooling\":\"mean\",\"positions\":\"last\"}", 1, 2, false, true, false},
        {false, "{\"prompt\":[1,2],\"pooling\":\"last\"}", 1, 2, false, false, false},
        {true, "{\"input\":\"A\",\"user\":\"me\"}", 1, 0, false, true, false},
        {true, "{\"input\":[[1,2],[3]],\"pooling\":\"last\",\"encoding_format\":\"float\"}", 2, 2, false, false, false},
        {true, "{\"input\":[\"a\",\"b\",\"c\"],\"model\":\"tiny\"}", 3, 0, false, true, false},
        {true, "{\"input\":[5,6]}", 1, 2, false, true, false},
    };
    REQUIRE(requests_begin(&fixture));
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct equilibria_request r;
        struct request_error e;
        const char *const body = cases[i].body;
        if (!request_equilibria(&fixture.context, cases[i].embeddings, body, strlen(body), &r, &e)) {
            CHECK_MSG(false, "%s: %s", body, e.message);
            continue;
        }
        CHECK_MSG(r.n_prompts == cases[i].prompts && (!cases[i].first || r.prompts[0].n == cases[i].first) &&
                      r.all_positions == cases[i].all && r.mean == cases[i].mean && r.base64 == cases[i].base64,
                  "%s", body);
        equilibria_request_free(&r);
    }
    requests_end(&fixture);
}

TEST(request_equilibria_refusals)
{
    static const struct {
        bool embeddings;
        const char *body, *expected;
    } cases[] = {
        {false, "{\"prompt\":[]}", "invalid_value prompt"},
        {false, "{\"prompt\":[\"a\"]}", "invalid_type prompt"},
        {false, "{\"prompt\":{}}", "invalid_type prompt"},
        {false, "{\"prompt\":[999999]}", "invalid_token_id prompt"},
        {false, "{\"positions\":\"first\"}", "invalid_value positions"},
        {false, "{\"positions\":1}", "invalid_type positions"},
        {false, "{\"pooling\":\"max\"}", "invalid_value pooling"},
        {false, "{\"pooling\":\"mean\",\"positions\":\"all\"}", "invalid_value positions"},
        {false, "{\"encoding_format\":\"hex\"}", "invalid_value encoding_format"},
        {false, "{\"input\":\"a\"}", "unknown_parameter input"},
        {false, "{\"deq\":{\"tol\":9}}", "invalid_value deq.tol"},
        {false, "{\"jacobian\":1}", "invalid_type jacobian"},
        {true, "{\"input\":\"a\",\"jacobian\":true}", "unknown_parameter jacobian"},
        {true, "{}", "missing_parameter input"},
        {true, "{\"input\":[]}", "invalid_value input"},
        {true, "{\"input\":[\"a\",1]}", "invalid_type input"},
        {true, "{\"input\":[[1],[]]}", "invalid_value input"},
        {true, "{\"input\":\"a\",\"dimensions\":3}", "unsupported_parameter dimensions"},
        {true, "{\"input\":\"a\",\"dimensions\":0}", "invalid_value dimensions"},
        {true, "{\"input\":\"a\",\"user\":1}", "invalid_type user"},
        {true, "{\"input\":\"a\",\"positions\":\"all\"}", "unknown_parameter positions"},
        {true, "{\"input\":\"a\",\"model\":\"b\"}", "model_not_found model"},
    };
    REQUIRE(requests_begin(&fixture));
    for (size_t i = 0; i < DEQ_COUNT(cases); i++)
        CHECK_EQ(why(cases[i].embeddings, cases[i].body), cases[i].expected);
    fixture.context.max_positions = 3;
    CHECK_EQ(why(true, "{\"input\":[[1,2,3],[1,2,3,4]]}"), "context_length_exceeded input");
    CHECK_EQ(why(false, "{\"prompt\":[1,2,3]}"), "");
    fixture.conf.max_logits_bytes = 2 * deq_model_info(fixture.context.model).state_dim * sizeof(float);
    CHECK_EQ(why(false, "{\"prompt\":[1,2],\"positions\":\"all\"}"), "");
    CHECK_EQ(why(false, "{\"prompt\":[1,2,3],\"positions\":\"all\"}"), "invalid_value positions");
    CHECK_EQ(why(true, "{\"input\":[[1],[2],[3]]}"), "invalid_value input");
    requests_end(&fixture);
}
