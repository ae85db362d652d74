#include "server/request.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/mem.h"

/* --- Errors and JSON --- */

static bool fail(struct request_error *e, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static bool fail(struct request_error *e, int status, const char *code, const char *param, const char *fmt, ...)
{
    if (e->status)
        return false; /* the first one counts */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    for (char *s = e->message; *s; s++) /* parts of the input may stand in it, cut anywhere: ASCII only */
        if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
            *s = '?';
    e->status = status;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    for (char *s = e->param; *s; s++)
        if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
            *s = '?';
    return false;
}

/* Depth is counted before parsing: the parser itself would recurse 2,048 deep. */
static bool shallow(const char *s, size_t n)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == '{' || s[i] == '[') {
            if (++depth > JSON_DEPTH_MAX)
                return false;
        } else if (s[i] == '}' || s[i] == ']') {
            depth--;
        }
    }
    return true;
}

static json_t *parse(const char *body, size_t len, struct request_error *err)
{
    json_error_t je;
    if (!len) {
        fail(err, 400, "invalid_json", NULL, "the body is empty; expected a JSON object");
        return NULL;
    }
    if (!shallow(body, len)) {
        fail(err, 400, "invalid_json", NULL, "the JSON is nested more than %d deep", JSON_DEPTH_MAX);
        return NULL;
    }
    json_t *root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &je);
    if (!root) {
        fail(err, 400, "invalid_json", NULL, "the body is not JSON: line %d, column %d: %s", je.line, je.column, je.text);
        return NULL;
    }
    if (!json_is_object(root) || json_object_size(root) > JSON_KEYS_MAX) {
        json_decref(root);
        fail(err, 400, "invalid_json", NULL, "expected a JSON object of at most %d keys", JSON_KEYS_MAX);
        return NULL;
    }
    return root;
}

/* --- Fields. null counts as absent everywhere, as OpenAI's specification has it --- */

struct object { /* a JSON object that is being read */
    const json_t *json;
    const char *prefix; /* "" or "deq." */
    const struct request_context *context;
    struct request_error *err;
};

enum kind {
    BOOL,    /* bool */
    INT,     /* int64_t */
    NUMBER,  /* float */
    OTHER,   /* `take` knows */
    NEUTRAL, /* of OpenAI's specification; not for this server: accepted where it asks for nothing */
};

struct field {
    const char *name;
    enum kind kind;
    double lo, hi; /* hi < lo: a bound of the configuration, applied by `take` */
    size_t at;     /* in the request's struct */
    bool (*take)(const struct object *o, const struct field *f, const json_t *v, void *request); /* v: there and not null */
    const char *type; /* in words, of OTHER and NEUTRAL */
};

static void path_of(const struct object *o, const char *name, char out[64])
{
    snprintf(out, 64, "%s%.50s", o->prefix, name);
}

static bool bad_type(const struct object *o, const char *name, const char *expected)
{
    char path[64];
    path_of(o, name, path);
    return fail(o->err, 400, "invalid_type", path, "%s: expected %s", path, expected);
}

static bool bad_range(const struct object *o, const char *name, double lo, double hi)
{
    char path[64];
    path_of(o, name, path);
    return fail(o->err, 400, "invalid_value", path, "%s: must be between %.10g and %.10g", path, lo, hi);
}

static bool bad_value(const struct object *o, const char *name, const char *expected)
{
    char path[64];
    path_of(o, name, path);
    return fail(o->err, 400, "invalid_value", path, "%s: %s", path, expected);
}

static bool no_memory(const struct object *o)
{
    return fail(o->err, 500, "internal_error", NULL, "out of memory");
}

static bool take_int(const struct object *o, const char *name, const json_t *v, json_int_t lo, json_int_t hi, int64_t *ret)
{
    if (!json_is_integer(v))
        return bad_type(o, name, "an integer");
    if (json_integer_value(v) < lo || json_integer_value(v) > hi)
        return bad_range(o, name, (double)lo, (double)hi);
    *ret = json_integer_value(v);
    return true;
}

static bool take_number(const struct object *o, const char *name, const json_t *v, double lo, double hi, float *ret)
{
    if (!json_is_number(v))
        return bad_type(o, name, "a number");
    const float x = (float)json_number_value(v); /* bounds are floats too: a bound itself is within */
    if (!(x >= (float)lo && x <= (float)hi))
        return bad_range(o, name, lo, hi);
    *ret = x;
    return true;
}

static bool is_neutral(const json_t *v)
{
    return json_is_false(v) || (json_is_string(v) && (!json_string_length(v) || !strcmp(json_string_value(v), "auto") || !strcmp(json_string_value(v), "none"))) ||
           (json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v));
}

