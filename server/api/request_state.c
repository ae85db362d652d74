/* The body of POST /v1/states, and what names states elsewhere. */
#include <string.h>

#include "server/api/request_impl.h"

bool request_take_state_name(const struct object *o, const char *field, const json_t *v, char *ret)
{
    if (!json_is_string(v))
        return fields_bad_type(o, field, "a string");
    const size_t n = json_string_length(v);
    if (!states_good_name(json_string_value(v), n))
        return fields_fail(o->err, 400, "invalid_value", field,
                           "%s: must be 1 to %d of A-Z a-z 0-9 . _ -, no dot first", field, STATE_NAME_MAX);
    memcpy(ret, json_string_value(v), n + 1);
    return true;
}

static bool take_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct state_request *r = request;
    if (!json_is_string(v) && !json_is_array(v))
        return fields_bad_type(o, f->name, "a string or an array of token ids");
    return request_take_one_prompt(o, f->name, v, r->add_special && !r->state[0], &r->prompt);
}

static bool take_name(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    char *const into = (char *)request + f->at;
    return request_take_state_name(o, f->name, v, into);
}

static bool take_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    return request_take_solve_object(o, v, &((struct state_request *)request)->solve, NULL);
}

#define AT(field) offsetof(struct state_request, field)
/* The order is the order of reading. */
static const struct field rows[] = {
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},
    {"deq", OTHER, 0, 0, 0, take_solve, "object"},
    {"name", OTHER, 0, 0, AT(name), take_name, "string"},
    {"state", OTHER, 0, 0, AT(state), take_name, "string"},
    {"add_special_tokens", BOOL, 0, 0, AT(add_special), NULL, NULL},
    {"cache_salt", OTHER, 0, 0, AT(salt), request_take_salt, "string"},
    {"prompt", OTHER, 0, 0, 0, take_prompt, "string or array of token ids"},
};

const struct fields state_fields = {.rows = rows, .n = DEQ_COUNT(rows), .inner = {&request_solve_fields}};

bool request_state(const struct request_context *c, const char *body, size_t len, struct state_request *ret,
                   struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .fields = &state_fields, .context = c, .err = err};
    struct state_request r = {.add_special = true, .solve = request_solve_defaults(c)};
    struct completion_request none = {.max_given = true};
    bool ok = fields_take(&o, &r);
    if (ok && !r.prompt.n)
        ok = fields_missing(&o, "prompt");
    ok = ok && request_fits(c, r.prompt.n, &none, err);
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.prompt);
        return false;
    }
    *ret = r;
    return true;
}
