#include "server/request.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

struct fields {
    const json_t *obj;
    const char *prefix; /* "" or "deq." */
    struct request_error *err;
    const char *known[48];
    size_t n_known;
};

static const json_t *field(struct fields *f, const char *name)
{
    if (f->n_known < sizeof f->known / sizeof *f->known)
        f->known[f->n_known++] = name;
    const json_t *v = json_object_get(f->obj, name);
    return v && !json_is_null(v) ? v : NULL;
}

static void path_of(const struct fields *f, const char *name, char out[64])
{
    snprintf(out, 64, "%s%.50s", f->prefix, name);
}

static bool bad_type(const struct fields *f, const char *name, const char *expected)
{
    char path[64];
    path_of(f, name, path);
    return fail(f->err, 400, "invalid_type", path, "%s: expected %s", path, expected);
}

static bool bad_range(const struct fields *f, const char *name, double lo, double hi)
{
    char path[64];
    path_of(f, name, path);
    return fail(f->err, 400, "invalid_value", path, "%s: must be between %g and %g", path, lo, hi);
}

static bool take_int(struct fields *f, const char *name, json_int_t lo, json_int_t hi, json_int_t *ret)
{
    const json_t *v = field(f, name);
    if (!v)
        return true;
    if (!json_is_integer(v))
        return bad_type(f, name, "an integer");
    if (json_integer_value(v) < lo || json_integer_value(v) > hi)
        return bad_range(f, name, (double)lo, (double)hi);
    *ret = json_integer_value(v);
    return true;
}

static bool take_number(struct fields *f, const char *name, double lo, double hi, float *ret)
{
    const json_t *v = field(f, name);
    if (!v)
        return true;
    if (!json_is_number(v))
        return bad_type(f, name, "a number");
    const float x = (float)json_number_value(v); /* compared as a float, since some bounds are floats: the bound itself is inside */
    if (!(x >= (float)lo && x <= (float)hi))
        return bad_range(f, name, lo, hi);
    *ret = x;
    return true;
}

static bool take_bool(struct fields *f, const char *name, bool *ret)
{
    const json_t *v = field(f, name);
    if (!v)
        return true;
    if (!json_is_boolean(v))
        return bad_type(f, name, "true or false");
    *ret = json_is_true(v);
    return true;
}

/* A field of the specification that we know but do not serve: its neutral value is taken, any other refused. */
static bool only_neutral(struct fields *f, const char *name, bool neutral)
{
    char path[64];
    path_of(f, name, path);
    return neutral ? true : fail(f->err, 400, "unsupported_parameter", path, "%s: not supported by this server", path);
}

static bool no_unknown(struct fields *f)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)f->obj, key, v) {
        bool known = false;
        for (size_t i = 0; i < f->n_known && !known; i++)
            known = !strcmp(key, f->known[i]);
        if (!known) {
            char path[64];
            path_of(f, key, path);
            return fail(f->err, 400, "unknown_parameter", path, "%s: unknown field", path);
        }
    }
    return true;
}

static bool take_model(struct fields *f, const struct request_context *c)
{
    const json_t *v = field(f, "model");
    if (!v)
        return true; /* one model is served: it is meant */
    if (!json_is_string(v))
        return bad_type(f, "model", "a string");
    if (strcmp(json_string_value(v), c->model_name))
        return fail(f->err, 404, "model_not_found", "model", "model: \"%.64s\" is not served here; \"%s\" is", json_string_value(v), c->model_name);
    return true;
}

static bool take_token_array(struct fields *f, const struct request_context *c, const char *name, const json_t *v, struct deq_tokens *out)
{
    const uint32_t vocab = deq_model_info(c->model).vocab_size;
    const size_t n = json_array_size(v);
    if (n > JSON_ARRAY_MAX)
        return bad_range(f, name, 0, JSON_ARRAY_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(v, i);
        size_t unused;
        if (!json_is_integer(t))
            return bad_type(f, name, "an array of token ids");
        const json_int_t id = json_integer_value(t);
        if (id < 0 || id >= (json_int_t)vocab || !deq_token_bytes(c->model, (uint32_t)id, &unused))
            return fail(f->err, 400, "invalid_token_id", name, "%s: token %lld at %zu is not in the vocabulary of %u", name, (long long)id, i, vocab);
        if (!deq_tokens_push(out, (uint32_t)id))
            return fail(f->err, 500, "internal_error", NULL, "out of memory");
    }
    return true;
}