/* Reads every field of the table, then looks for what is not in it. */
static bool take_fields(const struct object *o, const struct field *table, size_t n, void *request)
{
    for (size_t i = 0; i < n; i++) {
        const struct field *f = &table[i];
        const json_t *v = json_object_get(o->json, f->name);
        char *at = (char *)request + f->at, path[64];
        bool ok = true;
        if (!v || json_is_null(v))
            continue;
        switch (f->kind) {
        case BOOL:
            ok = json_is_boolean(v) || bad_type(o, f->name, "a boolean");
            if (ok)
                *(bool *)(void *)at = json_is_true(v);
            break;
        case INT: ok = take_int(o, f->name, v, (json_int_t)f->lo, f->hi >= 0x1p63 ? INT64_MAX : (json_int_t)f->hi, (int64_t *)(void *)at); break;
        case NUMBER: ok = take_number(o, f->name, v, f->lo, f->hi, (float *)(void *)at); break;
        case OTHER: ok = f->take(o, f, v, request); break;
        case NEUTRAL:
            path_of(o, f->name, path);
            ok = is_neutral(v) || fail(o->err, 400, "unsupported_parameter", path, "%s: not supported by this server", path);
            break;
        }
        if (!ok)
            return false;
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o->json, key, v) {
        bool known = false;
        for (size_t i = 0; i < n && !known; i++)
            known = !strcmp(key, table[i].name);
        if (!known) {
            char path[64];
            path_of(o, key, path);
            return fail(o->err, 400, "unknown_parameter", path, "%s: unknown field", path);
        }
    }
    return true;
}

/* --- What more than one endpoint knows --- */

static bool take_model(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)request;
    if (!json_is_string(v))
        return bad_type(o, f->name, "a string");
    if (strcmp(json_string_value(v), o->context->model_name))
        return fail(o->err, 404, "model_not_found", "model", "model: \"%.64s\" is not served here; \"%s\" is", json_string_value(v), o->context->model_name);
    return true;
}

static bool take_ids(const struct object *o, const char *name, const json_t *v, size_t most, struct deq_tokens *out)
{
    const uint32_t vocab = deq_model_info(o->context->model).vocab_size;
    if (!json_is_array(v))
        return bad_type(o, name, "an array of token ids");
    const size_t n = json_array_size(v);
    if (n > most)
        return fail(o->err, 400, "invalid_value", name, "%s: %zu token ids, at most %zu", name, n, most);
    for (size_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(v, i);
        size_t unused;
        if (!json_is_integer(t))
            return bad_type(o, name, "an array of token ids");
        const json_int_t id = json_integer_value(t);
        if (id < 0 || id >= (json_int_t)vocab || !deq_token_bytes(o->context->model, (uint32_t)id, &unused))
            return fail(o->err, 400, "invalid_token_id", name, "%s: token %lld at %zu is not in the vocabulary of %u", name, (long long)id, i, vocab);
        if (!deq_tokens_push(out, (uint32_t)id))
            return no_memory(o);
    }
    return true;
}

/* Token ids of a prompt may be as many as fit in a sequence, and some more for the error to count. */
static size_t most_ids(const struct object *o)
{
    return DEQ_MAX(4 * (size_t)o->context->max_positions, (size_t)JSON_ARRAY_MAX);
}

static bool take_text(const struct object *o, const char *name, const json_t *v, bool parse_special, struct deq_tokens *out)
{
    struct deq_err err;
    if (deq_encode(o->context->model, json_string_value(v), json_string_length(v), parse_special, out, &err))
        return fail(o->err, err.code == DEQ_ENOMEM ? 500 : 400, "invalid_value", name, "%s: %s", name, err.text);
    return true;
}

/* Empty text is the start of a document. */
static bool never_empty(const struct object *o, struct deq_tokens *t)
{
    const struct deq_model_info info = deq_model_info(o->context->model);
    if (t->n)
        return true;
    if (info.eos_id < 0)
        return fail(o->err, 400, "invalid_value", "prompt", "prompt: empty, and this model has no start of text");
    return deq_tokens_push(t, (uint32_t)info.eos_id) || no_memory(o);
}

/* A string or an array of token ids. */
static bool take_one_prompt(const struct object *o, const json_t *v, struct deq_tokens *out)
{
    if (json_is_array(v) && !json_array_size(v))
        return bad_value(o, "prompt", "the array is empty");
    if (json_is_array(v))
        return take_ids(o, "prompt", v, most_ids(o), out);
    return take_text(o, "prompt", v, false, out) && never_empty(o, out);
}

/* --- deq --- */

const char *const request_preset_names[PRESETS] = {"fast", "balanced", "exact"};

float request_preset_tol(const struct conf *c, float model_tol, int preset)
{
    static const float times[PRESETS] = {10, 1, 0.01f};
    return fminf(fmaxf(model_tol * times[preset], c->tol_min), c->tol_max);
}

