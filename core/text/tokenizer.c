#include "core/text/tokenizer.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_impl.h"

/* ---- added tokens ---- */

const struct deq_added *deq_added_by_id(const struct deq_tokenizer *tok, uint32_t id)
{
    size_t lo = 0, hi = tok->n_added;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (tok->added[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < tok->n_added && tok->added[lo].id == id ? &tok->added[lo] : NULL;
}

const struct deq_added *deq_added_by_content(const struct deq_tokenizer *tok, const char *content, size_t n)
{
    for (size_t i = 0; i < DEQ_COUNT(tok->set); i++) {
        const struct deq_added *a = deq_added_find(&tok->set[i], content, n);
        if (a)
            return a;
    }
    return NULL;
}

void deq_tokenizer_free(struct deq_tokenizer *tok)
{
    if (!tok)
        return;
    deq_bpe_free(&tok->bpe);
    deq_wordlevel_free(&tok->words);
    for (size_t k = 0; k < DEQ_COUNT(tok->set); k++)
        deq_added_free(&tok->set[k]);
    deq_free(tok->added);
    deq_free(tok->span);
    deq_free(tok->blob);
    deq_free(tok);
}

/* ---- questions ---- */

uint32_t deq_tokenizer_vocab_size(const struct deq_tokenizer *tok)
{
    return tok->vocab_size;
}

int64_t deq_tokenizer_id(const struct deq_tokenizer *tok, const char *content)
{
    const struct deq_added *a = deq_added_by_content(tok, content, strlen(content));
    return a ? (int64_t)a->id : -1;
}

bool deq_tokenizer_is_special(const struct deq_tokenizer *tok, uint32_t id)
{
    const struct deq_added *a = deq_added_by_id(tok, id);
    return a && a->special;
}

const char *deq_tokenizer_bytes(const struct deq_tokenizer *tok, uint32_t id, size_t *ret_len)
{
    if (id >= tok->vocab_size || !tok->span[id].at)
        return NULL;
    *ret_len = tok->span[id].len;
    return tok->blob + tok->span[id].at - 1;
}

static const char *text_of(const struct deq_tokenizer *tok, int64_t prev, uint32_t id, bool show_special,
                           size_t *ret_len)
{
    size_t n;
    bool joint = false;
    const char *s = deq_tokenizer_bytes(tok, id, &n);
    if (s && tok->model == MODEL_WORDLEVEL)
        s = deq_wordlevel_text(tok, prev, id, &joint, &n);
    if (!s || (!show_special && !joint && deq_tokenizer_is_special(tok, id)))
        return NULL;
    *ret_len = n;
    return s;
}

const char *deq_tokenizer_text(const struct deq_tokenizer *tok, int64_t prev, uint32_t id, size_t *ret_len)
{
    return text_of(tok, prev, id, false, ret_len);
}

bool deq_tokenizer_has_words(const struct deq_tokenizer *tok)
{
    return tok->model == MODEL_WORDLEVEL;
}

int64_t deq_tokenizer_begin(const struct deq_tokenizer *tok)
{
    return tok->begins ? (int64_t)tok->begin : -1;
}

/* ---- encode, decode ---- */

struct encoder {
    const struct deq_tokenizer *tok;
    const struct deq_range *special; /* [n_special] of the text as given */
    size_t n_special;
    struct deq_bpe_work work;
    struct deq_added_hits hits[2]; /* of each level */
    struct deq_buf normal[2];
    struct deq_tokens *out;
    struct deq_err *err;
};

/* Text between added tokens. */
struct piece {
    const char *s;
    size_t n;
    struct deq_range place; /* in the text as given */
    bool normal;            /* s is its normal form, elsewhere */
};

/* Whether special tokens are recognised in bytes begin to end of a piece. */
static bool recognised(const struct encoder *e, const struct piece *p, size_t begin, size_t end)
{
    const struct deq_range r = p->normal ? p->place
                                         : (struct deq_range){p->place.begin + begin, p->place.begin + end};
    size_t lo = 0, hi = e->n_special;
    while (lo < hi) { /* the first range that does not end before it */
        const size_t mid = lo + (hi - lo) / 2;
        if (e->special[mid].end < r.end)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < e->n_special && e->special[lo].begin <= r.begin;
}

static struct piece part_of(const struct piece *p, size_t begin, size_t end)
{
    const struct deq_range place = {p->place.begin + begin, p->place.begin + end};
    return (struct piece){p->s + begin, end - begin, p->normal ? p->place : place, p->normal};
}

/* A piece of stage - 1, cut by the stages that are left. */
static enum deq_rc encode_stage(struct encoder *e, size_t stage, const char *s, size_t n)
{
    if (stage == e->tok->n_pretok)
        return deq_bpe_encode(&e->tok->bpe, s, n, &e->work, e->out, e->err);
    enum deq_rc rc = DEQ_OK;
    for (size_t at = 0, k; at < n && !rc; at += k) {
        k = deq_pretok_next(e->tok->pretok[stage], s + at, n - at);
        rc = encode_stage(e, stage + 1, s + at, k);
    }
    return rc;
}

/* With prefix_space there is one stage at most: the blank belongs to the first piece, and only that piece is copied. */
static enum deq_rc encode_after_blank(struct encoder *e, const char *s, size_t n)
{
    const enum deq_pretok kind = e->tok->n_pretok ? e->tok->pretok[0] : DEQ_PRETOK_WHOLE;
    size_t k = DEQ_MIN(n, (size_t)4096), first;
    char *copy;
    for (;;) {
        if (!(copy = deq_alloc(k + 1)))
            return deq_fail(e->err, DEQ_ENOMEM, "no memory for a word of %zu bytes", k);
        copy[0] = ' ';
        memcpy(copy + 1, s, k);
        first = deq_pretok_next(kind, copy, k + 1);
        if (first + 16 < k || k == n) /* it ends before the part that the cut may have changed */
            break;
        deq_free(copy);
        k = n - k < k ? n : 2 * k;
    }
    enum deq_rc rc = deq_bpe_encode(&e->tok->bpe, copy, first, &e->work, e->out, e->err);
    deq_free(copy);
    return rc ? rc : encode_stage(e, 0, s + first - 1, n - (first - 1));
}

/* Text without added tokens. */
static enum deq_rc encode_plain(struct encoder *e, const char *s, size_t n)
{
    switch (e->tok->model) {
    case MODEL_BPE:
        return n && e->tok->prefix_space && s[0] != ' ' ? encode_after_blank(e, s, n) : encode_stage(e, 0, s, n);
    case MODEL_WORDLEVEL: return deq_wordlevel_encode(e->tok, s, n, e->out, e->err);
    }
    return DEQ_EINVAL;
}

static size_t blanks_before(const char *s, size_t from, size_t at)
{
    while (at > from) {
        uint32_t cp;
        size_t k = 1;
        while (k < 4 && k < at - from && ((unsigned char)s[at - k] & 0xc0) == 0x80)
            k++;
        if (deq_utf8_decode(s + at - k, k, &cp) != (int)k || !deq_cp_is_space(cp))
            break;
        at -= k;
    }
    return at;
}

static size_t blanks_after(const char *s, size_t n, size_t at)
{
    uint32_t cp;
    int k;
    while ((k = deq_utf8_decode(s + at, n - at, &cp)) > 0 && deq_cp_is_space(cp))
        at += (size_t)k;
    return at;
}

static enum deq_rc encode_level(struct encoder *e, size_t level, const struct piece *p);

/* What lies between tokens of the first set is normalised before those of the second are looked for. */
static enum deq_rc encode_between(struct encoder *e, size_t level, struct piece p)
{
    if (level + 1 == DEQ_COUNT(e->tok->set))
        return encode_plain(e, p.s, p.n);
    for (size_t i = 0; i < e->tok->n_forms; i++) {
        struct deq_buf *to = &e->normal[i % 2];
        deq_buf_reset(to);
        if (!deq_normalize(e->tok->form[i], p.s, p.n, to))
            return deq_fail(e->err, DEQ_ENOMEM, "no memory for a text in its normal form");
        p = (struct piece){to->data, to->len, p.place, true};
    }
    return encode_level(e, level + 1, &p);
}

/* Splits at the added tokens of set[level], leftmost and longest first. */
static enum deq_rc encode_level(struct encoder *e, size_t level, const struct piece *p)
{
    const char *const s = p->s;
    const size_t n = p->n;
    struct deq_added_hits *hits = &e->hits[level];
    size_t done = 0;       /* encoded up to here */
    size_t at = 0;         /* searched up to here */
    size_t blanks_end = 0; /* where the blanks end that an rstrip took last: more of them may be tokens themselves */
    enum deq_rc rc;
    if (!deq_added_scan(&e->tok->set[level], s, n, hits))
        return deq_fail(e->err, DEQ_ENOMEM, "no memory for the added tokens in a text");
    while (hits->n) {
        const struct deq_added_hit hit = hits->hit[--hits->n];
        const struct deq_added *a = hit.token;
        size_t begin = hit.at, end = begin + a->len;
        if (begin < at)
            continue;
        at = end;
        if (a->special && !recognised(e, p, begin, end))
            continue;
        if (a->lstrip && begin > done)
            begin = blanks_before(s, done, begin);
        if (a->rstrip)
            end = blanks_end = DEQ_MAX(blanks_end, blanks_after(s, n, DEQ_MAX(end, blanks_end)));
        /* begin < done: this token is made of blanks that an rstrip before it swallowed. The
         * reference emits it all the same. */
        if (begin > done && (rc = encode_between(e, level, part_of(p, done, begin))))
            return rc;
        if (!deq_tokens_push(e->out, a->id))
            return deq_fail(e->err, DEQ_ENOMEM, "no memory for the tokens of a text");
        done = end;
    }
    return done < n ? encode_between(e, level, part_of(p, done, n)) : DEQ_OK;
}

enum deq_rc deq_tokenizer_encode_ranges(const struct deq_tokenizer *tok, const char *text, size_t len,
                                        const struct deq_range *special, size_t n, struct deq_tokens *out,
                                        struct deq_err *err)
{
    struct encoder e = {.tok = tok, .special = special, .n_special = n, .out = out, .err = err};
    const struct piece all = {text, len, {0, len}, false};
    size_t n_before = out->n;
    for (size_t i = 0; i < DEQ_COUNT(e.normal); i++)
        deq_buf_init(&e.normal[i], SIZE_MAX / 2);
    enum deq_rc rc = encode_level(&e, 0, &all);
    deq_bpe_work_free(&e.work);
    for (size_t i = 0; i < DEQ_COUNT(e.hits); i++)
        deq_added_hits_free(&e.hits[i]);
    for (size_t i = 0; i < DEQ_COUNT(e.normal); i++)
        deq_buf_free(&e.normal[i]);
    if (rc)
        out->n = n_before;
    return rc;
}

enum deq_rc deq_tokenizer_encode(const struct deq_tokenizer *tok, const char *text, size_t len, bool parse_special,
                                 struct deq_tokens *out, struct deq_err *err)
{
    return deq_tokenizer_encode_ranges(tok, text, len, &(struct deq_range){0, len}, parse_special, out, err);
}

enum deq_rc deq_tokenizer_decode(const struct deq_tokenizer *tok, const uint32_t *ids, size_t n, bool skip_special,
                                 struct deq_buf *out, struct deq_err *err)
{
    size_t len_before = out->len;
    int64_t prev = -1;
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *bytes = text_of(tok, prev, ids[i], true, &len);
        if (!bytes) {
            out->len = len_before;
            if (out->data)
                out->data[out->len] = 0;
            return deq_fail(err, DEQ_EINVAL, "token id %u (position %zu) is not in the vocabulary", ids[i], i);
        }
        if (skip_special && deq_tokenizer_is_special(tok, ids[i]))
            continue;
        prev = ids[i];
        if (!deq_buf_add(out, bytes, len))
            return deq_fail(err, DEQ_ENOMEM, "no room for the text of %zu tokens", n);
    }
    return DEQ_OK;
}
