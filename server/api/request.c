#include "server/api/request.h"

#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/api/request_impl.h"

/* --- What more than one endpoint knows --- */

bool request_take_model(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    if (strcmp(fields_word(v), o->context->model_name))
        return fields_fail(o->err, 404, "model_not_found", "model", "model: \"%.64s\" is not served here; \"%s\" is", json_string_value(v), o->context->model_name);
    return true;
}

bool request_take_ids(const struct object *o, const char *name, const json_t *v, size_t most, struct deq_tokens *out)
{
    const uint32_t vocab = deq_model_info(o->context->model).vocab_size;
    if (!json_is_array(v))
        return fields_bad_type(o, name, "an array of token ids");
    const size_t n = json_array_size(v);
    if (n > most)
        return fields_fail(o->err, 400, "invalid_value", name, "%s: %zu token ids, at most %zu", name, n, most);
    for (size_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(v, i);
        size_t unused;
        int64_t id;
        bool held;
        if (!fields_whole(t, &id, &held))
            return fields_bad_type(o, name, "an array of token ids");
        if (id < 0 || id >= (int64_t)vocab || !deq_token_bytes(o->context->model, (uint32_t)id, &unused))
            return fields_fail(o->err, 400, "invalid_token_id", name,
                               "%s: token %s%lld at %zu is not in the vocabulary of %u", name,
                               held ? "" : id < 0 ? "below " : "above ", (long long)id, i, vocab);
        if (!deq_tokens_push(out, (uint32_t)id))
            return fields_no_memory(o);
    }
    return true;
}

/* Token ids of a prompt may be as many as fit in a sequence, and some more for the error to count. */
static size_t most_ids(const struct object *o)
{
    return DEQ_MAX(4 * (size_t)o->context->max_positions, (size_t)JSON_ARRAY_MAX);
}

bool request_take_text(const struct object *o, const char *name, const json_t *v, bool parse_special, struct deq_tokens *out)
{
    struct deq_err err;
    if (deq_encode(o->context->model, json_string_value(v), json_string_length(v), parse_special, out, &err))
        return err.code == DEQ_ENOMEM ? fields_no_memory(o) : fields_fail(o->err, 400, "invalid_value", name, "%s: %s", name, err.text);
    return true;
}

bool request_never_empty(const struct object *o, struct deq_tokens *t)
{
    const struct deq_model_info info = deq_model_info(o->context->model);
    if (t->n)
        return true;
    if (info.eos_id < 0)
        return fields_fail(o->err, 400, "invalid_value", "prompt", "prompt: empty, and this model has no start of text");
    return deq_tokens_push(t, (uint32_t)info.eos_id) || fields_no_memory(o);
}

bool request_take_one_prompt(const struct object *o, const json_t *v, struct deq_tokens *out)
{
    if (json_is_array(v) && !json_array_size(v))
        return fields_bad_value(o, "prompt", "the array is empty");
    if (json_is_array(v))
        return request_take_ids(o, "prompt", v, most_ids(o), out);
    return request_take_text(o, "prompt", v, false, out) && request_never_empty(o, out);
}

/* --- deq --- */

const char *const request_preset_names[PRESETS] = {"fast", "balanced", "exact"};

float request_preset_tol(const struct conf *c, float model_tol, int preset)
{
    static const float times[PRESETS] = {10, 1, 0.01f};
    return model_tol > 0 ? fminf(fmaxf(model_tol * times[preset], c->tol_min), c->tol_max) : 0; /* a fixed number of steps stays one */
}

struct solve_fields {
    struct deq_solve_params *p;
    int64_t max_iter, min_iter, window;
};

/* A model without an equilibrium to reach is run for a number of steps, from zero and one row at a time; what does not fit that is an error. */
static bool fixed_steps(const struct object *o)
{
    return !(deq_model_info(o->context->model).tol > 0);
}

static bool take_tol(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const struct conf *c = o->context->conf;
    if (fixed_steps(o))
        return fields_bad_value(o, f->name, "this model takes a fixed number of steps (max_iter)");
    /* the bounds are floats, and so are bounds as somebody writes them once they are read */
    if (!json_is_number(v))
        return fields_bad_type(o, f->name, "a number");
    const float tol = (float)json_number_value(v);
    if (!(tol >= c->tol_min && tol <= c->tol_max))
        return fields_fail(o->err, 400, "invalid_value", "deq.tol", "deq.tol: must be between %g and %g", (double)c->tol_min, (double)c->tol_max);
    ((struct solve_fields *)request)->p->tol = tol;
    return true;
}