struct solve_fields {
    struct deq_solve_params *p;
    int64_t max_iter, min_iter, window;
};

static bool take_tol(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const struct conf *c = o->context->conf;
    return take_number(o, f->name, v, (double)c->tol_min, (double)c->tol_max, &((struct solve_fields *)request)->p->tol);
}

static bool take_max_iter(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_int(o, f->name, v, 1, o->context->conf->max_iter_max, &((struct solve_fields *)request)->max_iter);
}

static bool take_min_iter(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    return take_int(o, f->name, v, 0, s->max_iter, &s->min_iter);
}

static bool take_window(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_int(o, f->name, v, 1, o->context->conf->max_window, &((struct solve_fields *)request)->window);
}

static bool take_solver(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return bad_type(o, f->name, "a string");
    return deq_solver_by_name(json_string_value(v), &s->p->solver) || bad_value(o, f->name, "must be picard, anderson or broyden");
}

static bool take_warm(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return bad_type(o, f->name, "a string");
    if (!deq_warm_by_name(json_string_value(v), &s->p->warm_start))
        return bad_value(o, f->name, "must be zero, previous or predictor");
    if (s->p->warm_start == DEQ_WARM_PREDICTOR && !deq_model_info(o->context->model).has_predictor)
        return bad_value(o, f->name, "this model has no predictor");
    return true;
}

static bool take_preset(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct solve_fields *s = request;
    if (!json_is_string(v))
        return bad_type(o, f->name, "a string");
    for (int i = 0; i < PRESETS; i++)
        if (!strcmp(json_string_value(v), request_preset_names[i])) {
            s->p->tol = request_preset_tol(o->context->conf, deq_model_info(o->context->model).tol, i);
            return true;
        }
    return bad_value(o, f->name, "must be fast, balanced or exact");
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

static bool take_solve_object(const struct object *outer, const json_t *v, struct deq_solve_params *p)
{
    if (!json_is_object(v))
        return bad_type(outer, "deq", "an object");
    const struct object o = {.json = v, .prefix = "deq.", .context = outer->context, .err = outer->err};
    struct solve_fields s = {p, p->max_iter, DEQ_MIN(p->min_iter, p->max_iter), p->window};
    if (!take_fields(&o, deq_fields, DEQ_COUNT(deq_fields), &s))
        return false;
    p->max_iter = (uint32_t)s.max_iter;
    p->min_iter = (uint32_t)DEQ_MIN(s.min_iter, s.max_iter);
    p->window = (uint32_t)s.window;
    return true;
}

/* The model's own settings, where the server's bounds allow them. */
static struct deq_solve_params solve_defaults(const struct request_context *c)
{
    struct deq_solve_params p = deq_request_defaults(c->model).solve;
    p.window = DEQ_MIN(p.window, c->conf->max_window);
    return p;
}

/* --- Completions and chat --- */

static bool take_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    return take_solve_object(o, v, &((struct completion_request *)request)->solve);
}

/* Four shapes: a string, an array of strings, of token ids, of arrays of token ids. */
static bool take_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const json_t *first = json_is_array(v) ? json_array_get(v, 0) : NULL;
    const bool many = first && !json_is_integer(first);
    const size_t n = many ? json_array_size(v) : 1;
    (void)f;
    if (!json_is_string(v) && !json_is_array(v))
        return bad_type(o, "prompt", "a string, an array of strings, of token ids, or of arrays of token ids");
    if (n > o->context->conf->max_prompts)
        return fail(o->err, 400, "invalid_value", "prompt", "prompt: %zu prompts, at most %u (limits.max_prompts)", n, o->context->conf->max_prompts);
    deq_free(r->prompts);
    r->n_prompts = 0;
    if (!(r->prompts = DEQ_NEW_ARRAY(struct deq_tokens, n)))
        return no_memory(o);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = many ? json_array_get(v, i) : v;
        if (many && (json_is_string(one) != json_is_string(first) || (!json_is_string(one) && !json_is_array(one))))
            return bad_type(o, "prompt", "a string, an array of strings, of token ids, or of arrays of token ids");
        r->n_prompts = i + 1;
        if (!take_one_prompt(o, one, &r->prompts[i]))
            return false;
    }
    return true;
}

