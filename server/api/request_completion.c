/* The bodies of /v1/completions, /v1/chat/completions and /v1/responses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "server/api/reply.h"
#include "server/api/request_impl.h"

/* A stream of /v1/responses ends with so many copies of its text, in one piece, and has so many response objects. */
enum { RESPONSE_COPIES = 5, RESPONSE_OBJECTS = 3 };

static bool take_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)f;
    return request_take_solve_object(o, v, &((struct completion_request *)request)->solve);
}

/* Four shapes: a string, an array of strings, of token ids, of arrays of token ids. */
static bool take_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const json_t *first = json_is_array(v) ? json_array_get(v, 0) : NULL;
    const bool many = first && !json_is_number(first);
    const size_t n = many ? json_array_size(v) : 1;
    (void)f;
    if (!json_is_string(v) && !json_is_array(v))
        return fields_bad_type(o, "prompt", "a string, an array of strings, of token ids, or of arrays of token ids");
    if (n > o->context->conf->max_prompts)
        return fields_fail(o->err, 400, "invalid_value", "prompt", "prompt: %zu prompts, at most %u (limits.max_prompts)", n, o->context->conf->max_prompts);
    deq_free(r->prompts);
    r->n_prompts = 0;
    if (!(r->prompts = DEQ_NEW_ARRAY(struct deq_tokens, n)))
        return fields_no_memory(o);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = many ? json_array_get(v, i) : v;
        if (many && (json_is_string(one) != json_is_string(first) || (!json_is_string(one) && !json_is_array(one))))
            return fields_bad_type(o, "prompt", "a string, an array of strings, of token ids, or of arrays of token ids");
        r->n_prompts = i + 1;
        if (!request_take_one_prompt(o, one, &r->prompts[i]))
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
        return fields_bad_type(o, f->name, "a string or an array of strings");
    if (n > most)
        return fields_fail(o->err, 400, "invalid_value", "stop", "stop: at most %zu strings", most);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s))
            return fields_bad_type(o, f->name, "a string or an array of strings");
        const size_t len = json_string_length(s);
        if (len > c->max_stop_bytes)
            return fields_fail(o->err, 400, "invalid_value", "stop",
                               "stop: a string must have at most %u bytes (limits.max_stop_bytes)", c->max_stop_bytes);
        if (!len) /* asks for nothing */
            continue;
        if (!(r->stop[r->n_stops] = deq_alloc(len)))
            return fields_no_memory(o);
        memcpy(r->stop[r->n_stops], json_string_value(s), len);
        r->stop_len[r->n_stops++] = len;
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
        return fields_bad_type(outer, f->name, "an object");
    const struct object o = {.json = v,
                             .prefix = "stream_options.",
                             .body = BODY_STREAM_OPTIONS,
                             .context = outer->context,
                             .err = outer->err};
    if (!fields_take_fields(&o, stream_fields, DEQ_COUNT(stream_fields), r))
        return false;
    if ((r->include_usage || r->continuous_usage) && !r->stream)
        return fields_bad_value(outer, f->name, "only with stream true");
    return true;
}

static bool take_bias(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const uint32_t vocab = deq_model_info(o->context->model).vocab_size;
    const char *key;
    json_t *x;
    if (!json_is_object(v))
        return fields_bad_type(o, f->name, "an object of token ids and numbers");
    if (json_object_size(v) > BIAS_MAX)
        return fields_fail(o->err, 400, "invalid_value", f->name, "logit_bias: at most %d tokens", BIAS_MAX);
    if (!(r->bias = DEQ_NEW_ARRAY(struct deq_logit_bias, json_object_size(v))))
        return fields_no_memory(o);
    json_object_foreach((json_t *)v, key, x) {
        const size_t n = strlen(key);
        const unsigned long id = n && n < 9 && strspn(key, "0123456789") == n ? strtoul(key, NULL, 10) : UINT32_MAX;
        if (id >= vocab)
            return fields_fail(o->err, 400, "invalid_token_id", f->name, "logit_bias: \"%.20s\" is not an id of the vocabulary of %u", key, vocab);
        struct deq_logit_bias *b = &r->bias[r->n_bias++];
        b->token = (uint32_t)id;
        if (!fields_take_number(o, f->name, x, -100, 100, &b->bias))
            return false;
    }
    return true;
}

static bool take_stop_ids(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return request_take_ids(o, f->name, v, JSON_ARRAY_MAX, &((struct completion_request *)request)->stop_ids);
}