static bool take_max_iter(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 1, o->context->conf->max_iter_max, &((struct solve_fields *)request)->max_iter);
}

static bool take_min_iter(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    return fields_take_int(o, f->name, v, 0, s->max_iter, &s->min_iter);
}

static bool take_window(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 1, fixed_steps(o) ? 1 : o->context->conf->max_window, &((struct solve_fields *)request)->window);
}

static bool take_solver(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    return deq_solver_by_name(fields_word(v), &s->p->solver) || fields_bad_value(o, f->name, "must be picard, anderson or broyden");
}

static bool take_warm(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    if (!deq_warm_by_name(fields_word(v), &s->p->warm_start))
        return fields_bad_value(o, f->name, "must be zero, previous or predictor");
    if (s->p->warm_start == DEQ_WARM_PREDICTOR && !deq_model_info(o->context->model).has_predictor)
        return fields_bad_value(o, f->name, "this model has no predictor");
    if (s->p->warm_start != DEQ_WARM_ZERO && fixed_steps(o))
        return fields_bad_value(o, f->name, "this model takes a fixed number of steps from zero");
    return true;
}

static bool take_preset(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    for (int i = 0; i < PRESETS; i++)
        if (!strcmp(fields_word(v), request_preset_names[i])) {
            s->p->tol = request_preset_tol(o->context->conf, deq_model_info(o->context->model).tol, i);
            return true;
        }
    return fields_bad_value(o, f->name, "must be fast, balanced or exact");
}

static const struct field deq_fields[] = { /* preset before tol, which is then the last word; max_iter before min_iter */
    {"preset", OTHER, 0, 0, 0, take_preset, "string: fast, balanced, exact"},
    {"tol", OTHER, 0, -1, 0, take_tol, "number"},
    {"max_iter", OTHER, 1, -1, 0, take_max_iter, "integer"},
    {"min_iter", OTHER, 0, -1, 0, take_min_iter, "integer"},
    {"solver", OTHER, 0, 0, 0, take_solver, "string: picard, anderson, broyden"},
    {"warm_start", OTHER, 0, 0, 0, take_warm, "string: zero, previous, predictor"},
    {"window", OTHER, 1, -1, 0, take_window, "integer"},
};

bool request_take_solve_object(const struct object *outer, const json_t *v, struct deq_solve_params *p)
{
    if (!json_is_object(v))
        return fields_bad_type(outer, "deq", "an object");
    const struct object o = {.json = v, .prefix = "deq.", .context = outer->context, .err = outer->err};
    struct solve_fields s = {p, p->max_iter, DEQ_MIN(p->min_iter, p->max_iter), p->window};
    if (!fields_take_fields(&o, deq_fields, DEQ_COUNT(deq_fields), &s))
        return false;
    p->max_iter = (uint32_t)s.max_iter;
    p->min_iter = (uint32_t)DEQ_MIN(s.min_iter, s.max_iter);
    p->window = (uint32_t)s.window;
    return true;
}

struct deq_solve_params request_solve_defaults(const struct request_context *c)
{
    struct deq_solve_params p = deq_request_defaults(c->model).solve;
    p.window = DEQ_MIN(p.window, c->conf->max_window);
    return p;
}

const char *request_length_field(const struct completion_request *r)
{
    return r->responses ? "max_output_tokens" : "max_tokens";
}

bool request_fits(const struct request_context *c, size_t n_prompt, struct completion_request *r, struct request_error *err)
{
    const size_t room = n_prompt < c->max_positions ? c->max_positions - n_prompt : 0;
    if (n_prompt <= c->max_positions && (uint64_t)r->max_tokens <= room)
        return true;
    if (!r->max_given && room) /* the default was nobody's wish: it is cut to what fits */
        return true;
    err->n_prompt_tokens = n_prompt;
    err->n_ctx = c->max_positions;
    const char *const asked = r->responses ? "input" : r->chat ? "messages" : "prompt";
    const char *const most = request_length_field(r);
    if (n_prompt > c->max_positions || !r->max_tokens)
        return fields_fail(err, 400, "context_length_exceeded", asked,
                           "the prompt has %zu tokens, the limit is %u (engine.max_positions)", n_prompt,
                           c->max_positions);
    return fields_fail(err, 400, "context_length_exceeded", most,
                       "the prompt has %zu tokens and %s is %lld: together more than the limit of %u "
                       "(engine.max_positions)",
                       n_prompt, most, (long long)r->max_tokens, c->max_positions);
}

/* --- Logits --- */

static bool take_logits_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    if (!json_is_string(v) && !json_is_array(v))
        return fields_bad_type(o, "prompt", "a string or an array of token ids");
    return request_take_one_prompt(o, v, &((struct logits_request *)request)->prompt);
}

