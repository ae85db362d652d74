/* What needs no solving: models, tokens, the description of the interface. */
#include <string.h>

#include "core/base/utf8.h"
#include "server/api/reply.h"
#include "server/api/route.h"

static json_t *model_object(const struct service *s, const struct served *m)
{
    const struct deq_model_info *i = &m->info;
    json_t *presets = json_object();
    for (int k = 0; k < PRESETS && presets; k++)
        if (json_object_set_new(presets, request_preset_names[k], json_pack("{s:o}", "tol", reply_setting(request_preset_tol(s->conf, i->tol, k))))) {
            json_decref(presets); /* no memory: what holds it cannot be made either */
            presets = NULL;
        }
    const struct request_context c = service_context(s, m);
    const struct chat_template t = request_chat_template(&c);
    json_t *deq = json_pack("{s:s, s:o, s:i, s:i, s:s, s:b, s:I, s:s, s:i, s:o, s:o, s:o, s:i, s:i, "
                            "s:{s:s, s:s, s:s, s:s}}",
                            "solver", deq_solver_name(i->solver), "tol", reply_setting(i->tol), "max_iter", (int)i->max_iter,
                            "window", (int)i->window, "warm_start", deq_warm_name(i->warm_start), "predictor",
                            (int)i->has_predictor, "parameters", (json_int_t)i->parameters, "fingerprint",
                            i->fingerprint, "vocab_size", (int)i->vocab_size, "presets", presets, "tol_min",
                            reply_setting(s->conf->tol_min), "tol_max", reply_setting(s->conf->tol_max), "max_iter_max",
                            (int)s->conf->max_iter_max, "max_window", (int)s->conf->max_window, "chat_template",
                            "source", t.source, "message", t.message, "reply", t.reply, "stop", t.stop);
    return json_pack("{s:s, s:s, s:I, s:s, s:i, s:i, s:o}", "id", m->name, "object", "model", "created", (json_int_t)(m->loaded_ms / 1000), "owned_by",
                     "deqd", "max_model_len", (int)sched_max_positions(m->sched), "attention_window", (int)i->attn_window, "deqd", deq);
}

void ep_models(struct service *s, struct served *m, struct exchange *x)
{
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:[o]}", "object", "list", "data", model_object(s, m)));
    store_release(m);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Whether the end of a path is this name, percent-encoded or not: clients write org/model either way. */
static bool path_is(const char *path, const char *name)
{
    for (; *path && *name; path++, name++) {
        char c = *path;
        if (c == '%' && hex_digit(path[1]) >= 0 && hex_digit(path[2]) >= 0) {
            c = (char)(hex_digit(path[1]) << 4 | hex_digit(path[2]));
            path += 2;
        }
        if (c != *name)
            return false;
    }
    return *path == *name;
}

void ep_model(struct service *s, struct served *m, struct exchange *x)
{
    if (!path_is(x->path + strlen("/v1/models/"), m->name)) {
        exchange_error(x, 404, "model_not_found", NULL, "no such model is served here; GET /v1/models lists what is");
    } else {
        x->status = 200;
        reply_json(&x->reply, model_object(s, m));
    }
    store_release(m);
}

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
    reply_json(&x->reply, json_pack("{s:s, s:O, s:O, s:o, s:o, s:o, s:i, s:i}", "tokenizer_class", "deqd", "eos_token", token, "bos_token", token, "pad_token",
                                    json_null(), "chat_template", json_null(), "eos_token_id", eos >= 0 ? json_integer(eos) : json_null(), "vocab_size",
                                    (int)m->info.vocab_size, "max_model_len", (int)sched_max_positions(m->sched)));
    json_decref(token);
    store_release(m);
}

void ep_version(struct service *s, struct served *m, struct exchange *x)
{
    (void)s;
    x->status = 200;
    reply_json(&x->reply, json_pack("{s:s, s:s, s:s, s:s}", "version", DEQ_VERSION, "kernels", m->info.kernels, "model", m->name, "model_fingerprint",
                                    m->info.fingerprint));
    store_release(m);
}

/* server/api/openapi.json, linked in as it stands. */
__asm__(".section .rodata\n"
        ".global openapi_begin\nopenapi_begin:\n.incbin \"server/api/openapi.json\"\n.global openapi_end\nopenapi_end:\n.byte 0\n"
        ".previous\n");
extern const char openapi_begin[], openapi_end[];

void ep_openapi(struct service *s, struct served *m, struct exchange *x)
{
    (void)s;
    (void)m;
    x->status = 200;
    deq_buf_add(&x->reply, openapi_begin, (size_t)(openapi_end - openapi_begin));
}
