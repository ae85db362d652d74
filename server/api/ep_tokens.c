/* Text to tokens and back. */
#include <string.h>

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

/* "KEY":"name of a token", or null for -1. */
static void add_token(struct deq_buf *out, const char *key, const struct served *m, int64_t id)
{
    size_t n = 0;
    const char *name = id >= 0 ? deq_token_bytes(m->model, (uint32_t)id, &n) : NULL;
    deq_buf_fmt(out, "\"%s\":", key);
    if (name)
        reply_string(out, name, n);
    else
        deq_buf_str(out, "null");
}

/* The template that chats follow; without one they are lines of text, and no client should make more of them. */
static void add_template(struct deq_buf *out, const struct request_context *c)
{
    const struct chat_template t = request_chat_template(c);
    struct deq_buf jinja = {.max = out->max, .allowance = out->allowance};
    if (strcmp(t.source, "default")) {
        request_chat_jinja(&t, &jinja);
        reply_buf(out, &jinja);
    } else {
        deq_buf_str(out, "null");
    }
    deq_buf_free(&jinja);
}

/* The keys that lm-eval and clients of vLLM look for. */
void ep_tokenizer_info(struct service *s, struct served *m, struct exchange *x)
{
    const struct request_context c = service_context(s, m);
    struct deq_buf *out = &x->reply;
    x->status = 200;
    deq_buf_str(out, "{\"tokenizer_class\":\"deqd\",");
    add_token(out, "eos_token", m, m->info.eos_id);
    deq_buf_str(out, ",");
    add_token(out, "bos_token", m, m->info.start_id);
    deq_buf_str(out, ",\"pad_token\":null,\"chat_template\":");
    add_template(out, &c);
    if (m->info.eos_id >= 0)
        deq_buf_fmt(out, ",\"eos_token_id\":%lld", (long long)m->info.eos_id);
    else
        deq_buf_str(out, ",\"eos_token_id\":null");
    deq_buf_fmt(out, ",\"vocab_size\":%u,\"max_model_len\":%u}", m->info.vocab_size, sched_max_positions(m->sched));
    store_release(m);
}