static bool take_stops(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const struct conf *c = o->context->conf;
    const size_t n = json_is_array(v) ? json_array_size(v) : 1;
    const size_t most = DEQ_MIN((size_t)c->max_stop, (size_t)REQUEST_STOPS_MAX - 1);
    if (!json_is_string(v) && !json_is_array(v))
        return bad_type(o, f->name, "a string or an array of strings");
    if (n > most)
        return fail(o->err, 400, "invalid_value", "stop", "stop: at most %zu strings", most);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s))
            return bad_type(o, f->name, "a string or an array of strings");
        const size_t len = json_string_length(s);
        if (!len || len > c->max_stop_bytes)
            return fail(o->err, 400, "invalid_value", "stop", "stop: a string must have 1 to %u bytes", c->max_stop_bytes);
        if (!(r->stop[i] = deq_alloc(len)))
            return no_memory(o);
        memcpy(r->stop[i], json_string_value(s), len);
        r->stop_len[i] = len;
        r->n_stops = i + 1;
    }
    return true;
}

static const struct field stream_fields[] = {
    {"include_usage", BOOL, 0, 0, offsetof(struct completion_request, include_usage), NULL, NULL},
    {"continuous_usage_stats", BOOL, 0, 0, offsetof(struct completion_request, continuous_usage), NULL, NULL},
};

static bool take_stream_options(const struct object *outer, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_object(v))
        return bad_type(outer, f->name, "an object");
    if (!r->stream)
        return bad_value(outer, f->name, "only with stream true");
    const struct object o = {.json = v, .prefix = "stream_options.", .context = outer->context, .err = outer->err};
    return take_fields(&o, stream_fields, DEQ_COUNT(stream_fields), r);
}

static bool take_bias(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const uint32_t vocab = deq_model_info(o->context->model).vocab_size;
    const char *key;
    json_t *x;
    if (!json_is_object(v))
        return bad_type(o, f->name, "an object of token ids and numbers");
    if (json_object_size(v) > BIAS_MAX)
        return fail(o->err, 400, "invalid_value", f->name, "logit_bias: at most %d tokens", BIAS_MAX);
    if (!(r->bias = DEQ_NEW_ARRAY(struct deq_logit_bias, json_object_size(v))))
        return no_memory(o);
    json_object_foreach((json_t *)v, key, x) {
        const size_t n = strlen(key);
        const unsigned long id = n && n < 9 && strspn(key, "0123456789") == n ? strtoul(key, NULL, 10) : UINT32_MAX;
        if (id >= vocab)
            return fail(o->err, 400, "invalid_token_id", f->name, "logit_bias: \"%.20s\" is not an id of the vocabulary of %u", key, vocab);
        struct deq_logit_bias *b = &r->bias[r->n_bias++];
        b->token = (uint32_t)id;
        if (!take_number(o, f->name, x, -100, 100, &b->bias))
            return false;
    }
    return true;
}

static bool take_stop_ids(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_ids(o, f->name, v, JSON_ARRAY_MAX, &((struct completion_request *)request)->stop_ids);
}

static bool take_logprob_ids(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_ids(o, f->name, v, o->context->conf->max_logprobs, &((struct completion_request *)request)->logprob_ids);
}

static bool take_logprobs(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_int(o, f->name, v, 0, o->context->conf->max_logprobs, &((struct completion_request *)request)->logprobs);
}

static bool take_chat_logprobs(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_boolean(v))
        return bad_type(o, f->name, "a boolean");
    r->logprobs = json_is_true(v) ? 0 : -1;
    return true;
}

static bool take_top_logprobs(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (r->logprobs < 0)
        return bad_value(o, f->name, "only with logprobs true");
    return take_int(o, f->name, v, 0, o->context->conf->max_logprobs, &r->logprobs);
}

static bool take_n(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_int(o, f->name, v, 1, DEQ_MIN(o->context->conf->max_n, o->context->conf->max_sequences), (int64_t *)(void *)((char *)request + f->at));
}

static bool take_best_of(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return take_int(o, f->name, v, 0, DEQ_MIN(o->context->conf->max_n, o->context->conf->max_sequences), (int64_t *)(void *)((char *)request + f->at));
}

static bool take_max_tokens(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    r->max_given = true;
    return take_int(o, f->name, v, r->chat ? 1 : 0, INT32_MAX, &r->max_tokens);
}

static bool take_salt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_string(v))
        return bad_type(o, f->name, "a string");
    r->salt_len = json_string_length(v);
    if (!r->salt_len || r->salt_len > SALT_MAX_BYTES)
        return fail(o->err, 400, "invalid_value", f->name, "cache_salt: must have 1 to %d bytes", SALT_MAX_BYTES);
    if (!(r->salt = deq_alloc(r->salt_len)))
        return no_memory(o);
    memcpy(r->salt, json_string_value(v), r->salt_len);
    return true;
}

static bool take_cache(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const char *const names[] = {[DEQ_CACHE_EXACT] = "exact", [DEQ_CACHE_APPROXIMATE] = "approximate", [DEQ_CACHE_OFF] = "off"};
    struct completion_request *r = request;
    if (!json_is_string(v))
        return bad_type(o, f->name, "a string");
    for (size_t i = 0; i < DEQ_COUNT(names); i++)
        if (!strcmp(json_string_value(v), names[i])) {
            r->cache = (enum deq_cache)i;
            return true;
        }
    return bad_value(o, f->name, "must be exact, approximate or off");
}

