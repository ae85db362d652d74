/* server/api/request_form.c: which body has which form, that a null in a schema is a value, and what is refused. */
#include "tests/unit/requests.h"
#include "tests/unit/test.h"

#define SCHEMA(text) "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":" text "}}}"
#define STRUCTURED(text) "{\"structured_outputs\":" text "}"

static const struct refused wrong[] = {
    {ON_COMPLETIONS, "{\"response_format\":[]}", NULL, "response_format: expected an object"},
    {ON_COMPLETIONS, "{\"response_format\":{\"type\":1}}", NULL, "response_format.type: expected a string"},
    {ON_COMPLETIONS, "{\"response_format\":{\"type\":\"json\"}}", NULL,
     "response_format.type: must be text, json_object or json_schema"},
    {ON_COMPLETIONS, "{\"response_format\":{\"type\":\"json_schema\"}}", NULL, "response_format.json_schema: missing"},
    {ON_COMPLETIONS, "{\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"strict\":1}}}", NULL,
     "response_format.json_schema.strict: expected a boolean"},
    {ON_COMPLETIONS, SCHEMA("[]"), NULL, "response_format.json_schema.schema: expected a JSON Schema"},
    {ON_COMPLETIONS, SCHEMA("{\"not\":{}}"), NULL,
     "response_format.json_schema.schema: not: this keyword is not supported"},
    /* a null in a schema is a value: this keyword is there */
    {ON_COMPLETIONS, SCHEMA("{\"not\":null}"), NULL,
     "response_format.json_schema.schema: not: this keyword is not supported"},
    {ON_COMPLETIONS, STRUCTURED("{\"json\":{\"not\":null}}"), NULL,
     "structured_outputs.json: not: this keyword is not supported"},
    {ON_COMPLETIONS, STRUCTURED("{\"regex\":\"a(\"}"), NULL, "structured_outputs.regex: ( without ), at byte 2"},
    {ON_COMPLETIONS, STRUCTURED("{\"choice\":[\"a\",null]}"), NULL,
     "structured_outputs.choice: expected an array of strings"},
    {ON_COMPLETIONS, STRUCTURED("{\"regex\":\"a\",\"json_object\":true}"), NULL,
     "structured_outputs: only one of choice, regex, json, grammar and json_object"},
    {ON_COMPLETIONS, "{\"structured_outputs\":{\"regex\":\"a\"},\"ignore_eos\":true}", NULL,
     "ignore_eos: an answer that fits a form ends where it is whole"},
};

TEST(request_form_refused)
{
    struct requests r;
    REQUIRE(requests_begin(&r));
    check_refused(&r, wrong, DEQ_COUNT(wrong));
    requests_end(&r);
}

TEST(request_form_taken)
{
    static const struct {
        const char *body;
        bool form;
    } t[] = {
        {"{\"response_format\":{\"type\":\"text\"}}", false},
        {"{\"response_format\":null,\"structured_outputs\":{}}", false},
        {STRUCTURED("{\"json_object\":false,\"regex\":null}"), false},
        {"{\"response_format\":{\"type\":\"json_object\"}}", true},
        {SCHEMA("{\"const\":null}"), true},
        {SCHEMA("{\"enum\":[null,{\"a\":null}],\"title\":null}"), true},
        {STRUCTURED("{\"json\":\"{}\"}"), true},
        {STRUCTURED("{\"json\":true}"), true},
        {STRUCTURED("{\"choice\":[\"a\"]}"), true},
        {STRUCTURED("{\"grammar\":\"root ::= [a-z]\"}"), true},
    };
    struct requests r;
    struct request_error err;
    REQUIRE(requests_begin(&r));
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct completion_request q;
        const bool ok = request_completion(&r.context, ON_COMPLETIONS, t[i].body, strlen(t[i].body), &q, &err);
        CHECK_MSG(ok, "%s: %s", t[i].body, err.message);
        CHECK_EQ(ok && q.form, t[i].form);
        if (ok)
            completion_request_free(&q);
    }
    requests_end(&r);
}
