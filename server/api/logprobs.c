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

/* Tokens that could have stood there, each once. */
struct alternatives {
    uint32_t n;
    uint32_t ids[2 * TOP_MAX];
};

static bool is_among(const struct alternatives *a, uint32_t id)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->ids[i] == id)
            return true;
    return false;
}

static void find_alternatives(const struct completion_request *r, const struct logprob_entry *e,
                              struct alternatives *ret)
{
    ret->n = DEQ_MIN((uint32_t)r->logprobs, DEQ_MIN(e->vocab_size, (uint32_t)TOP_MAX));
    deq_top_tokens(e->logits, e->vocab_size, ret->n, ret->ids);
    for (size_t i = 0; i < r->logprob_ids.n && ret->n < DEQ_COUNT(ret->ids); i++)
        if (!is_among(ret, r->logprob_ids.ids[i]))
            ret->ids[ret->n++] = r->logprob_ids.ids[i];
}

static float logprob_of(const struct logprob_entry *e, uint32_t id)
{
    return deq_logprob(&e->normaliser, e->logits[id]);
}

/* --- Of chats --- */

/* {"token": ..., "logprob": ..., "bytes": [...], but for what ends it. */
static void begin_object(struct names *names, const struct logprob_entry *e, uint32_t id, struct deq_buf *out)
{
    size_t n;
    const char *bytes = deq_token_bytes(names->model, id, &n);
    deq_buf_str(out, "{\"token\":");
    add_name(names, id, out);
    deq_buf_str(out, ",\"logprob\":");
    reply_number(out, logprob_of(e, id));
    deq_buf_str(out, ",\"bytes\":[");
    for (size_t i = 0; bytes && i < n; i++)
        deq_buf_fmt(out, "%s%u", i ? "," : "", (unsigned char)bytes[i]);
    deq_buf_str(out, "]");
}

static void add_object(struct names *names, const struct logprob_entry *e, const struct alternatives *a,
                       struct deq_buf *out)
{
    begin_object(names, e, e->token, out);
    deq_buf_str(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < a->n; i++) {
        deq_buf_str(out, i ? "," : "");
        begin_object(names, e, a->ids[i], out);
        deq_buf_str(out, "}");
    }
    deq_buf_str(out, "]},");
}

/* --- Of completions --- */

static void add_member(struct names *names, const struct logprob_entry *e, uint32_t id, struct deq_buf *out)
{
    add_name(names, id, out);
    deq_buf_str(out, ":");
    reply_number(out, logprob_of(e, id));
}

/* "may be up to logprobs + 1": the token itself is always in. */
static void add_map(struct names *names, const struct logprob_entry *e, const struct alternatives *a,
                    struct deq_buf *out)
{
    deq_buf_str(out, "{");
    for (uint32_t i = 0; i < a->n; i++) {
        deq_buf_str(out, i ? "," : "");
        add_member(names, e, a->ids[i], out);
    }
    if (!is_among(a, e->token)) {
        deq_buf_str(out, a->n ? "," : "");
        add_member(names, e, e->token, out);
    }
    deq_buf_str(out, "},");
}

static void add_to_lists(struct names *names, const struct logprob_entry *e, const struct alternatives *a,
                         struct logprob_lists *l)
{
    add_name(names, e->token, &l->tokens);
    deq_buf_str(&l->tokens, ",");
    deq_buf_fmt(&l->offsets, "%zu,", e->offset);
    if (!e->logits) {
        deq_buf_str(&l->values, "null,");
        deq_buf_str(&l->top, "null,");
        return;
    }
    reply_number(&l->values, logprob_of(e, e->token));
    deq_buf_str(&l->values, ",");
    add_map(names, e, a, &l->top);
}

void logprobs_add(struct logprob_lists *l, const struct completion_request *r, const struct deq_model *model,
                  const struct logprob_entry *e)
{
    struct names names = {.model = model, .as_ids = r->tokens_as_ids};
    struct alternatives a;
    a.n = 0;
    deq_buf_init(&names.name, NAME_MAX_BYTES);
    if (e->logits)
        find_alternatives(r, e, &a);
    if (r->chat) /* whose prompt is not echoed: every token is predicted */
        add_object(&names, e, &a, &l->tokens);
    else
        add_to_lists(&names, e, &a, l);
    deq_buf_free(&names.name);
}
