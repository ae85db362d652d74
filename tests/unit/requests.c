#include "tests/unit/requests.h"

#include "tests/unit/test.h"

bool requests_begin(struct requests *r)
{
    struct deq_err err = {0};
    *r = (struct requests){0};
    const bool ok = !deq_model_load("tests/golden/tiny", NULL, &r->model, &err) &&
                    !deq_opt_defaults(&conf_table, &r->conf, &err);
    CHECK_MSG(ok, "%s", err.text);
    r->context = (struct request_context){
        .model = r->model, .conf = &r->conf, .model_name = "tiny", .max_positions = 200, .max_rows = 64};
    return ok;
}

void requests_end(struct requests *r)
{
    deq_model_free(r->model);
}

const char *refusal(const struct requests *r, enum endpoint at, const char *body, struct request_error *err)
{
    struct completion_request q;
    *err = (struct request_error){0};
    if (request_completion(&r->context, at, body, strlen(body), &q, err)) {
        completion_request_free(&q);
        return "";
    }
    return err->message;
}

void check_refused(const struct requests *r, const struct refused *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct request_error err;
        const struct refused *t = &cases[i];
        const char *message = refusal(r, t->at, t->body, &err);
        char param[64];
        snprintf(param, sizeof param, "%.*s", (int)strcspn(t->message, ":"), t->message);
        CHECK_MSG(!strcmp(message, t->message), "%s\n  \"%s\", not \"%s\"", t->body, message, t->message);
        CHECK_MSG(err.status == 400 && !strcmp(err.param, t->param ? t->param : param), "%s: %d for \"%s\"", t->body,
                  err.status,
                  err.param);
    }
}