static bool take_positions(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const char *s = fields_word(v);
    if (!s)
        return fields_bad_type(o, f->name, "\"last\" or \"all\"");
    ((struct logits_request *)request)->all_positions = !strcmp(s, "all");
    return !strcmp(s, "all") || !strcmp(s, "last") || fields_bad_value(o, f->name, "must be \"last\" or \"all\"");
}

static bool take_logits_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    return request_take_solve_object(o, v, &((struct logits_request *)request)->solve);
}

static const struct field logits_fields[] = {
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},
    {"deq", OTHER, 0, 0, 0, take_logits_solve, "object"},
    {"positions", OTHER, 0, 0, 0, take_positions, "string: last, all"},
    {"prompt", OTHER, 0, 0, 0, take_logits_prompt, "string or array of token ids"},
};

bool request_logits(const struct request_context *c, const char *body, size_t len, struct logits_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .context = c, .err = err};
    struct logits_request r = {.solve = request_solve_defaults(c)};
    struct completion_request none = {.max_given = true};
    bool ok = fields_take_fields(&o, logits_fields, DEQ_COUNT(logits_fields), &r) && request_never_empty(&o, &r.prompt) && request_fits(c, r.prompt.n, &none, err);
    const uint64_t bytes = (uint64_t)(r.all_positions ? r.prompt.n : 1) * deq_model_info(c->model).vocab_size * sizeof(float);
    if (ok && bytes > c->conf->max_logits_bytes)
        ok = fields_fail(err, 400, "invalid_value", "positions", "positions: %llu bytes of logits exceed limits.max_logits_bytes %llu", (unsigned long long)bytes,
                  (unsigned long long)c->conf->max_logits_bytes);
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.prompt);
        return false;
    }
    *ret = r;
    return true;
}

/* --- Text and tokens --- */

struct tokenize_fields {
    const json_t *prompt;
    const char *name;
    bool parse_special, add_special; /* the latter: our tokenizers add none either way */
};

static bool take_string(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct tokenize_fields *t = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    t->prompt = v;
    t->name = f->name;
    return true;
}

static const struct field tokenize_fields_table[] = {
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},
    {"content", OTHER, 0, 0, 0, take_string, "string"},
    {"prompt", OTHER, 0, 0, 0, take_string, "string"},
    {"parse_special", BOOL, 0, 0, offsetof(struct tokenize_fields, parse_special), NULL, NULL},
    {"add_special_tokens", BOOL, 0, 0, offsetof(struct tokenize_fields, add_special), NULL, NULL},
    {"add_special", BOOL, 0, 0, offsetof(struct tokenize_fields, add_special), NULL, NULL},
};

bool request_tokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .body = BODY_TOKENIZE, .context = c, .err = err};
    struct tokenize_request r = {0};
    struct tokenize_fields t = {.parse_special = true}; /* this text becomes ids that the client sees, nothing else */
    bool ok = fields_take_fields(&o, tokenize_fields_table, DEQ_COUNT(tokenize_fields_table), &t);
    if (ok && !t.prompt)
        ok = fields_missing(&o, "prompt");
    ok = ok && request_take_text(&o, t.name, t.prompt, t.parse_special, &r.tokens);
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.tokens);
        return false;
    }
    *ret = r;
    return true;
}

static bool take_tokens(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return request_take_ids(o, f->name, v, most_ids(o), &((struct tokenize_request *)request)->tokens);
}

static const struct field detokenize_fields[] = {
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},
    {"tokens", OTHER, 0, 0, 0, take_tokens, "array of token ids"},
};

bool request_detokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .context = c, .err = err};
    struct tokenize_request r = {0};
    bool ok = fields_take_fields(&o, detokenize_fields, DEQ_COUNT(detokenize_fields), &r);
    if (ok && !json_object_get(root, "tokens"))
        ok = fields_missing(&o, "tokens");
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.tokens);
        return false;
    }
    *ret = r;
    return true;
}

/* --- The tables, for the test that compares them with openapi.json --- */

void request_print_fields(void)
{
    request_print_completion_fields();
    fields_print("/v1/logits", logits_fields, DEQ_COUNT(logits_fields));
    fields_print("/tokenize", tokenize_fields_table, DEQ_COUNT(tokenize_fields_table));
    fields_print_neutral("/tokenize", BODY_TOKENIZE);
    fields_print("/detokenize", detokenize_fields, DEQ_COUNT(detokenize_fields));
    fields_print("deq", deq_fields, DEQ_COUNT(deq_fields));
}