static bool take_include(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_array(v) || json_array_size(v) > JSON_ARRAY_MAX)
        return bad_type(o, f->name, "an array of strings");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *s = json_string_value(json_array_get(v, i));
        if (!s)
            return bad_type(o, f->name, "an array of strings");
        if (strcmp(s, "deq.tokens"))
            return bad_value(o, f->name, "knows deq.tokens only");
        r->telemetry = true;
    }
    return true;
}

static bool take_user(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const struct deq_hash fixed = {{3, 4}};
    if (!json_is_string(v))
        return bad_type(o, f->name, "a string");
    ((struct completion_request *)request)->user_hash = deq_siphash(&fixed, json_string_value(v), json_string_length(v)).h[0] | 1;
    return true;
}

/* Content is a string, or an array of {"type": "text", "text": ...}. */
static bool add_content(const struct object *o, const json_t *v, struct deq_buf *out)
{
    if (json_is_string(v))
        return deq_buf_add(out, json_string_value(v), json_string_length(v)) || no_memory(o);
    if (!json_is_array(v) || json_array_size(v) > JSON_ARRAY_MAX)
        return bad_type(o, "messages", "messages whose content is a string or an array of text parts");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *part = json_array_get(v, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!type || strcmp(type, "text") || !json_is_string(text))
            return bad_type(o, "messages", "messages whose content is a string or an array of text parts");
        if (!deq_buf_add(out, json_string_value(text), json_string_length(text)))
            return no_memory(o);
    }
    return true;
}

/* One message by the template: {role} and {content} filled in. */
static bool add_message(const struct object *o, const char *template, const json_t *message, struct deq_buf *out)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant"};
    const char *role = json_string_value(json_object_get(message, "role")), *at = template, *key;
    const json_t *content = json_object_get(message, "content"), *v;
    bool known = false;
    if (!json_is_object(message) || !role || !content)
        return bad_type(o, "messages", "an array of objects with role and content");
    json_object_foreach((json_t *)message, key, v)
        if (strcmp(key, "role") && strcmp(key, "content") && strcmp(key, "name"))
            return fail(o->err, 400, "unknown_parameter", "messages", "messages: unknown field \"%.40s\"", key);
    for (size_t i = 0; i < DEQ_COUNT(roles); i++)
        known = known || !strcmp(role, roles[i]);
    if (!known)
        return bad_value(o, "messages", "role must be system, developer, user or assistant");
    while (*at) {
        const bool is_role = !strncmp(at, "{role}", 6), is_content = !strncmp(at, "{content}", 9);
        bool ok;
        if (is_role)
            ok = deq_buf_str(out, role) || no_memory(o);
        else if (is_content)
            ok = add_content(o, content, out);
        else
            ok = deq_buf_add(out, at, 1) || no_memory(o);
        if (!ok)
            return false;
        at += is_role ? 6 : is_content ? 9 : 1;
    }
    return true;
}

static bool take_messages(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const struct conf *c = o->context->conf;
    struct deq_buf text;
    struct deq_err err;
    if (!c->chat_message[0])
        return fail(o->err, 400, "chat_template_missing", NULL, "this server has no chat template (chat.message); use /v1/completions");
    if (!json_is_array(v) || !json_array_size(v) || json_array_size(v) > JSON_ARRAY_MAX)
        return bad_type(o, f->name, "an array of at least one message");
    deq_buf_init(&text, c->max_body_bytes + 65536);
    bool ok = true;
    for (size_t i = 0; i < json_array_size(v) && ok; i++)
        ok = add_message(o, c->chat_message, json_array_get(v, i), &text);
    ok = ok && (deq_buf_str(&text, c->chat_reply) || no_memory(o));
    if (ok && !(r->prompts = DEQ_NEW_ARRAY(struct deq_tokens, 1)))
        ok = no_memory(o);
    if (ok) {
        r->n_prompts = 1;
        if (deq_encode(o->context->model, text.data, text.len, false, &r->prompts[0], &err))
            ok = fail(o->err, err.code == DEQ_ENOMEM ? 500 : 400, "invalid_value", "messages", "messages: %s", err.text);
    }
    deq_buf_free(&text);
    return ok;
}

