#include "server/api/request.h"

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
        return fields_fail(o->err, 404, "model_not_found", "model", "model: \"%.64s\" is not served here; \"%s\" is",
                           json_string_value(v), o->context->model_name);
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

static bool take_text(const struct object *o, const char *name, const json_t *v, bool parse_special,
                      bool add_special, struct deq_tokens *out)
{
    struct deq_err err;
    if (deq_encode(o->context->model, json_string_value(v), json_string_length(v), parse_special, out, &err))
        return err.code == DEQ_ENOMEM ? fields_no_memory(o)
                                      : fields_fail(o->err, 400, "invalid_value", name, "%s: %s", name, err.text);
    return !add_special || deq_begin_text(o->context->model, out) || fields_no_memory(o);
}

bool request_never_empty(const struct object *o, const char *name, struct deq_tokens *t)
{
    const struct deq_model_info info = deq_model_info(o->context->model);
    if (t->n)
        return true;
    if (info.start_id < 0)
        return fields_bad_value(o, name, "empty, and this model has no start of text");
    return deq_tokens_push(t, (uint32_t)info.start_id) || fields_no_memory(o);
}

bool request_take_one_prompt(const struct object *o, const char *name, const json_t *v, bool add_special,
                             struct deq_tokens *out)
{
    if (json_is_array(v) && !json_array_size(v))
        return fields_bad_value(o, name, "the array is empty");
    if (json_is_array(v))
        return request_take_ids(o, name, v, most_ids(o), out);
    return take_text(o, name, v, false, add_special, out) && request_never_empty(o, name, out);
}

bool request_no_prompt(const struct object *o, bool follow, struct deq_tokens **prompts, size_t *n)
{
    if (!(*prompts = DEQ_NEW_ARRAY(struct deq_tokens, 1)))
        return fields_no_memory(o);
    *n = 1;
    return follow || request_never_empty(o, "prompt", *prompts);
}

void request_prompts_free(struct deq_tokens *prompts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        deq_tokens_free(&prompts[i]);
    deq_free(prompts);
}

/* "" or [] */
static bool is_empty(const json_t *prompt)
{
    return json_is_string(prompt) ? !json_string_length(prompt) : json_is_array(prompt) && !json_array_size(prompt);
}

bool request_take_prompts(const struct object *o, const char *name, const json_t *v, bool add_special, bool follow,
                          struct deq_tokens **prompts, size_t *n)
{
    static const char shapes[] = "a string, an array of strings, of token ids, or of arrays of token ids";
    const json_t *first = json_is_array(v) ? json_array_get(v, 0) : NULL;
    const bool many = first && !json_is_number(first);
    const size_t count = many ? json_array_size(v) : 1;
    if (!json_is_string(v) && !json_is_array(v))
        return fields_bad_type(o, name, shapes);
    if (count > o->context->conf->max_prompts)
        return fields_fail(o->err, 400, "invalid_value", name, "%s: %zu prompts, at most %u (limits.max_prompts)", name,
                           count, o->context->conf->max_prompts);
    request_prompts_free(*prompts, *n);
    *n = 0;
    if (!(*prompts = DEQ_NEW_ARRAY(struct deq_tokens, count)))
        return fields_no_memory(o);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = many ? json_array_get(v, i) : v;
        if (many && (json_is_string(one) != json_is_string(first) || (!json_is_string(one) && !json_is_array(one))))
            return fields_bad_type(o, name, shapes);
        *n = i + 1;
        if (!(follow && is_empty(one)) &&
            !request_take_one_prompt(o, name, one, add_special && !follow, &(*prompts)[i]))
            return false;
    }
    return true;
}

/* --- Lengths --- */

const char *request_length_field(const struct completion_request *r)
{
    return r->responses ? "max_output_tokens" : "max_tokens";
}

/* Whose limit a text's length is. */
static const char *limit_of(const struct request_context *c)
{
    const uint32_t model = deq_model_info(c->model).max_positions;
    return model && model <= c->max_positions ? "the model's" : "engine.max_positions";
}

bool request_prompt_fits(const struct request_context *c, const char *name, size_t n_prompt,
                         struct request_error *err)
{
    if (n_prompt <= c->max_positions)
        return true;
    err->n_prompt_tokens = n_prompt;
    err->n_ctx = c->max_positions;
    return fields_fail(err, 400, "context_length_exceeded", name, "the prompt has %zu tokens, the limit is %u (%s)",
                       n_prompt, c->max_positions, limit_of(c));
}

bool request_fits(const struct request_context *c, size_t n_prompt, struct completion_request *r,
                  struct request_error *err)
{
    const size_t room = n_prompt < c->max_positions ? c->max_positions - n_prompt : 0;
    if (n_prompt <= c->max_positions && (uint64_t)r->max_tokens <= room)
        return true;
    if (!r->max_given && room) /* max_tokens was defaulted: it is clamped to what fits */
        return true;
    if (!request_prompt_fits(c, r->responses ? "input" : r->chat ? "messages" : "prompt", n_prompt, err))
        return false;
    const char *const most = request_length_field(r);
    err->n_prompt_tokens = n_prompt;
    err->n_ctx = c->max_positions;
    return fields_fail(err, 400, "context_length_exceeded", most,
                       "the prompt has %zu tokens and %s is %lld: together more than the limit of %u (%s)", n_prompt,
                       most, (long long)r->max_tokens, c->max_positions, limit_of(c));
}

