/* /v1/models, /tokenize, /detokenize: what needs no solving. */
#include <string.h>

#include "server/reply.h"
#include "server/route.h"
#include "core/base/utf8.h"

void ep_models(struct service *s, struct exchange *x)
{
    const struct deq_model_info i = deq_model_info(s->model);
    json_t *deq = json_pack("{s:s, s:o, s:i, s:i, s:s, s:b, s:I, s:s}", "solver", deq_solver_name(i.solver), "tol", reply_setting(i.tol), "max_iter",
                            (int)i.max_iter, "window", (int)i.window, "warm_start", deq_warm_name(i.warm_start), "predictor", (int)i.has_predictor,
                            "parameters", (json_int_t)i.parameters, "fingerprint", i.fingerprint);
    json_t *m = json_pack("{s:s, s:s, s:I, s:s, s:i, s:i, s:o}", "id", s->model_name, "object", "model", "created", (json_int_t)(s->started_ms / 1000),
                          "owned_by", "deqd", "max_model_len", (int)sched_max_positions(s->sched), "attention_window", (int)i.attn_window, "deqd", deq);
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:[o]}", "object", "list", "data", m));
}

void ep_tokenize(struct service *s, struct exchange *x)
{
    const struct request_context c = service_context(s);
    struct tokenize_request r;
    struct request_error err;
    if (!request_tokenize(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return;
    }
    json_t *tokens = json_array();
    for (size_t i = 0; i < r.tokens.n; i++)
        json_array_append_new(tokens, json_integer(r.tokens.ids[i]));
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:o, s:i, s:i}", "tokens", tokens, "count", (int)r.tokens.n, "max_model_len", (int)c.max_positions));
    deq_tokens_free(&r.tokens);
}

void ep_detokenize(struct service *s, struct exchange *x)
{
    const struct request_context c = service_context(s);
    struct detokenize_request r;
    struct request_error err;
    if (!request_detokenize(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        return;
    }
    struct deq_buf bytes, text;
    deq_buf_init(&bytes, x->reply.max);
    deq_buf_init(&text, x->reply.max);
    for (size_t i = 0; i < r.tokens.n; i++) {
        size_t n;
        const char *b = deq_token_bytes(s->model, r.tokens.ids[i], &n);
        deq_buf_add(&bytes, b, n);
    }
    deq_utf8_sanitize(&text, bytes.data, bytes.len); /* ids may cut a character; JSON holds only whole ones */
    json_t *t = reply_text(text.data, text.len);
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:O, s:o}", "prompt", t, "content", t));
    deq_buf_free(&bytes);
    deq_buf_free(&text);
    deq_tokens_free(&r.tokens);
}
