/* The fields of /v1/completions, /v1/chat/completions and /v1/responses, one by one. */
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "server/api/request_impl.h"

static bool take_solve(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    (void)f;
    return request_take_solve_object(o, v, &r->solve, &r->depth);
}

static bool take_prompt(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    return request_take_prompts(o, f->name, v, r->add_special, r->state[0], &r->prompts, &r->n_prompts);
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

static const struct field stream_rows[] = {
    {"include_usage", BOOL, 0, 0, offsetof(struct completion_request, include_usage), NULL, NULL},
    {"continuous_usage_stats", BOOL, 0, 0, offsetof(struct completion_request, continuous_usage), NULL, NULL},
};

static const struct fields stream_fields = {
    .rows = stream_rows, .n = DEQ_COUNT(stream_rows), .body = BODY_STREAM_OPTIONS, .name = "stream_options"};

static bool take_stream_options(const struct object *outer, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    if (!json_is_object(v))
        return fields_bad_type(outer, f->name, "an object");
    const struct object o = {.json = v,
                             .prefix = "stream_options.",
                             .fields = &stream_fields,
                             .context = outer->context,
                             .err = outer->err};
    if (!fields_take(&o, r))
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
            return fields_fail(o->err, 400, "invalid_token_id", f->name,
                               "logit_bias: \"%.20s\" is not an id of the vocabulary of %u", key, vocab);
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
    struct deq_tokens *t = &((struct completion_request *)request)->logprob_ids;
    if (!request_take_ids(o, f->name, v, o->context->conf->max_logprobs, t))
        return false;
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) { /* each once */
        bool new = true;
        for (size_t k = 0; new && k < n; k++)
            new = t->ids[k] != t->ids[i];
        if (new)
            t->ids[n++] = t->ids[i];
    }
    t->n = n;
    return true;
}

static bool take_logprobs(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 0, o->context->conf->max_logprobs,
                           &((struct completion_request *)request)->logprobs);
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
    return fields_take_int(o, f->name, v, 1, DEQ_MIN(o->context->conf->max_n, o->context->conf->max_sequences),
                           (int64_t *)(void *)((char *)request + f->at));
}

static bool take_best_of(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return fields_take_int(o, f->name, v, 0, DEQ_MIN(o->context->conf->max_n, o->context->conf->max_sequences),
                           (int64_t *)(void *)((char *)request + f->at));
}

static bool take_max_tokens(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    r->max_given = true;
    return fields_take_int(o, f->name, v, r->chat ? 1 : 0, INT32_MAX, &r->max_tokens);
}

static bool take_state(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    return request_take_state_name(o, f->name, v, ((struct completion_request *)request)->state);
}

static bool take_cache(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const char *const names[] = {[DEQ_CACHE_EXACT] = "exact",
                                        [DEQ_CACHE_APPROXIMATE] = "approximate",
                                        [DEQ_CACHE_OFF] = "off"};
    _Static_assert(DEQ_COUNT(names) == DEQ_CACHE_COUNT, "a name for each");
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
        if (!strcmp(s, "deq.tokens"))
            r->telemetry = true;
        else if (!strcmp(s, "deq.trace"))
            r->trace = true;
        else if (!strcmp(s, "timings"))
            r->timings = true;
        else
            return fields_bad_value(o, f->name, "knows deq.tokens, deq.trace and timings");
    }
    return true;
}

static bool take_user(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    static const struct deq_hash fixed = {{3, 4}};
    if (!json_is_string(v))
        return fields_bad_type(o, f->name, "a string");
    ((struct completion_request *)request)->user_hash =
        deq_siphash(&fixed, json_string_value(v), json_string_length(v)).h[0] | 1;
    return true;
}

static bool take_seed(const struct object *o, const struct field *f, const json_t *v, void *request)
{
    struct completion_request *r = request;
    r->seed_given = true;
    return fields_take_int(o, f->name, v, INT64_MIN, INT64_MAX, &r->seed);
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
            return fields_bad_value(o, f->name,
                                    "knows message.output_text.logprobs and reasoning.encrypted_content (others "
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
    {"cache_salt", OTHER, 0, 0, AT(salt), request_take_salt, "string"},                                         \
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
    {"response_format", OTHER, 0, 0, 0, request_take_format, "object"},                                         \
    {"structured_outputs", OTHER, 0, 0, 0, request_take_structured, "object"},                                  \
    {"include", OTHER, 0, 0, 0, take_include, "array of strings"}

static const struct field completion_rows[] = {
    SHARED_FIELDS,
    {"max_tokens", OTHER, 0, INT32_MAX, 0, take_max_tokens, "integer"},
    {"logprobs", OTHER, 0, -1, 0, take_logprobs, "integer"},
    {"best_of", OTHER, 0, -1, AT(best_of), take_best_of, "integer"},
    {"echo", BOOL, 0, 0, AT(echo), NULL, NULL},
    {"add_special_tokens", BOOL, 0, 0, AT(add_special), NULL, NULL},
    {"state", OTHER, 0, 0, 0, take_state, "string"},
    {"prompt", OTHER, 0, 0, 0, take_prompt, "string, array of strings, of token ids, or of arrays of token ids"},
};

static const struct field chat_rows[] = {
    SHARED_FIELDS,
    {"max_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"max_completion_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"logprobs", OTHER, 0, 0, 0, take_chat_logprobs, "boolean"},
    {"top_logprobs", OTHER, 0, -1, 0, take_top_logprobs, "integer"},
    {"state", OTHER, 0, 0, 0, take_state, "string"},
    {"messages", OTHER, 0, 0, 0, request_take_messages, "array of messages"},
};

static const struct field responses_rows[] = {
    COMMON_FIELDS,
    {"max_output_tokens", OTHER, 1, INT32_MAX, 0, take_max_tokens, "integer"},
    {"include", OTHER, 0, 0, 0, take_responses_include, "array of strings"},
    {"top_logprobs", OTHER, 0, -1, 0, take_top_logprobs, "integer"},
    {"truncation", OTHER, 0, 0, 0, take_truncation, "string: auto, disabled"},
    {"instructions", OTHER, 0, 0, 0, take_instructions, "string"},
    {"metadata", OTHER, 0, 0, 0, take_metadata, "object"},
    {"text", OTHER, 0, 0, 0, request_take_text, "object"},
    {"state", OTHER, 0, 0, 0, take_state, "string"},
    {"input", OTHER, 0, 0, 0, request_take_input, "string or array of messages"},
};

const struct fields completion_fields = {.rows = completion_rows,
                                         .n = DEQ_COUNT(completion_rows),
                                         .body = BODY_COMPLETION,
                                         .inner = {&stream_fields, &request_solve_fields, &request_format_fields,
                                                   &request_schema_fields, &request_structured_fields}};
const struct fields chat_fields = {.rows = chat_rows,
                                   .n = DEQ_COUNT(chat_rows),
                                   .body = BODY_CHAT,
                                   .inner = {&stream_fields, &request_message_fields, &request_solve_fields,
                                             &request_format_fields, &request_schema_fields,
                                             &request_structured_fields}};
const struct fields responses_fields = {.rows = responses_rows,
                                        .n = DEQ_COUNT(responses_rows),
                                        .body = BODY_RESPONSES,
                                        .inner = {&request_item_fields, &request_solve_fields, &request_text_fields,
                                                  &request_text_format_fields}};
