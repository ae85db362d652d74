#include "models/cli/bench/prompts.h"

#include <string.h>

#include <jansson.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/base/text.h"
#include "core/base/tokens.h"

enum {
    TEXT_MAX_BYTES = 64 << 20,
    TEXT_SENT_BYTES = 256 << 10, /* of the text: what servers take as one body */
    RNG_PROMPT = 0x70726f6d,     /* rng stream of token ids */
};
static const size_t BODIES_MAX_BYTES = (size_t)2 << 30;

/* Name and vocabulary of the model: the named one, else the server's first. */
static bool find_model(struct bench *b, json_int_t *ret_vocab)
{
    json_t *o = bench_load_ask(b, "/v1/models", NULL);
    const json_t *data = json_object_get(o, "data"), *m = NULL;
    for (size_t i = 0; i < json_array_size(data); i++) {
        const char *id = json_string_value(json_object_get(json_array_get(data, i), "id"));
        if (id && (!b->set.model || !strcmp(id, b->set.model)) && !m)
            m = json_array_get(data, i);
    }
    const char *id = b->set.model ? b->set.model : json_string_value(json_object_get(m, "id"));
    const json_int_t vocab = json_integer_value(json_object_get(json_object_get(m, "deqd"), "vocab_size"));
    /* a server that does not tell: ids of bytes, which every vocabulary has */
    *ret_vocab = vocab > 0 && vocab <= UINT32_MAX ? vocab : 256;
    const bool ok = id && strlen(id) < sizeof b->model;
    if (ok)
        snprintf(b->model, sizeof b->model, "%s", id);
    else if (o)
        deq_fail(&b->err, DEQ_EFORMAT, "%s/v1/models names no model; give one with --model", b->url);
    json_decref(o);
    return ok && o;
}

static int to_buf(const char *bytes, size_t n, void *ctx)
{
    return deq_buf_add(ctx, bytes, n) ? 0 : -1;
}

/* The token ids of a text, as the server cuts it. */
static bool read_text(struct bench *b, const char *path, struct deq_tokens *ret)
{
    char *text = NULL;
    size_t len = 0;
    struct deq_buf body;
    deq_buf_init(&body, 8 * (size_t)TEXT_SENT_BYTES);
    if (deq_text_read(path, TEXT_MAX_BYTES, &text, &len, &b->err))
        return false;
    len = DEQ_MIN(len, (size_t)TEXT_SENT_BYTES);
    while (len && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--; /* not within a character; text ends with NUL */
    json_t *q = json_pack("{s:s, s:s%}", "model", b->model, "prompt", text, len), *o = NULL;
    if (!q)
        deq_fail(&b->err, DEQ_EFORMAT, "--text: %s is not UTF-8", path);
    else if (json_dump_callback(q, to_buf, &body, JSON_COMPACT))
        deq_fail(&b->err, DEQ_EFORMAT, "--text: %s holds too many control characters", path);
    else if (!(o = bench_load_ask(b, "/tokenize", &body)))
        deq_fail_prefix(&b->err, b->err.code,
                        "--text needs the server's tokenizer; without --text random token ids are sent");
    const json_t *ids = json_object_get(o, "tokens");
    const size_t n = json_array_size(ids);
    if (o && n < b->set.input_len)
        deq_fail(&b->err, DEQ_EINVAL, "--text: %s has %zu tokens, fewer than --input-len %zu", path, n,
                 b->set.input_len);
    else if (o && !(ret->ids = DEQ_NEW_ARRAY(uint32_t, n)))
        deq_fail(&b->err, DEQ_ENOMEM, "out of memory");
    for (size_t i = 0; ret->ids && i < n; i++)
        ret->ids[ret->n++] = (uint32_t)json_integer_value(json_array_get(ids, i));
    json_decref(o);
    json_decref(q);
    deq_buf_free(&body);
    deq_free(text);
    return ret->ids;
}

/* Prompt i: a piece of the text, or random ids below vocab. Both are functions of (seed, i). */
static void add_prompt(const struct bench *b, size_t i, const struct deq_tokens *text, json_int_t vocab,
                       struct deq_buf *out)
{
    const size_t len = b->set.input_len;
    const size_t from = text->n ? (size_t)deq_rng_below(b->set.seed, RNG_PROMPT, i * BENCH_LEN_MAX, text->n - len + 1)
                                : 0;
    for (size_t k = 0; k < len; k++)
        deq_buf_fmt(out, "%s%u", k ? "," : "",
                    text->n ? text->ids[from + k]
                            : (unsigned)deq_rng_below(b->set.seed, RNG_PROMPT, i * BENCH_LEN_MAX + k, (uint64_t)vocab));
}

static bool make_bodies(struct bench *b, const struct deq_tokens *text, json_int_t vocab)
{
    const struct bench_settings *s = &b->set;
    struct deq_buf head, body;
    size_t total = 0;
    deq_buf_init(&head, 4096);
    deq_buf_init(&body, 16 * (size_t)BENCH_LEN_MAX);
    json_t *q = json_pack("{s:s, s:I, s:f, s:b, s:b, s:{s:b}}", "model", b->model,
                          "max_tokens", (json_int_t)s->output_len, "temperature", s->temperature, "ignore_eos", 1,
                          "stream", 1, "stream_options", "include_usage", 1);
    if (q && (s->window || s->tol > 0))
        json_object_set_new(q, "deq", json_object());
    if (s->window)
        json_object_set_new(json_object_get(q, "deq"), "window", json_integer(s->window));
    if (s->tol > 0)
        json_object_set_new(json_object_get(q, "deq"), "tol", json_real(s->tol));
    bool ok = q && !json_dump_callback(q, to_buf, &head, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(q);
    for (size_t i = 0; ok && i < s->n; i++) {
        deq_buf_reset(&body);
        deq_buf_add(&body, head.data, head.len - 1); /* without the closing brace */
        if (s->temperature > 0)
            /* or equal prompts would get equal answers */
            deq_buf_fmt(&body, ",\"seed\":%zu", (size_t)(s->seed % 1000000007) + i);
        deq_buf_str(&body, ",\"prompt\":[");
        add_prompt(b, i, text, vocab, &body);
        deq_buf_str(&body, "]}");
        ok = !body.failed && (total += body.len) <= BODIES_MAX_BYTES && (b->call[i].body = deq_alloc(body.len));
        if (ok)
            memcpy(b->call[i].body, body.data, b->call[i].body_len = body.len);
        b->call[i].bench = b;
    }
    if (!ok)
        deq_fail(&b->err, DEQ_ENOMEM,
                 "no room for all prompts (at most %zu bytes): take fewer with --num-prompts or shorter ones with "
                 "--input-len",
                 BODIES_MAX_BYTES);
    deq_buf_free(&head);
    deq_buf_free(&body);
    return ok;
}

bool bench_prompts_make(struct bench *b)
{
    struct deq_tokens text = {0};
    json_int_t vocab;
    const bool ok = find_model(b, &vocab) && (!b->set.text || read_text(b, b->set.text, &text)) &&
                    make_bodies(b, &text, vocab);
    deq_tokens_free(&text);
    return ok;
}