#define AT(name) offsetof(struct completion_request, name)
/* Of both endpoints. The order is the order of reading. */
#define SHARED_FIELDS                                                                                           \
    {"model", OTHER, 0, 0, 0, take_model, "string"},                                                            \
    {"n", OTHER, 1, -1, AT(n), take_n, "integer"},                                                              \
    {"temperature", NUMBER, 0, 2, AT(temperature), NULL, NULL},                                                 \
    {"top_p", NUMBER, 0, 1, AT(top_p), NULL, NULL},                                                             \
    {"stream", BOOL, 0, 0, AT(stream), NULL, NULL},                                                             \
    {"stream_options", OTHER, 0, 0, 0, take_stream_options, "object"},                                          \
    {"stop", OTHER, 0, 0, 0, take_stops, "string or array of strings"},                                         \
    {"presence_penalty", NUMBER, -2, 2, AT(presence_penalty), NULL, NULL},                                      \
    {"frequency_penalty", NUMBER, -2, 2, AT(frequency_penalty), NULL, NULL},                                    \
    {"logit_bias", OTHER, 0, 0, 0, take_bias, "object of token ids and numbers"},                               \
    {"seed", INT, -0x1p63, 0x1p63, AT(seed), NULL, NULL},                                                       \
    {"user", OTHER, 0, 0, 0, take_user, "string"},                                                              \
    {"top_k", INT, -1, INT32_MAX, AT(top_k), NULL, NULL},                                                       \
    {"min_p", NUMBER, 0, 1, AT(min_p), NULL, NULL},                                                             \
    {"repetition_penalty", NUMBER, 0.01, 100, AT(repetition_penalty), NULL, NULL},                              \
    {"stop_token_ids", OTHER, 0, 0, 0, take_stop_ids, "array of token ids"},                                    \
    {"ignore_eos", BOOL, 0, 0, AT(ignore_eos), NULL, NULL},                                                     \
    {"min_tokens", INT, 0, INT32_MAX, AT(min_tokens), NULL, NULL},                                              \
    {"return_token_ids", BOOL, 0, 0, AT(token_ids), NULL, NULL},                                                \
    {"return_tokens_as_token_ids", BOOL, 0, 0, AT(tokens_as_ids), NULL, NULL},                                  \
    {"truncate_prompt_tokens", INT, -1, INT32_MAX, AT(truncate), NULL, NULL},                                   \
    {"priority", INT, -20, 20, AT(priority), NULL, NULL},                                                       \
    {"cache_salt", OTHER, 0, 0, 0, take_salt, "string"},                                                        \
    {"cache", OTHER, 0, 0, 0, take_cache, "string: exact, approximate, off"},                                   \
    {"logprob_token_ids", OTHER, 0, 0, 0, take_logprob_ids, "array of token ids"},                              \
    {"deadline_ms", INT, 1, 86400000, AT(deadline_ms), NULL, NULL},                                             \
    {"include", OTHER, 0, 0, 0, take_include, "array of strings"},                                              \
    {"deq", OTHER, 0, 0, 0, take_solve, "object"}

static const struct field completion_fields[] = {
    SHARED_FIELDS,
    {"max_tokens", OTHER, 0, INT32_MAX, 0, take_max_tokens, "integer"},
    {"logprobs", OTHER, 0, -1, 0, take_logprobs, "integer"},
    {"best_of", OTHER, 0, -1, AT(best_of), take_best_of, "integer"},
    {"echo", BOOL, 0, 0, AT(echo), NULL, NULL},
    {"suffix", NEUTRAL, 0, 0, 0, NULL, "string"},
    {"prompt", OTHER, 0, 0, 0, take_prompt, "string, array of strings, of token ids, or of arrays of token ids"},
};

static const struct field chat_fields[] = {
    SHARED_FIELDS,
    {"max_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"max_completion_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"logprobs", OTHER, 0, 0, 0, take_chat_logprobs, "boolean"},
    {"top_logprobs", OTHER, 0, -1, 0, take_top_logprobs, "integer"},
    {"tools", NEUTRAL, 0, 0, 0, NULL, "array"},
    {"tool_choice", NEUTRAL, 0, 0, 0, NULL, "string or object"},
    {"response_format", NEUTRAL, 0, 0, 0, NULL, "object"},
    {"messages", OTHER, 0, 0, 0, take_messages, "array of messages"},
};

static bool fits(const struct request_context *c, size_t n_prompt, struct completion_request *r, struct request_error *err)
{
    const size_t room = n_prompt < c->max_positions ? c->max_positions - n_prompt : 0;
    if (n_prompt <= c->max_positions && (uint64_t)r->max_tokens <= room)
        return true;
    if (!r->max_given && room) { /* the default was nobody's wish */
        r->max_tokens = (int64_t)room;
        return true;
    }
    err->n_prompt_tokens = n_prompt;
    err->n_ctx = c->max_positions;
    if (n_prompt > c->max_positions || !r->max_tokens)
        return fail(err, 400, "context_length_exceeded", r->chat ? "messages" : "prompt",
                    "the prompt has %zu tokens, the limit is %u (engine.max_positions)", n_prompt, c->max_positions);
    return fail(err, 400, "context_length_exceeded", "max_tokens",
                "the prompt has %zu tokens and max_tokens is %lld: together more than the limit of %u (engine.max_positions)", n_prompt,
                (long long)r->max_tokens, c->max_positions);
}

