/* The BPE model of a tokenizer.json, and GPT-2's older pair of files: vocabulary and merges -> struct deq_bpe. */
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_impl.h"

struct merges {
    json_t *vocab;
    size_t cap;
    struct deq_buf joined;
};

static enum deq_rc add_merge(struct loader *l, struct merges *m, const char *left, size_t n_left, const char *right,
                             size_t n_right)
{
    struct deq_bpe *b = &l->tok->bpe;
    size_t rank = b->n_merges;
    json_t *vl = json_object_getn(m->vocab, left, n_left), *vr = json_object_getn(m->vocab, right, n_right), *v;
    if (!vl || !vr)
        return BAD(l, "model.merges[%zu]: part \"%.*s\" is not in the vocabulary", rank,
                   vl ? deq_load_shown(right, n_right) : deq_load_shown(left, n_left), vl ? right : left);
    deq_buf_reset(&m->joined);
    deq_buf_add(&m->joined, left, n_left);
    if (!deq_buf_add(&m->joined, right, n_right))
        return deq_load_no_memory(l);
    if (!(v = json_object_getn(m->vocab, m->joined.data, m->joined.len)))
        return BAD(l, "model.merges[%zu]: the merged token \"%.*s\" is not in the vocabulary", rank,
                   deq_load_shown(m->joined.data, m->joined.len), m->joined.data);
    b->merge[b->n_merges++] = (struct deq_bpe_merge){(uint32_t)json_integer_value(vl), (uint32_t)json_integer_value(vr),
                                                     (uint32_t)rank, (uint32_t)json_integer_value(v)};
    return DEQ_OK;
}

/* "left right": exactly one space, and something on both sides of it. */
static enum deq_rc add_merge_text(struct loader *l, struct merges *m, const char *text, size_t n)
{
    const char *space = memchr(text, ' ', n);
    size_t k = space ? (size_t)(space - text) : 0;
    if (!k || k + 1 == n || memchr(space + 1, ' ', n - k - 1))
        return BAD(l, "model.merges[%zu]: expected two parts with one space between them, found \"%.*s\"",
                   l->tok->bpe.n_merges, deq_load_shown(text, n), text);
    return add_merge(l, m, text, k, space + 1, n - k - 1);
}

static bool merges_room(struct loader *l, struct merges *m, json_t *vocab, size_t cap)
{
    *m = (struct merges){.vocab = vocab, .cap = cap};
    deq_buf_init(&m->joined, DEQ_TOKENIZER_MAX_FILE_BYTES);
    l->tok->bpe.merge = DEQ_NEW_ARRAY(struct deq_bpe_merge, cap);
    return l->tok->bpe.merge != NULL;
}

static enum deq_rc read_merges(struct loader *l, json_t *vocab, const json_t *list)
{
    struct merges m;
    enum deq_rc rc = DEQ_OK;
    if (!json_is_array(list))
        return BAD(l, "model.merges: expected an array, found %s", deq_load_type(list));
    if (!merges_room(l, &m, vocab, json_array_size(list)))
        return deq_load_no_memory(l);
    for (size_t i = 0; i < m.cap && !rc; i++) {
        const json_t *v = json_array_get(list, i), *a = json_array_get(v, 0), *b = json_array_get(v, 1);
        if (json_is_string(v))
            rc = add_merge_text(l, &m, json_string_value(v), json_string_length(v));
        else if (json_array_size(v) == 2 && json_is_string(a) && json_is_string(b))
            rc = add_merge(l, &m, json_string_value(a), json_string_length(a), json_string_value(b),
                           json_string_length(b));
        else
            rc = BAD(l, "model.merges[%zu]: expected \"left right\" or [\"left\", \"right\"]", i);
    }
    deq_buf_free(&m.joined);
    return rc;
}

/* fallback: the file asks that bytes without a symbol become tokens <0x..>. There must be none: then it is idle. */
static enum deq_rc finish_bpe(struct loader *l, json_t *vocab, bool fallback)
{
    struct deq_tokenizer *tok = l->tok;
    struct deq_bpe *b = &tok->bpe;
    b->vocab_size = tok->vocab_size;
    for (unsigned byte = 0; byte < 256; byte++) {
        char symbol[4];
        json_t *v = json_object_getn(vocab, symbol, (size_t)deq_utf8_encode(deq_byte_to_cp((uint8_t)byte), symbol));
        b->byte_id[byte] = v ? (int32_t)json_integer_value(v) : DEQ_BPE_NONE;
        if (!v && fallback)
            return BAD(l, "model.byte_fallback: true is not supported in a vocabulary without the symbol of byte %u",
                       byte);
    }
    int64_t twice = deq_bpe_index(b);
    if (twice == -2)
        return deq_load_no_memory(l);
    return twice >= 0 ? BAD(l, "model.merges[%lld]: the same pair stands there before", (long long)twice) : DEQ_OK;
}

enum deq_rc deq_load_bpe(struct loader *l, const json_t *model)
{
    static const char *const must_be_empty[] = {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"};
    json_t *vocab = json_object_get(model, "vocab"), *v;
    enum deq_rc rc;
    bool flag = false, fallback = false, ignore_merges = false;

    for (size_t i = 0; i < DEQ_COUNT(must_be_empty); i++) {
        v = json_object_get(model, must_be_empty[i]);
        if (!deq_load_absent(v) && !(json_is_string(v) && !json_string_length(v)))
            return BAD(l, "model.%s: only null and \"\" are supported", must_be_empty[i]);
    }
    v = json_object_get(model, "dropout");
    if (!deq_load_absent(v) && !(json_is_number(v) && json_number_value(v) == 0))
        return BAD(l, "model.dropout: only null is supported");
    if ((rc = deq_load_bool(l, model, "model", "fuse_unk", false, &flag)))
        return rc;
    if (flag)
        return BAD(l, "model.fuse_unk: true is not supported");
    if ((rc = deq_load_bool(l, model, "model", "byte_fallback", false, &fallback)) ||
        (rc = deq_load_bool(l, model, "model", "ignore_merges", false, &ignore_merges)))
        return rc;
    if (!json_is_object(vocab))
        return BAD(l, "model.vocab: expected an object of token: id, found %s", deq_load_type(vocab));
    if ((rc = deq_load_tokens(l, vocab, ignore_merges)) ||
        (rc = read_merges(l, vocab, json_object_get(model, "merges"))))
        return rc;
    return finish_bpe(l, vocab, fallback);
}

/* GPT-2's merges.txt: one pair per line after a line "#version: ...". */
enum deq_rc deq_load_bpe_txt(struct loader *l, json_t *vocab, const char *text, size_t n)
{
    struct merges m;
    enum deq_rc rc = DEQ_OK;
    size_t lines = 1;
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    if (!merges_room(l, &m, vocab, lines))
        return deq_load_no_memory(l);
    for (const char *p = text, *end = text + n; p < end && !rc;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
        size_t len = (size_t)(stop - p);
        if (len && p[len - 1] == '\r')
            len--;
        if (len && !(p == text && len >= 8 && !memcmp(p, "#version", 8)))
            rc = add_merge_text(l, &m, p, len);
        p = nl ? nl + 1 : end;
    }
    deq_buf_free(&m.joined);
    return rc ? rc : finish_bpe(l, vocab, false);
}
