/* Text to tokens and back. */
#include "core/base/utf8.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/reply.h"

void ep_tokenize(struct service *s, struct served *m, struct exchange *x)
{
    const struct request_context c = service_context(s, m);
    struct tokenize_request r;
    struct request_error err;
    if (!request_tokenize(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
    } else {
        deq_buf_str(&x->reply, "{\"tokens\":[");
        for (size_t i = 0; i < r.tokens.n; i++)
            deq_buf_fmt(&x->reply, "%s%u", i ? "," : "", r.tokens.ids[i]);
        deq_buf_fmt(&x->reply, "],\"count\":%zu,\"max_model_len\":%u}", r.tokens.n, c.max_positions);
        x->status = 200;
        deq_tokens_free(&r.tokens);
    }
    store_release(m);
}

void ep_detokenize(struct service *s, struct served *m, struct exchange *x)
{
    const struct request_context c = service_context(s, m);
    struct tokenize_request r;
    struct request_error err;
    if (!request_detokenize(&c, x->body.data, x->body.len, &r, &err)) {
        exchange_request_error(x, &err);
        store_release(m);
        return;
    }
    struct deq_buf bytes, text;
    bytes = text = (struct deq_buf){.max = x->reply.max, .allowance = x->reply.allowance};
    for (size_t i = 0; i < r.tokens.n; i++) {
        size_t n;
        const char *b = deq_token_text(m->model, i ? (int64_t)r.tokens.ids[i - 1] : -1, r.tokens.ids[i], &n);
        if (!b) /* special tokens are shown here */
            b = deq_token_bytes(m->model, r.tokens.ids[i], &n);
        deq_buf_add(&bytes, b, n);
    }
    if (deq_buf_carry(&text, &bytes))
        deq_utf8_sanitize(&text, bytes.data, bytes.len); /* ids may cut a character; JSON holds only whole ones */
    x->status = 200;
    deq_buf_str(&x->reply, "{\"prompt\":");
    reply_buf(&x->reply, &text);
    deq_buf_str(&x->reply, ",\"content\":");
    reply_buf(&x->reply, &text);
    deq_buf_str(&x->reply, "}");
    deq_buf_free(&bytes);
    deq_buf_free(&text);
    deq_tokens_free(&r.tokens);
    store_release(m);
}

/* The keys that lm-eval and clients of vLLM look for. */
void ep_tokenizer_info(struct service *s, struct served *m, struct exchange *x)
{
    const int64_t eos = m->info.eos_id;
    size_t n = 0;
    const char *name = eos >= 0 ? deq_token_bytes(m->model, (uint32_t)eos, &n) : NULL;
    json_t *token = name ? reply_text(name, n) : json_null();
    (void)s;
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:O, s:O, s:o, s:o, s:o, s:i, s:i}", "tokenizer_class", "deqd", "eos_token",
                                    token, "bos_token", token, "pad_token", json_null(), "chat_template", json_null(),
                                    "eos_token_id", eos >= 0 ? json_integer(eos) : json_null(), "vocab_size",
                                    (int)m->info.vocab_size, "max_model_len", (int)sched_max_positions(m->sched)));
    json_decref(token);
    store_release(m);
}