/* What one field's range cannot say. */
static bool check_together(const struct object *o, struct completion_request *r)
{
    if (!r->n_prompts) { /* absent: the start of a document */
        if (r->chat)
            return o->context->conf->chat_message[0] ? fail(o->err, 400, "missing_parameter", "messages", "messages: missing")
                                                     : fail(o->err, 400, "chat_template_missing", NULL,
                                                            "this server has no chat template (chat.message); use /v1/completions");
        if (!(r->prompts = DEQ_NEW_ARRAY(struct deq_tokens, 1)))
            return no_memory(o);
        r->n_prompts = 1;
        if (!never_empty(o, &r->prompts[0]))
            return false;
    }
    r->best_of = r->best_of ? r->best_of : r->n;
    if (r->best_of < r->n)
        return bad_value(o, "best_of", "must be at least n");
    if (r->best_of > r->n && r->stream)
        return bad_value(o, "best_of", "more than n cannot be streamed");
    if ((uint64_t)r->best_of * r->solve.window > DEQ_MAX(o->context->conf->max_rows ? o->context->conf->max_rows : 8 * o->context->conf->max_sequences, 64u))
        return bad_value(o, r->best_of > r->n ? "best_of" : "n", "so many choices with windows of deq.window rows exceed engine.max_rows");
    if (!r->max_tokens && !r->echo)
        return bad_value(o, "max_tokens", "0 is for scoring a prompt, with echo true");
    if (!r->max_tokens && r->best_of > 1)
        return bad_value(o, "n", "must be 1 when max_tokens is 0");
    if (r->min_tokens > r->max_tokens)
        return bad_value(o, "min_tokens", "must be at most max_tokens");
    if (r->logprob_ids.n && r->logprobs < 0)
        return bad_value(o, "logprob_token_ids", "only with logprobs");
    for (size_t i = 0; i < r->n_prompts; i++) {
        struct deq_tokens *p = &r->prompts[i];
        const size_t most = r->truncate < 0 ? o->context->max_positions - (size_t)DEQ_MIN(r->max_tokens, (int64_t)o->context->max_positions - 1) : (size_t)r->truncate;
        if (r->truncate && p->n > most) { /* asked for by name, else never: the end stays */
            memmove(p->ids, p->ids + p->n - most, most * sizeof *p->ids);
            p->n = most;
        }
        if (!fits(o->context, p->n, r, o->err))
            return false;
    }
    return true;
}

void completion_request_free(struct completion_request *r)
{
    for (size_t i = 0; i < r->n_prompts; i++)
        deq_tokens_free(&r->prompts[i]);
    for (size_t i = 0; i < r->n_stops; i++)
        deq_free(r->stop[i]);
    deq_free(r->prompts);
    deq_free(r->bias);
    deq_free(r->salt);
    deq_tokens_free(&r->stop_ids);
    deq_tokens_free(&r->logprob_ids);
    *r = (struct completion_request){0};
}

bool request_completion(const struct request_context *c, bool chat, const char *body, size_t len, struct completion_request *ret,
                        struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .context = c, .err = err};
    struct completion_request r = {.chat = chat, .n = 1, .logprobs = -1, .temperature = 1, .top_p = 1, .repetition_penalty = 1,
                                   .max_tokens = chat ? (int64_t)c->max_positions : 16, .solve = solve_defaults(c)};
    bool ok = chat ? take_fields(&o, chat_fields, DEQ_COUNT(chat_fields), &r) : take_fields(&o, completion_fields, DEQ_COUNT(completion_fields), &r);
    ok = ok && check_together(&o, &r);
    if (ok && chat && c->conf->chat_stop[0]) { /* what begins the next message ends this one */
        const size_t n = strlen(c->conf->chat_stop);
        if ((r.stop[r.n_stops] = deq_alloc(n))) {
            memcpy(r.stop[r.n_stops], c->conf->chat_stop, n);
            r.stop_len[r.n_stops++] = n;
        } else {
            ok = no_memory(&o);
        }
    }
    json_decref(root);
    if (!ok) {
        completion_request_free(&r);
        return false;
    }
    *ret = r;
    return true;
}

/* --- Logits --- */

static bool take_logits_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    if (!json_is_string(v) && !json_is_array(v))
        return bad_type(o, "prompt", "a string or an array of token ids");
    return take_one_prompt(o, v, &((struct logits_request *)request)->prompt);
}