static bool take_logprob_ids(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return request_take_ids(o, f->name, v, o->context->conf->max_logprobs, &((struct completion_request *)request)->logprob_ids);
}

static bool take_logprobs(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 0, o->context->conf->max_logprobs, &((struct completion_request *)request)->logprobs);
}

static bool take_chat_logprobs(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_boolean(v))
        return fields_bad_type(o, f->name, "a boolean");
    r->logprobs = json_is_true(v) ? 0 : -1;
    return true;
}

static bool take_top_logprobs(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    int64_t n;
    if (!fields_take_int(o, f->name, v, 0, o->context->conf->max_logprobs, &n))
        return false;
    if (n && r->logprobs < 0)
        return fields_bad_value(o, f->name, r->responses ? "only with message.output_text.logprobs in include"
                                                          : "only with logprobs true");
    r->logprobs = r->logprobs < 0 ? -1 : n;
    return true;
}

static bool take_n(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 1, DEQ_MIN(o->context->conf->max_n, o->context->conf->max_sequences), (int64_t *)(void *)((char *)request + f->at));
}

static bool take_best_of(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 0, DEQ_MIN(o->context->conf->max_n, o->context->conf->max_sequences), (int64_t *)(void *)((char *)request + f->at));
}

static bool take_max_tokens(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    r->max_given = true;
    return fields_take_int(o, f->name, v, r->chat ? 1 : 0, INT32_MAX, &r->max_tokens);
}

static bool take_salt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    r->salt_len = json_string_length(v);
    if (!r->salt_len || r->salt_len > SALT_MAX_BYTES)
        return fields_fail(o->err, 400, "invalid_value", f->name, "cache_salt: must have 1 to %d bytes", SALT_MAX_BYTES);
    if (!(r->salt = deq_alloc(r->salt_len)))
        return fields_no_memory(o);
    memcpy(r->salt, json_string_value(v), r->salt_len);
    return true;
}

static bool take_cache(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const char *const names[] = {[DEQ_CACHE_EXACT] = "exact", [DEQ_CACHE_APPROXIMATE] = "approximate", [DEQ_CACHE_OFF] = "off"};
    struct completion_request *r = request;
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    for (size_t i = 0; i < DEQ_COUNT(names); i++)
        if (!strcmp(fields_word(v), names[i])) {
            r->cache = (enum deq_cache)i;
            return true;
        }
    return fields_bad_value(o, f->name, "must be exact, approximate or off");
}

static bool take_include(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_array(v) || json_array_size(v) > JSON_ARRAY_MAX)
        return fields_bad_type(o, f->name, "an array of strings");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *s = fields_word(json_array_get(v, i));
        if (!s)
            return fields_bad_type(o, f->name, "an array of strings");
        if (strcmp(s, "deq.tokens"))
            return fields_bad_value(o, f->name, "knows deq.tokens only");
        r->telemetry = true;
    }
    return true;
}

static bool take_user(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const struct deq_hash fixed = {{3, 4}};
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    ((struct completion_request *)request)->user_hash = deq_siphash(&fixed, json_string_value(v), json_string_length(v)).h[0] | 1;
    return true;
}

static bool take_seed(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    r->seed_given = true;
    return fields_take_int(o, f->name, v, INT64_MIN, INT64_MAX, &r->seed);
}

/* The configuration's, or one of its own; 53 bits, which every client's JSON holds. */
static bool draw_seed(const struct object *o, int64_t *ret)
{
    struct deq_hash bits;
    if (conf_seed(o->context->conf, ret))
        return true;
    if (!deq_hash_key(&bits))
        return fields_fail(o->err, 500, "internal_error", NULL, "seed: the system gave no random bits");
    *ret = (int64_t)(bits.h[0] >> 11);
    return true;
}

static bool take_responses_include(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_array(v) || json_array_size(v) > JSON_ARRAY_MAX)
        return fields_bad_type(o, f->name, "an array of strings");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *s = json_string_value(json_array_get(v, i));
        if (!s)
            return fields_bad_type(o, f->name, "an array of strings");
        if (!strcmp(s, "message.output_text.logprobs"))
            r->logprobs = 0;
        else if (strcmp(s, "reasoning.encrypted_content")) /* there is no reasoning to be had, encrypted or not */
            return fields_bad_value(o, f->name, "knows message.output_text.logprobs and reasoning.encrypted_content (others "
                                                "are not supported)");
    }
    return true;
}