/* A string or an array of token ids; absent or empty text is the start of a document. */
static bool take_prompt(struct fields *f, const struct request_context *c, struct deq_tokens *out)
{
    const json_t *v = field(f, "prompt");
    const struct deq_model_info info = deq_model_info(c->model);
    struct deq_err err;
    if (v && json_is_array(v)) {
        if (!json_array_size(v))
            return fail(f->err, 400, "invalid_value", "prompt", "prompt: the array is empty");
        return take_token_array(f, c, "prompt", v, out);
    }
    if (v && !json_is_string(v))
        return bad_type(f, "prompt", "a string or an array of token ids");
    if (v && deq_encode(c->model, json_string_value(v), json_string_length(v), false, out, &err))
        return fail(f->err, err.code == DEQ_ENOMEM ? 500 : 400, "invalid_value", "prompt", "prompt: %s", err.text);
    if (!out->n) {
        if (info.eos_id < 0)
            return fail(f->err, 400, "invalid_value", "prompt", "prompt: empty, and this model has no start of text");
        if (!deq_tokens_push(out, (uint32_t)info.eos_id))
            return fail(f->err, 500, "internal_error", NULL, "out of memory");
    }
    return true;
}

static bool take_solve(struct fields *outer, const struct request_context *c, struct deq_solve_params *p)
{
    const json_t *v = field(outer, "deq");
    if (!v)
        return true;
    if (!json_is_object(v))
        return bad_type(outer, "deq", "an object");
    struct fields f = {.obj = v, .prefix = "deq.", .err = outer->err};
    json_int_t max_iter = p->max_iter, min_iter = p->min_iter, window = p->window;
    const bool ok = take_number(&f, "tol", (double)c->conf->tol_min, (double)c->conf->tol_max, &p->tol) &&
                    take_int(&f, "max_iter", 1, c->conf->max_iter_max, &max_iter) && take_int(&f, "min_iter", 0, max_iter, &min_iter) &&
                    take_int(&f, "window", 1, DEQ_ROW_WINDOW_MAX, &window);
    if (!ok)
        return false;
    p->max_iter = (uint32_t)max_iter;
    p->min_iter = (uint32_t)DEQ_MIN(min_iter, max_iter);
    p->window = (uint32_t)window;
    const json_t *solver = field(&f, "solver"), *warm = field(&f, "warm_start");
    if (solver && !json_is_string(solver))
        return bad_type(&f, "solver", "a string");
    if (solver && !deq_solver_by_name(json_string_value(solver), &p->solver))
        return fail(f.err, 400, "invalid_value", "deq.solver", "deq.solver: must be picard, anderson or broyden");
    if (warm && !json_is_string(warm))
        return bad_type(&f, "warm_start", "a string");
    if (warm && !deq_warm_by_name(json_string_value(warm), &p->warm_start))
        return fail(f.err, 400, "invalid_value", "deq.warm_start", "deq.warm_start: must be zero, previous or predictor");
    if (p->warm_start == DEQ_WARM_PREDICTOR && !deq_model_info(c->model).has_predictor)
        return fail(f.err, 400, "invalid_value", "deq.warm_start", "deq.warm_start: this model has no predictor");
    return no_unknown(&f);
}

static bool take_stops(struct fields *f, const struct request_context *c, struct completion_request *r)
{
    const json_t *v = field(f, "stop");
    const size_t n = !v ? 0 : json_is_array(v) ? json_array_size(v) : 1;
    const size_t most = DEQ_MIN((size_t)c->conf->max_stop, (size_t)REQUEST_STOPS_MAX);
    if (v && !json_is_string(v) && !json_is_array(v))
        return bad_type(f, "stop", "a string or an array of strings");
    if (n > most)
        return fail(f->err, 400, "invalid_value", "stop", "stop: at most %zu strings", most);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s))
            return bad_type(f, "stop", "a string or an array of strings");
        const size_t len = json_string_length(s);
        if (!len || len > c->conf->max_stop_bytes)
            return fail(f->err, 400, "invalid_value", "stop", "stop: a string must have 1 to %u bytes", c->conf->max_stop_bytes);
        if (!(r->stop[i] = deq_alloc(len)))
            return fail(f->err, 500, "internal_error", NULL, "out of memory");
        memcpy(r->stop[i], json_string_value(s), len);
        r->stop_len[i] = len;
        r->n_stops = i + 1;
    }
    return true;
}