static bool take_positions(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const char *s = json_string_value(v);
    if (!s)
        return bad_type(o, f->name, "\"last\" or \"all\"");
    ((struct logits_request *)request)->all_positions = !strcmp(s, "all");
    return !strcmp(s, "all") || !strcmp(s, "last") || bad_value(o, f->name, "must be \"last\" or \"all\"");
}

static bool take_logits_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    return take_solve_object(o, v, &((struct logits_request *)request)->solve);
}

static const struct field logits_fields[] = {
    {"model", OTHER, 0, 0, 0, take_model, "string"},
    {"deq", OTHER, 0, 0, 0, take_logits_solve, "object"},
    {"positions", OTHER, 0, 0, 0, take_positions, "string: last, all"},
    {"prompt", OTHER, 0, 0, 0, take_logits_prompt, "string or array of token ids"},
};

bool request_logits(const struct request_context *c, const char *body, size_t len, struct logits_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .context = c, .err = err};
    struct logits_request r = {.solve = solve_defaults(c)};
    struct completion_request none = {.max_given = true};
    bool ok = take_fields(&o, logits_fields, DEQ_COUNT(logits_fields), &r) && never_empty(&o, &r.prompt) && fits(c, r.prompt.n, &none, err);
    const uint64_t bytes = (uint64_t)(r.all_positions ? r.prompt.n : 1) * deq_model_info(c->model).vocab_size * sizeof(float);
    if (ok && bytes > c->conf->max_logits_bytes)
        ok = fail(err, 400, "invalid_value", "positions", "positions: %llu bytes of logits exceed limits.max_logits_bytes %llu", (unsigned long long)bytes,
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
        return bad_type(o, f->name, "a string");
    t->prompt = v;
    t->name = f->name;
    return true;
}

static const struct field tokenize_fields_table[] = {
    {"model", OTHER, 0, 0, 0, take_model, "string"},
    {"content", OTHER, 0, 0, 0, take_string, "string"},
    {"prompt", OTHER, 0, 0, 0, take_string, "string"},
    {"parse_special", BOOL, 0, 0, offsetof(struct tokenize_fields, parse_special), NULL, NULL},
    {"add_special_tokens", BOOL, 0, 0, offsetof(struct tokenize_fields, add_special), NULL, NULL},
    {"add_special", BOOL, 0, 0, offsetof(struct tokenize_fields, add_special), NULL, NULL},
};

bool request_tokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .context = c, .err = err};
    struct tokenize_request r = {0};
    struct tokenize_fields t = {.parse_special = true}; /* this text becomes ids that the client sees, nothing else */
    bool ok = take_fields(&o, tokenize_fields_table, DEQ_COUNT(tokenize_fields_table), &t);
    if (ok && !t.prompt)
        ok = fail(err, 400, "missing_parameter", "prompt", "prompt: missing");
    ok = ok && take_text(&o, t.name, t.prompt, t.parse_special, &r.tokens);
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
    return take_ids(o, f->name, v, most_ids(o), &((struct tokenize_request *)request)->tokens);
}

static const struct field detokenize_fields[] = {
    {"model", OTHER, 0, 0, 0, take_model, "string"},
    {"tokens", OTHER, 0, 0, 0, take_tokens, "array of token ids"},
};

bool request_detokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .context = c, .err = err};
    struct tokenize_request r = {0};
    const json_t *tokens = json_object_get(root, "tokens");
    bool ok = take_fields(&o, detokenize_fields, DEQ_COUNT(detokenize_fields), &r);
    if (ok && (!tokens || json_is_null(tokens)))
        ok = fail(err, 400, "missing_parameter", "tokens", "tokens: missing");
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.tokens);
        return false;
    }
    *ret = r;
    return true;
}

/* --- The tables, for the test that compares them with openapi.json --- */

static void print_table(const char *where, const struct field *table, size_t n)
{
    static const char *const kinds[] = {[BOOL] = "boolean", [INT] = "integer", [NUMBER] = "number"};
    for (size_t i = 0; i < n; i++)
        printf("%s\t%s\t%s\t%.17g\t%.17g\n", where, table[i].name, table[i].kind >= OTHER ? table[i].type : kinds[table[i].kind], table[i].lo, table[i].hi);
}

void request_print_fields(void)
{
    print_table("/v1/completions", completion_fields, DEQ_COUNT(completion_fields));
    print_table("/v1/chat/completions", chat_fields, DEQ_COUNT(chat_fields));
    print_table("/v1/logits", logits_fields, DEQ_COUNT(logits_fields));
    print_table("/tokenize", tokenize_fields_table, DEQ_COUNT(tokenize_fields_table));
    print_table("/detokenize", detokenize_fields, DEQ_COUNT(detokenize_fields));
    print_table("deq", deq_fields, DEQ_COUNT(deq_fields));
    print_table("stream_options", stream_fields, DEQ_COUNT(stream_fields));
}
