#include "server/api/logprobs.h"

#include "core/base/utf8.h"
#include "server/api/reply.h"

enum { TOP_MAX = 1024, NAME_MAX_BYTES = 1 << 16 };

void logprobs_init(struct logprob_lists *l, size_t max_bytes, struct deq_allowance *allowance)
{
    l->tokens = l->values = l->top = l->offsets = (struct deq_buf){.max = max_bytes, .allowance = allowance};
}

void logprobs_free(struct logprob_lists *l)
{
    deq_buf_free(&l->tokens);
    deq_buf_free(&l->values);
    deq_buf_free(&l->top);
    deq_buf_free(&l->offsets);
}

void logprobs_append(struct logprob_lists *to, const struct logprob_lists *from)
{
    (void)deq_buf_append(&to->tokens, &from->tokens);
    (void)deq_buf_append(&to->values, &from->values);
    (void)deq_buf_append(&to->top, &from->top);
    (void)deq_buf_append(&to->offsets, &from->offsets);
}

/* Who names tokens, and how; `name` is room for one. */
struct names {
    const struct deq_model *model;
    bool as_ids;
    struct deq_buf name;
};

/* A token as a JSON string: its text, or "bytes:\xe2\x80" when it is part of a character, or "token_id:N" where asked
 * for. */
static void add_name(struct names *n, uint32_t id, struct deq_buf *out)
{
    size_t len;
    const char *bytes = deq_token_bytes(n->model, id, &len);
    deq_buf_reset(&n->name);
    if (n->as_ids) {
        deq_buf_fmt(&n->name, "token_id:%u", id);
    } else if (bytes && deq_utf8_valid(bytes, len)) {
        deq_buf_add(&n->name, bytes, len);
    } else {
        deq_buf_str(&n->name, "bytes:");
        for (size_t i = 0; bytes && i < len; i++)
            deq_buf_fmt(&n->name, "\\x%02x", (unsigned char)bytes[i]);
    }
    reply_buf(out, &n->name);
}

static bool is_among(const struct logprob *top, size_t n, uint32_t token)
{
    for (size_t i = 0; i < n; i++)
        if (top[i].token == token)
            return true;
    return false;
}

size_t logprobs_find(const struct completion_request *r, const float *logits, uint32_t vocab_size,
                     const struct deq_log_normaliser *n, struct deq_buf *out)
{
    uint32_t ids[2 * TOP_MAX];
    struct logprob top[2 * TOP_MAX];
    const uint32_t most = DEQ_MIN((uint32_t)r->logprobs, DEQ_MIN(vocab_size, (uint32_t)TOP_MAX));
    deq_top_tokens(logits, vocab_size, most, ids);
    size_t have = most;
    for (size_t i = 0; i < r->logprob_ids.n && have < DEQ_COUNT(ids); i++) {
        const uint32_t id = r->logprob_ids.ids[i], last = most ? ids[most - 1] : 0;
        /* the most probable come in order, so that the last of them tells of any token whether it is one */
        if (!most || logits[id] < logits[last] || (logits[id] == logits[last] && id > last))
            ids[have++] = id;
    }
    for (size_t i = 0; i < have; i++)
        top[i] = (struct logprob){ids[i], deq_logprob(n, logits[ids[i]])};
    deq_buf_add(out, top, have * sizeof *top);
    return have;
}

/* --- Of chats --- */

/* {"token": ..., "logprob": ..., "bytes": [...], but for what ends it. */
static void begin_object(struct names *names, const struct logprob *p, struct deq_buf *out)
{
    size_t n;
    const char *bytes = deq_token_bytes(names->model, p->token, &n);
    deq_buf_str(out, "{\"token\":");
    add_name(names, p->token, out);
    deq_buf_str(out, ",\"logprob\":");
    reply_number(out, p->value);
    deq_buf_str(out, ",\"bytes\":[");
    for (size_t i = 0; bytes && i < n; i++)
        deq_buf_fmt(out, "%s%u", i ? "," : "", (unsigned char)bytes[i]);
    deq_buf_str(out, "]");
}

static void add_object(struct names *names, const struct logprob_entry *e, struct deq_buf *out)
{
    begin_object(names, &e->token, out);
    deq_buf_str(out, ",\"top_logprobs\":[");
    for (size_t i = 0; i < e->n_top; i++) {
        deq_buf_str(out, i ? "," : "");
        begin_object(names, &e->top[i], out);
        deq_buf_str(out, "}");
    }
    deq_buf_str(out, "]},");
}

/* --- Of completions --- */

static void add_member(struct names *names, const struct logprob *p, struct deq_buf *out)
{
    add_name(names, p->token, out);
    deq_buf_str(out, ":");
    reply_number(out, p->value);
}

/* "may be up to logprobs + 1": the token itself is always in. */
static void add_map(struct names *names, const struct logprob_entry *e, struct deq_buf *out)
{
    deq_buf_str(out, "{");
    for (size_t i = 0; i < e->n_top; i++) {
        deq_buf_str(out, i ? "," : "");
        add_member(names, &e->top[i], out);
    }
    if (!is_among(e->top, e->n_top, e->token.token)) {
        deq_buf_str(out, e->n_top ? "," : "");
        add_member(names, &e->token, out);
    }
    deq_buf_str(out, "},");
}

static void add_to_lists(struct names *names, const struct logprob_entry *e, struct logprob_lists *l)
{
    add_name(names, e->token.token, &l->tokens);
    deq_buf_str(&l->tokens, ",");
    deq_buf_fmt(&l->offsets, "%zu,", e->offset);
    if (!e->predicted) {
        deq_buf_str(&l->values, "null,");
        deq_buf_str(&l->top, "null,");
        return;
    }
    reply_number(&l->values, e->token.value);
    deq_buf_str(&l->values, ",");
    add_map(names, e, &l->top);
}

void logprobs_add(struct logprob_lists *l, const struct completion_request *r, const struct deq_model *model,
                  const struct logprob_entry *e)
{
    struct names names = {.model = model, .as_ids = r->tokens_as_ids};
    deq_buf_init(&names.name, NAME_MAX_BYTES);
    if (r->chat) /* whose prompt is not echoed: every token is predicted */
        add_object(&names, e, &l->tokens);
    else
        add_to_lists(&names, e, l);
    deq_buf_free(&names.name);
}