/* auto: what does not fit is left out in front. */
static bool take_truncation(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    const char *s = json_string_value(v);
    if (!s || (strcmp(s, "auto") && strcmp(s, "disabled")))
        return fields_bad_value(o, f->name, "must be auto or disabled");
    r->truncate = !strcmp(s, "auto") ? -1 : r->truncate;
    return true;
}

static bool take_instructions(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)request; /* request_take_input reads them */
    return json_is_string(v) || fields_bad_type(o, f->name, "a string");
}

static bool take_metadata(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    (void)request; /* tell_request repeats it */
    return json_is_object(v) || fields_bad_type(o, f->name, "an object");
}

#define AT(name) offsetof(struct completion_request, name)
/* Of all three endpoints. The order is the order of reading. */
#define COMMON_FIELDS                                                                                           \
    {"model", OTHER, 0, 0, 0, request_take_model, "string"},                                                    \
    {"temperature", NUMBER, 0, 2, AT(temperature), NULL, NULL},                                                 \
    {"top_p", NUMBER, 0, 1, AT(top_p), NULL, NULL},                                                             \
    {"stream", BOOL, 0, 0, AT(stream), NULL, NULL},                                                             \
    {"stop", OTHER, 0, 0, 0, take_stops, "string or array of strings"},                                         \
    {"presence_penalty", NUMBER, -2, 2, AT(presence_penalty), NULL, NULL},                                      \
    {"frequency_penalty", NUMBER, -2, 2, AT(frequency_penalty), NULL, NULL},                                    \
    {"logit_bias", OTHER, 0, 0, 0, take_bias, "object of token ids and numbers"},                               \
    {"seed", OTHER, -0x1p63, 0x1p63, 0, take_seed, "integer"},                                                  \
    {"user", OTHER, 0, 0, 0, take_user, "string"},                                                              \
    {"top_k", INT, -1, INT32_MAX, AT(top_k), NULL, NULL},                                                       \
    {"min_p", NUMBER, 0, 1, AT(min_p), NULL, NULL},                                                             \
    {"repetition_penalty", NUMBER, 0.01, 100, AT(repetition_penalty), NULL, NULL},                              \
    {"stop_token_ids", OTHER, 0, 0, 0, take_stop_ids, "array of token ids"},                                    \
    {"ignore_eos", BOOL, 0, 0, AT(ignore_eos), NULL, NULL},                                                     \
    {"min_tokens", INT, 0, INT32_MAX, AT(min_tokens), NULL, NULL},                                              \
    {"return_tokens_as_token_ids", BOOL, 0, 0, AT(tokens_as_ids), NULL, NULL},                                  \
    {"truncate_prompt_tokens", INT, -1, INT32_MAX, AT(truncate), NULL, NULL},                                   \
    {"priority", INT, -20, 20, AT(priority), NULL, NULL},                                                       \
    {"cache_salt", OTHER, 0, 0, 0, take_salt, "string"},                                                        \
    {"cache", OTHER, 0, 0, 0, take_cache, "string: exact, approximate, off"},                                   \
    {"logprob_token_ids", OTHER, 0, 0, 0, take_logprob_ids, "array of token ids"},                              \
    {"deadline_ms", INT, 1, 86400000, AT(deadline_ms), NULL, NULL},                                             \
    {"deq", OTHER, 0, 0, 0, take_solve, "object"}
/* Of /v1/completions and /v1/chat/completions. */
#define SHARED_FIELDS                                                                                           \
    COMMON_FIELDS,                                                                                              \
    {"n", OTHER, 1, -1, AT(n), take_n, "integer"},                                                              \
    {"stream_options", OTHER, 0, 0, 0, take_stream_options, "object"},                                          \
    {"return_token_ids", BOOL, 0, 0, AT(token_ids), NULL, NULL},                                                \
    {"include", OTHER, 0, 0, 0, take_include, "array of strings"}

static const struct field completion_fields[] = {
    SHARED_FIELDS,
    {"max_tokens", OTHER, 0, INT32_MAX, 0, take_max_tokens, "integer"},
    {"logprobs", OTHER, 0, -1, 0, take_logprobs, "integer"},
    {"best_of", OTHER, 0, -1, AT(best_of), take_best_of, "integer"},
    {"echo", BOOL, 0, 0, AT(echo), NULL, NULL},
    {"prompt", OTHER, 0, 0, 0, take_prompt, "string, array of strings, of token ids, or of arrays of token ids"},
};