static bool take_stream_options(struct fields *f, struct completion_request *r)
{
    const json_t *v = field(f, "stream_options");
    if (!v)
        return true;
    if (!json_is_object(v))
        return bad_type(f, "stream_options", "an object");
    if (!r->stream)
        return fail(f->err, 400, "invalid_value", "stream_options", "stream_options: only with stream true");
    struct fields o = {.obj = v, .prefix = "stream_options.", .err = f->err};
    return take_bool(&o, "include_usage", &r->include_usage) && no_unknown(&o);
}

/* Fields of the specification that only have their neutral value here. */
static bool take_neutral(struct fields *f)
{
    json_int_t one = 1, best = 1;
    bool echo = false;
    float presence = 0, frequency = 0;
    if (!take_int(f, "n", 1, 128, &one) || !take_int(f, "best_of", 0, 20, &best) || !take_bool(f, "echo", &echo) ||
        !take_number(f, "presence_penalty", -2, 2, &presence) || !take_number(f, "frequency_penalty", -2, 2, &frequency))
        return false;
    const json_t *suffix = field(f, "suffix"), *bias = field(f, "logit_bias"), *user = field(f, "user");
    if (user && !json_is_string(user))
        return bad_type(f, "user", "a string");
    if (suffix && !json_is_string(suffix))
        return bad_type(f, "suffix", "a string");
    if (bias && !json_is_object(bias))
        return bad_type(f, "logit_bias", "an object");
    return only_neutral(f, "n", one == 1) && only_neutral(f, "best_of", best <= 1) && only_neutral(f, "echo", !echo) &&
           only_neutral(f, "presence_penalty", presence == 0) && only_neutral(f, "frequency_penalty", frequency == 0) &&
           only_neutral(f, "suffix", !suffix || !json_string_length(suffix)) && only_neutral(f, "logit_bias", !bias || !json_object_size(bias));
}

static bool fits(const struct request_context *c, size_t n_prompt, bool max_given, uint32_t *max_tokens, struct request_error *err)
{
    const size_t room = n_prompt < c->max_positions ? c->max_positions - n_prompt : 0;
    if (n_prompt <= c->max_positions && *max_tokens <= room)
        return true;
    if (!max_given && room) { /* the default of 16 was nobody's wish */
        *max_tokens = (uint32_t)room;
        return true;
    }
    err->n_prompt_tokens = n_prompt;
    err->n_ctx = c->max_positions;
    if (!*max_tokens)
        return fail(err, 400, "context_length_exceeded", "prompt", "the prompt has %zu tokens, the limit is %u (engine.max_positions)", n_prompt,
                    c->max_positions);
    return fail(err, 400, "context_length_exceeded", "max_tokens",
                "the prompt has %zu tokens and max_tokens is %u: together more than the limit of %u (engine.max_positions)", n_prompt, *max_tokens,
                c->max_positions);
}

void completion_request_free(struct completion_request *r)
{
    deq_tokens_free(&r->prompt);
    for (size_t i = 0; i < r->n_stops; i++)
        deq_free(r->stop[i]);
    r->n_stops = 0;
}

