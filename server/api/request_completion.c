/* The bodies of /v1/completions, /v1/chat/completions and /v1/responses as a whole: what one field cannot say, and what
 * follows from them. */
#include <string.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/mem.h"
#include "server/api/reply.h"
#include "server/api/request_impl.h"

/* A stream of /v1/responses ends with so many copies of its text, in one piece, and has so many response objects. */
enum { RESPONSE_COPIES = 5, RESPONSE_OBJECTS = 3 };
enum { TRACE_TOKEN_BYTES = 256 }; /* of a token with some evaluations, and a row that was dropped */

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

/* What one field's range cannot say. */
static bool check_together(const struct object *o, struct completion_request *r)
{
    if (!r->n_prompts) { /* absent: the start of a document */
        if (r->chat)
            return fields_missing(o, r->responses ? "input" : "messages");
        if (!request_no_prompt(o, r->state[0], &r->prompts, &r->n_prompts))
            return false;
    }
    r->best_of = r->best_of ? r->best_of : r->n;
    if (r->best_of < r->n)
        return fields_bad_value(o, "best_of", "must be at least n");
    if (r->best_of > r->n && r->stream)
        return fields_bad_value(o, "best_of", "more than n cannot be streamed");
    if (deq_window_rows((uint32_t)r->best_of, r->solve.window, r->solve.prefill_window) > o->context->max_rows)
        return fields_bad_value(o, r->best_of > r->n ? "best_of" : r->responses ? "deq.window" : "n",
                                "so many choices with windows of deq.window rows exceed engine.max_rows");
    if (r->state[0] && r->echo)
        return fields_bad_value(o, "echo", "must be false with state, whose text is not shown");
    if (!r->max_tokens && !r->echo)
        return fields_bad_value(o, "max_tokens", "0 is for scoring a prompt, with echo true");
    if (!r->max_tokens && r->best_of > 1)
        return fields_bad_value(o, "n", "must be 1 when max_tokens is 0");
    if (r->min_tokens > r->max_tokens)
        return fields_fail(o->err, 400, "invalid_value", "min_tokens", "min_tokens: must be at most %s",
                           request_length_field(r));
    if (r->form && r->ignore_eos)
        return fields_bad_value(o, "ignore_eos", "an answer that fits a form ends where it is whole");
    if (r->logprob_ids.n && r->logprobs < 0)
        return fields_bad_value(o, "logprob_token_ids", "only with logprobs");
    /* a token's text, and with logprobs as many names and numbers */
    r->token_bytes = (r->logprobs < 0 ? 16 : 64 + 40 * ((uint64_t)r->logprobs + r->logprob_ids.n + 1)) +
                     (r->trace ? TRACE_TOKEN_BYTES : 0);
    uint64_t answer_bytes = 0;
    for (size_t i = 0; i < r->n_prompts; i++) {
        struct deq_tokens *p = &r->prompts[i];
        const int64_t room = r->max_given ? DEQ_MIN(r->max_tokens, (int64_t)o->context->max_positions - 1) : 1;
        /* -1: all that leaves room for the answer */
        const size_t most = r->truncate < 0 ? o->context->max_positions - (size_t)room : (size_t)r->truncate;
        if (r->truncate && p->n > most) { /* asked for by name, else never: the end stays */
            memmove(p->ids, p->ids + p->n - most, most * sizeof *p->ids);
            p->n = most;
        }
        if (!request_fits(o->context, p->n, r, o->err))
            return false;
        const uint64_t text = DEQ_MIN((uint64_t)r->max_tokens, (uint64_t)o->context->max_positions);
        const uint64_t echo = r->echo ? p->n : 0;
        r->echo_bytes += echo * (uint64_t)r->best_of * r->token_bytes;
        answer_bytes += (echo + (r->stream && !r->responses ? 0 : text)) * (uint64_t)r->best_of * r->token_bytes;
        if (r->responses && r->stream)
            r->echo_bytes += RESPONSE_COPIES * text * r->token_bytes;
    }
    /* its parts, the answer made of them, and some for others */
    const uint64_t most_bytes = o->context->conf->answer_bytes / 3;
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
    request_prompts_free(r->prompts, r->n_prompts);
    for (size_t i = 0; i < r->n_stops; i++)
        deq_free(r->stop[i]);
    deq_free(r->bias);
    deq_form_free(r->form);
    deq_free(r->told);
    deq_tokens_free(&r->stop_ids);
    deq_tokens_free(&r->logprob_ids);
    *r = (struct completion_request){0};
}

/* What ends an answer of the template: what begins the next message, or the token that ends this one. A special token
 * is not shown: no text that could be looked for ever holds it. */
static bool add_stop(const struct object *o, struct completion_request *r)
{
    const struct deq_model *const m = o->context->model;
    const char *stop = request_chat_template(o->context).stop;
    const size_t n = strlen(stop);
    struct deq_tokens t = {0};
    size_t shown;
    const enum deq_rc rc = deq_encode(m, stop, n, true, &t, NULL); /* DEQ_EINVAL: it has no tokens, and is only text */
    const bool special = !rc && t.n && deq_token_is_special(m, t.ids[0]) && !deq_token_text(m, -1, t.ids[0], &shown);
    const bool ok = rc != DEQ_ENOMEM && (!special || deq_tokens_push(&r->stop_ids, t.ids[0]));
    deq_tokens_free(&t);
    if (!ok)
        return fields_no_memory(o);
    if (special || !n || r->form) /* what fits a form ends by itself, and may hold that text */
        return true;
    if (!(r->stop[r->n_stops] = deq_alloc(n)))
        return fields_no_memory(o);
    memcpy(r->stop[r->n_stops], stop, n);
    r->stop_len[r->n_stops++] = n;
    return true;
}

/* Its text.format, which may be NULL: all that was said, and the type in any case. */
static json_t *told_text(const json_t *format)
{
    json_t *all = json_pack("{s:s}", "type", "text");
    if (format)
        json_object_update(all, (json_t *)(uintptr_t)format);
    return json_pack("{s:o}", "format", all);
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
    json_object_set_new(told, "text", told_text(json_object_get(json_object_get(o->json, "text"), "format")));
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

static const struct fields *const bodies[] = {
    [ON_COMPLETIONS] = &completion_fields, [ON_CHAT] = &chat_fields, [ON_RESPONSES] = &responses_fields};

bool request_completion(const struct request_context *c, enum endpoint at, const char *body, size_t len,
                        struct completion_request *ret, struct request_error *err)
{
    *err = (struct request_error){0};
    json_t *root = fields_parse(body, len, err);
    if (!root)
        return false;
    const struct object o = {.json = root, .prefix = "", .fields = bodies[at], .context = c, .err = err};
    struct completion_request r = {.chat = at != ON_COMPLETIONS,
                                   .responses = at == ON_RESPONSES,
                                   .n = 1,
                                   .logprobs = -1,
                                   .temperature = 1,
                                   .top_p = 1,
                                   .repetition_penalty = 1,
                                   .add_special = true,
                                   .max_tokens = at == ON_COMPLETIONS ? 16 : (int64_t)c->max_positions,
                                   .solve = request_solve_defaults(c)};
    const bool ok = fields_take(&o, &r) && check_together(&o, &r) &&
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
