/* The bodies of /v1/equilibria and /v1/embeddings. */
#include <string.h>

#include "server/api/request_impl.h"

static bool take_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    return request_take_solve_object(o, v, &((struct equilibria_request *)request)->solve, NULL);
}

static bool take_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct equilibria_request *r = request;
    const json_t *first = json_array_get(v, 0);
    if ((!json_is_string(v) && !json_is_array(v)) || (first && !json_is_number(first)))
        return fields_bad_type(o, f->name, "a string or an array of token ids");
    return request_take_prompts(o, f->name, v, r->add_special, false, &r->prompts, &r->n_prompts);
}

static bool take_input(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct equilibria_request *r = request;
    return request_take_prompts(o, f->name, v, r->add_special, false, &r->prompts, &r->n_prompts);
}

/* One of two words, the second of which is true. */
static bool take_either(const struct object *o, const char *name, const json_t *v, const char *no, const char *yes,
                        bool *ret)
{
    const char *s = fields_word(v);
    char expected[64];
    snprintf(expected, sizeof expected, "\"%s\" or \"%s\"", no, yes);
    if (!s)
        return fields_bad_type(o, name, expected);
    *ret = !strcmp(s, yes);
    if (*ret || !strcmp(s, no))
        return true;
    snprintf(expected, sizeof expected, "must be \"%s\" or \"%s\"", no, yes);
    return fields_bad_value(o, name, expected);
}

static bool take_positions(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_either(o, f->name, v, "last", "all", &((struct equilibria_request *)request)->all_positions);
}

static bool take_pooling(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct equilibria_request *r = request;
    if (!take_either(o, f->name, v, "last", "mean", &r->mean))
        return false;
    return !r->all_positions || fields_bad_value(o, "positions", "\"all\" gives a row each, and pooling one");
}

static bool take_encoding(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_either(o, f->name, v, "float", "base64", &((struct equilibria_request *)request)->base64);
}

/* OpenAI's models are trained so that a state can be cut; those here are not. */
static bool take_dimensions(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const uint32_t all = deq_model_info(o->context->model).state_dim;
    int64_t n;
    (void)request;
    if (!fields_take_int(o, f->name, v, 1, INT32_MAX, &n))
        return false;
    return n == all || fields_fail(o->err, 400, "unsupported_parameter", f->name,
                                   "dimensions: not supported by this server: a state has %u numbers, and is not cut",
                                   all);
}

static bool take_user(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)request;
    return json_is_string(v) || fields_bad_type(o, f->name, "a string");
}

/* The order is the order of reading. */
#define COMMON_FIELDS                                                                                   \
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},                                            \
    {"deq", OTHER, 0, 0, 0, take_solve, "object"},                                                      \
    {"pooling", OTHER, 0, 0, 0, take_pooling, "string: last, mean"},                                    \
    {"encoding_format", OTHER, 0, 0, 0, take_encoding, "string: float, base64"},                        \
    {"add_special_tokens", BOOL, 0, 0, offsetof(struct equilibria_request, add_special), NULL, NULL},   \
    {"cache_salt", OTHER, 0, 0, offsetof(struct equilibria_request, salt), request_take_salt, "string"}

static const struct field equilibria_rows[] = {
    {"positions", OTHER, 0, 0, 0, take_positions, "string: last, all"},
    COMMON_FIELDS,
    {"jacobian", BOOL, 0, 0, offsetof(struct equilibria_request, jacobian), NULL, NULL},
    {"prompt", OTHER, 0, 0, 0, take_prompt, "string or array of token ids"},
};

static const struct field embeddings_rows[] = {
    COMMON_FIELDS,
    {"dimensions", OTHER, 1, INT32_MAX, 0, take_dimensions, "integer"},
    {"user", OTHER, 0, 0, 0, take_user, "string"},
    {"input", OTHER, 0, 0, 0, take_input, "string, array of strings, of token ids, or of arrays of token ids"},
};

const struct fields equilibria_fields = {
    .rows = equilibria_rows, .n = DEQ_COUNT(equilibria_rows), .inner = {&request_solve_fields}};
const struct fields embeddings_fields = {
    .rows = embeddings_rows, .n = DEQ_COUNT(embeddings_rows), .inner = {&request_solve_fields}};

void equilibria_request_free(struct equilibria_request *r)
{
    request_prompts_free(r->prompts, r->n_prompts);
    *r = (struct equilibria_request){0};
}

/* What one field cannot say. */
static bool check_together(const struct object *o, struct equilibria_request *r)
{
    const struct conf *c = o->context->conf;
    const char *const input = r->embeddings ? "input" : "prompt";
    uint64_t rows = 0;
    if (!r->n_prompts && r->embeddings)
        return fields_missing(o, input);
    if (r->jacobian && !r->solve.max_iter)
        return fields_bad_value(o, "jacobian", "with deq.max_iter 0 nothing is evaluated");
    if (!r->n_prompts && !request_no_prompt(o, false, &r->prompts, &r->n_prompts))
        return false;
    for (size_t i = 0; i < r->n_prompts; i++) {
        if (!request_prompt_fits(o->context, input, r->prompts[i].n, o->err))
            return false;
        rows += r->all_positions ? r->prompts[i].n : 1;
    }
    const uint64_t floats = rows * deq_model_info(o->context->model).state_dim * sizeof(float);
    const uint64_t bytes = r->base64 ? floats + floats / 2 * 3 : floats; /* with their text, for a moment */
    const char *const what = r->embeddings ? "input" : "positions";
    return bytes <= c->max_logits_bytes ||
           fields_fail(o->err, 400, "invalid_value", what,
                       "%s: %llu bytes of states exceed limits.max_logits_bytes %llu", what,
                       (unsigned long long)bytes, (unsigned long long)c->max_logits_bytes);
}

bool request_equilibria(const struct request_context *c, bool embeddings, const char *body, size_t len,
                        struct equilibria_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root,
                             .prefix = "",
                             .fields = embeddings ? &embeddings_fields : &equilibria_fields,
                             .context = c,
                             .err = err};
    struct equilibria_request r = {.embeddings = embeddings,
                                   .mean = embeddings,
                                   .add_special = true,
                                   .solve = request_solve_defaults(c)};
    const bool ok = fields_take(&o, &r) && check_together(&o, &r);
    json_decref(root);
    if (!ok) {
        equilibria_request_free(&r);
        return false;
    }
    *ret = r;
    return true;
}