/* --- Logits --- */

static bool take_logits_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct logits_request *r = request;
    if (!json_is_string(v) && !json_is_array(v))
        return fields_bad_type(o, "prompt", "a string or an array of token ids");
    return request_take_one_prompt(o, f->name, v, r->add_special, &r->prompt);
}

static bool take_positions(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    const char *s = fields_word(v);
    if (!s)
        return fields_bad_type(o, f->name, "\"last\" or \"all\"");
    ((struct logits_request *)request)->all_positions = !strcmp(s, "all");
    return !strcmp(s, "all") || !strcmp(s, "last") || fields_bad_value(o, f->name, "must be \"last\" or \"all\"");
}

bool request_take_salt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct cache_salt *salt = (struct cache_salt *)(void *)((char *)request + f->at);
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    const size_t n = json_string_length(v);
    if (!n || n > SALT_MAX_BYTES)
        return fields_fail(o->err, 400, "invalid_value", f->name, "%s: must have 1 to %d bytes", f->name,
                           SALT_MAX_BYTES);
    salt->len = n;
    memcpy(salt->bytes, json_string_value(v), n);
    return true;
}

static bool take_logits_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    return request_take_solve_object(o, v, &((struct logits_request *)request)->solve, NULL);
}

/* The order is the order of reading. */
static const struct field logits_rows[] = {
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},
    {"deq", OTHER, 0, 0, 0, take_logits_solve, "object"},
    {"positions", OTHER, 0, 0, 0, take_positions, "string: last, all"},
    {"add_special_tokens", BOOL, 0, 0, offsetof(struct logits_request, add_special), NULL, NULL},
    {"cache_salt", OTHER, 0, 0, offsetof(struct logits_request, salt), request_take_salt, "string"},
    {"prompt", OTHER, 0, 0, 0, take_logits_prompt, "string or array of token ids"},
};

const struct fields logits_fields = {
    .rows = logits_rows, .n = DEQ_COUNT(logits_rows), .inner = {&request_solve_fields}};

bool request_logits(const struct request_context *c, const char *body, size_t len, struct logits_request *ret,
                    struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .fields = &logits_fields, .context = c, .err = err};
    struct logits_request r = {.add_special = true, .solve = request_solve_defaults(c)};
    bool ok = fields_take(&o, &r) && request_never_empty(&o, "prompt", &r.prompt) &&
              request_prompt_fits(c, "prompt", r.prompt.n, err);
    const uint64_t bytes =
        (uint64_t)(r.all_positions ? r.prompt.n : 1) * deq_model_info(c->model).vocab_size * sizeof(float);
    if (ok && bytes > c->conf->max_logits_bytes)
        ok = fields_fail(err, 400, "invalid_value", "positions",
                         "positions: %llu bytes of logits exceed limits.max_logits_bytes %llu",
                         (unsigned long long)bytes, (unsigned long long)c->conf->max_logits_bytes);
    json_decref(root);
    if (!ok) {
        deq_tokens_free(&r.prompt);
        return false;
    }
    *ret = r;
    return true;
}

/* --- Text and tokens --- */

struct tokenize_body {
    const json_t *prompt;
    const char *name;
    bool parse_special, add_special;
};

static bool take_string(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct tokenize_body *t = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    t->prompt = v;
    t->name = f->name;
    t->add_special = !strcmp(f->name, "prompt"); /* vLLM's default; llama.cpp's, for content, is not to */
    return true;
}

/* The order is the order of reading: prompt wins, and what was asked for wins over its default. */
static const struct field tokenize_rows[] = {
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},
    {"content", OTHER, 0, 0, 0, take_string, "string"},
    {"prompt", OTHER, 0, 0, 0, take_string, "string"},
    {"parse_special", BOOL, 0, 0, offsetof(struct tokenize_body, parse_special), NULL, NULL},
    {"add_special_tokens", BOOL, 0, 0, offsetof(struct tokenize_body, add_special), NULL, NULL},
    {"add_special", BOOL, 0, 0, offsetof(struct tokenize_body, add_special), NULL, NULL},
};

const struct fields tokenize_fields = {.rows = tokenize_rows, .n = DEQ_COUNT(tokenize_rows), .body = BODY_TOKENIZE};

bool request_tokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret,
                      struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .fields = &tokenize_fields, .context = c, .err = err};
    struct tokenize_request r = {0};
    struct tokenize_body t = {.parse_special = true}; /* this text becomes ids that the client sees, nothing else */
    bool ok = fields_take(&o, &t);
    if (ok && !t.prompt)
        ok = fields_missing(&o, "prompt");
    ok = ok && take_text(&o, t.name, t.prompt, t.parse_special, t.add_special, &r.tokens);
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

static const struct field detokenize_rows[] = {
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},
    {"tokens", OTHER, 0, 0, 0, take_tokens, "array of token ids"},
};

const struct fields detokenize_fields = {.rows = detokenize_rows, .n = DEQ_COUNT(detokenize_rows)};

bool request_detokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret,
                        struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .fields = &detokenize_fields, .context = c, .err = err};
    struct tokenize_request r = {0};
    bool ok = fields_take(&o, &r);
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