bool request_completion(const struct request_context *c, const char *body, size_t len, struct completion_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    struct fields f = {.obj = root, .prefix = "", .err = err};
    const struct deq_request d = deq_request_defaults(c->model);
    struct completion_request r = {.logprobs = -1, .sampling = {.temperature = 1, .top_p = 1}, .solve = d.solve};
    json_int_t max_tokens = 16, top_k = 0, seed = 0, logprobs = -1;
    const bool max_given = field(&f, "max_tokens") != NULL;
    bool ok = take_model(&f, c) && take_int(&f, "max_tokens", 0, INT32_MAX, &max_tokens) &&
              take_number(&f, "temperature", 0, 2, &r.sampling.temperature) && take_number(&f, "top_p", 0, 1, &r.sampling.top_p) &&
              take_number(&f, "min_p", 0, 1, &r.sampling.min_p) && take_int(&f, "top_k", -1, INT32_MAX, &top_k) &&
              take_int(&f, "seed", INT64_MIN, INT64_MAX, &seed) && take_int(&f, "logprobs", 0, c->conf->max_logprobs, &logprobs) &&
              take_bool(&f, "stream", &r.stream) && take_bool(&f, "ignore_eos", &r.ignore_eos) && take_stream_options(&f, &r) && take_stops(&f, c, &r) &&
              take_neutral(&f) && take_solve(&f, c, &r.solve) && take_prompt(&f, c, &r.prompt) && no_unknown(&f);
    r.max_tokens = (uint32_t)max_tokens;
    r.sampling.top_k = top_k > 0 ? (uint32_t)top_k : 0;
    r.sampling.seed = field(&f, "seed") ? (uint64_t)seed : 0;
    r.logprobs = (int)logprobs;
    ok = ok && fits(c, r.prompt.n, max_given, &r.max_tokens, err);
    if (ok && !r.max_tokens)
        ok = fail(err, 400, "invalid_value", "max_tokens", "max_tokens: must be at least 1");
    json_decref(root);
    if (!ok) {
        completion_request_free(&r);
        return false;
    }
    *ret = r;
    return true;
}

bool request_logits(const struct request_context *c, const char *body, size_t len, struct logits_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    struct fields f = {.obj = root, .prefix = "", .err = err};
    struct logits_request r = {.solve = deq_request_defaults(c->model).solve};
    uint32_t none = 0;
    bool ok = take_model(&f, c) && take_solve(&f, c, &r.solve) && take_prompt(&f, c, &r.prompt);
    const json_t *positions = ok ? field(&f, "positions") : NULL;
    if (positions && !json_is_string(positions))
        ok = bad_type(&f, "positions", "\"last\" or \"all\"");
    else if (positions && strcmp(json_string_value(positions), "last") && strcmp(json_string_value(positions), "all"))
        ok = fail(err, 400, "invalid_value", "positions", "positions: must be \"last\" or \"all\"");
    r.all_positions = ok && positions && !strcmp(json_string_value(positions), "all");
    ok = ok && no_unknown(&f) && fits(c, r.prompt.n, true, &none, err);
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

bool request_tokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    struct fields f = {.obj = root, .prefix = "", .err = err};
    struct tokenize_request r = {0};
    struct deq_err e;
    bool special = false, ok = take_model(&f, c) && take_bool(&f, "parse_special", &special);
    const json_t *prompt = ok ? field(&f, "prompt") : NULL, *content = ok ? field(&f, "content") : NULL, *v = prompt ? prompt : content;
    bool add_special = true; /* our tokenizers add none either way */
    ok = ok && take_bool(&f, "add_special_tokens", &add_special) && take_bool(&f, "add_special", &add_special) && no_unknown(&f);
    if (ok && !v)
        ok = fail(err, 400, "missing_parameter", "prompt", "prompt: missing");
    else if (ok && !json_is_string(v))
        ok = bad_type(&f, prompt ? "prompt" : "content", "a string");
    else if (ok && deq_encode(c->model, json_string_value(v), json_string_length(v), special, &r.tokens, &e))
        ok = fail(err, e.code == DEQ_ENOMEM ? 500 : 400, "invalid_value", "prompt", "prompt: %s", e.text);
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.tokens);
        return false;
    }
    *ret = r;
    return true;
}

bool request_detokenize(const struct request_context *c, const char *body, size_t len, struct detokenize_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = parse(body, len, err);
    if (!root)
        return false;
    struct fields f = {.obj = root, .prefix = "", .err = err};
    struct detokenize_request r = {0};
    bool ok = take_model(&f, c);
    const json_t *v = ok ? field(&f, "tokens") : NULL;
    ok = ok && no_unknown(&f);
    if (ok && !v)
        ok = fail(err, 400, "missing_parameter", "tokens", "tokens: missing");
    else if (ok && !json_is_array(v))
        ok = bad_type(&f, "tokens", "an array of token ids");
    ok = ok && take_token_array(&f, c, "tokens", v, &r.tokens);
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.tokens);
        return false;
    }
    *ret = r;
    return true;
}