static const struct field chat_fields[] = {
    SHARED_FIELDS,
    {"max_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"max_completion_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"logprobs", OTHER, 0, 0, 0, take_chat_logprobs, "boolean"},
    {"top_logprobs", OTHER, 0, -1, 0, take_top_logprobs, "integer"},
    {"messages", OTHER, 0, 0, 0, request_take_messages, "array of messages"},
};

static const struct field responses_fields[] = {
    COMMON_FIELDS,
    {"max_output_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"include", OTHER, 0, 0, 0, take_responses_include, "array of strings"},
    {"top_logprobs", OTHER, 0, -1, 0, take_top_logprobs, "integer"},
    {"truncation", OTHER, 0, 0, 0, take_truncation, "string: auto, disabled"},
    {"instructions", OTHER, 0, 0, 0, take_instructions, "string"},
    {"metadata", OTHER, 0, 0, 0, take_metadata, "object"},
    {"input", OTHER, 0, 0, 0, request_take_input, "string or array of messages"},
};

static const struct {
    const char *path;
    enum body body;
    const struct field *fields;
    size_t n;
} endpoints[] = {
    [ON_COMPLETIONS] = {"/v1/completions", BODY_COMPLETION, completion_fields, DEQ_COUNT(completion_fields)},
    [ON_CHAT] = {"/v1/chat/completions", BODY_CHAT, chat_fields, DEQ_COUNT(chat_fields)},
    [ON_RESPONSES] = {"/v1/responses", BODY_RESPONSES, responses_fields, DEQ_COUNT(responses_fields)},
};

/* What one field's range cannot say. */
static bool check_together(const struct object *o, struct completion_request *r)
{
    if (!r->n_prompts) { /* absent: the start of a document */
        if (r->chat)
            return fields_missing(o, r->responses ? "input" : "messages");
        if (!(r->prompts = DEQ_NEW_ARRAY(struct deq_tokens, 1)))
            return fields_no_memory(o);
        r->n_prompts = 1;
        if (!request_never_empty(o, &r->prompts[0]))
            return false;
    }
    r->best_of = r->best_of ? r->best_of : r->n;
    if (r->best_of < r->n)
        return fields_bad_value(o, "best_of", "must be at least n");
    if (r->best_of > r->n && r->stream)
        return fields_bad_value(o, "best_of", "more than n cannot be streamed");
    if ((uint64_t)r->best_of * r->solve.window > o->context->max_rows)
        return fields_bad_value(o, r->best_of > r->n ? "best_of" : r->responses ? "deq.window" : "n",
                                "so many choices with windows of deq.window rows exceed engine.max_rows");
    if (!r->max_tokens && !r->echo)
        return fields_bad_value(o, "max_tokens", "0 is for scoring a prompt, with echo true");
    if (!r->max_tokens && r->best_of > 1)
        return fields_bad_value(o, "n", "must be 1 when max_tokens is 0");
    if (r->min_tokens > r->max_tokens)
        return fields_fail(o->err, 400, "invalid_value", "min_tokens", "min_tokens: must be at most %s",
                           request_length_field(r));
    if (r->logprob_ids.n && r->logprobs < 0)
        return fields_bad_value(o, "logprob_token_ids", "only with logprobs");
    /* a token's text, and with logprobs as many names and numbers */
    r->token_bytes = r->logprobs < 0 ? 16 : 64 + 40 * ((uint64_t)r->logprobs + r->logprob_ids.n + 1);
    uint64_t answer_bytes = 0;
    for (size_t i = 0; i < r->n_prompts; i++) {
        struct deq_tokens *p = &r->prompts[i];
        const int64_t room = r->max_given ? DEQ_MIN(r->max_tokens, (int64_t)o->context->max_positions - 1) : 1; /* -1: all that leaves room for the answer */
        const size_t most = r->truncate < 0 ? o->context->max_positions - (size_t)room : (size_t)r->truncate;
        if (r->truncate && p->n > most) { /* asked for by name, else never: the end stays */
            memmove(p->ids, p->ids + p->n - most, most * sizeof *p->ids);
            p->n = most;
        }
        if (!request_fits(o->context, p->n, r, o->err))
            return false;
        const uint64_t text = DEQ_MIN((uint64_t)r->max_tokens, (uint64_t)o->context->max_positions), echo = r->echo ? p->n : 0;
        r->echo_bytes += echo * (uint64_t)r->best_of * r->token_bytes;
        answer_bytes += (echo + (r->stream && !r->responses ? 0 : text)) * (uint64_t)r->best_of * r->token_bytes;
        if (r->responses && r->stream)
            r->echo_bytes += RESPONSE_COPIES * text * r->token_bytes;
    }
    const uint64_t most_bytes = o->context->conf->answer_bytes / 3; /* its parts, the answer made of them, and some for others */
    const char *const what = r->logprobs < 0 ? request_length_field(r) : "logprobs";
    if (answer_bytes > most_bytes)
        return fields_fail(o->err, 400, "invalid_value", what,
                           "%s: so many prompts, choices and tokens would make an answer of about %llu MB; the most is "
                           "%llu (a third of limits.answer_bytes)",
                           what, (unsigned long long)(answer_bytes >> 20), (unsigned long long)(most_bytes >> 20));
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
    deq_free(r->told);
    deq_tokens_free(&r->stop_ids);
    deq_tokens_free(&r->logprob_ids);
    *r = (struct completion_request){0};
}

/* What ends an answer of the template: what begins the next message. */
static bool add_stop(const struct object *o, struct completion_request *r)
{
    const char *stop = request_chat_template(o->context).stop;
    const size_t n = strlen(stop);
    if (!n)
        return true;
    if (!(r->stop[r->n_stops] = deq_alloc(n)))
        return fields_no_memory(o);
    memcpy(r->stop[r->n_stops], stop, n);
    r->stop_len[r->n_stops++] = n;
    return true;
}

/* What an answer of /v1/responses repeats, as OpenAI's do; also defaults, and null for what was not said. */
static bool tell_request(const struct object *o, struct completion_request *r)
{
    static const char *const repeated[] = {"instructions", "max_output_tokens", "metadata", "user"};
    const json_t *metadata = json_object_get(o->json, "metadata");
    json_t *told = json_object();
    for (size_t i = 0; i < DEQ_COUNT(repeated); i++) {
        json_t *v = json_object_get(o->json, repeated[i]);
        json_object_set_new(told, repeated[i], v ? json_incref(v) : json_null());
    }
    if (!metadata)
        json_object_set_new(told, "metadata", json_object());
    json_object_set_new(told, "temperature", reply_setting(r->temperature));
    json_object_set_new(told, "top_p", reply_setting(r->top_p));
    json_object_set_new(told, "top_logprobs", json_integer(DEQ_MAX(r->logprobs, 0)));
    json_object_set_new(told, "truncation", json_string(r->truncate ? "auto" : "disabled"));
    struct deq_buf text;
    deq_buf_init(&text, 2 * o->context->conf->max_body_bytes + 4096);
    reply_json(&text, told);
    if (text.failed || !(r->told = deq_alloc(text.len))) {
        deq_buf_free(&text);
        return fields_no_memory(o);
    }
    r->told_len = text.len - 1; /* of {...} what is inside, and a comma */
    memcpy(r->told, text.data + 1, r->told_len);
    r->told[r->told_len - 1] = ',';
    r->echo_bytes += r->stream ? RESPONSE_OBJECTS * (uint64_t)r->told_len : 0;
    deq_buf_free(&text);
    return true;
}

bool request_completion(const struct request_context *c, enum endpoint at, const char *body, size_t len,
                        struct completion_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .body = endpoints[at].body, .context = c, .err = err};
    struct completion_request r = {.chat = at != ON_COMPLETIONS,
                                   .responses = at == ON_RESPONSES,
                                   .n = 1,
                                   .logprobs = -1,
                                   .temperature = 1,
                                   .top_p = 1,
                                   .repetition_penalty = 1,
                                   .max_tokens = at == ON_COMPLETIONS ? 16 : (int64_t)c->max_positions,
                                   .solve = request_solve_defaults(c)};
    const bool ok = fields_take_fields(&o, endpoints[at].fields, endpoints[at].n, &r) && check_together(&o, &r) &&
                    (r.seed_given || draw_seed(&o, &r.seed)) && (!r.chat || add_stop(&o, &r)) &&
                    (!r.responses || tell_request(&o, &r));
    json_decref(root);
    if (!ok) {
        completion_request_free(&r);
        return false;
    }
    *ret = r;
    return true;
}

void request_print_completion_fields(void)
{
    for (size_t i = 0; i < DEQ_COUNT(endpoints); i++) {
        fields_print(endpoints[i].path, endpoints[i].fields, endpoints[i].n);
        fields_print_neutral(endpoints[i].path, endpoints[i].body);
    }
    fields_print("stream_options", stream_fields, DEQ_COUNT(stream_fields));
    fields_print_neutral("stream_options", BODY_STREAM_OPTIONS);
    request_print_message_fields();
}
