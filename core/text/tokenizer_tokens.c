/* The tokens of a tokenizer.json: added_tokens and the vocabulary of the model -> spans of one blob, and the
 * sets that are searched for. */
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_impl.h"

enum {
    MAX_ADDED = 1 << 16,
    SPARE_IDS = 1 << 16, /* that no token has, for any file, beside one a token: tables by id are no
                          * larger than the file justifies */
};

static int by_id(const void *pa, const void *pb)
{
    const struct deq_added *a = pa, *b = pb;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Copies bytes into the blob, whose room was counted before. Returns 1 + offset. */
static uint32_t blob_add(struct deq_tokenizer *tok, const char *bytes, size_t n)
{
    size_t at = tok->blob_len;
    if (n)
        memcpy(tok->blob + at, bytes, n);
    tok->blob_len += n;
    return (uint32_t)at + 1;
}

enum deq_rc deq_load_added(struct loader *l, const json_t *list)
{
    struct deq_tokenizer *tok = l->tok;
    if (deq_load_absent(list))
        return DEQ_OK;
    if (!json_is_array(list))
        return BAD(l, "added_tokens: expected an array, found %s", deq_load_type(list));
    size_t n = json_array_size(list);
    if (n > MAX_ADDED)
        return BAD(l, "added_tokens: %zu of them, the limit is %d", n, MAX_ADDED);
    if (n && !(tok->added = DEQ_NEW_ARRAY(struct deq_added, n)))
        return deq_load_no_memory(l);
    for (size_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(list, i), *content = json_object_get(o, "content");
        struct deq_added *a = &tok->added[i];
        const char *text = json_string_value(content);
        bool single_word = false;
        enum deq_rc rc;
        if (!json_is_object(o))
            return BAD(l, "added_tokens[%zu]: expected an object, found %s", i, deq_load_type(o));
        if (!text)
            return BAD(l, "added_tokens[%zu].content: expected a string, found %s", i, deq_load_type(content));
        if (!*text)
            return BAD(l, "added_tokens[%zu].content: expected text, found none", i);
        if ((rc = deq_load_id(l, json_object_get(o, "id"), "added_tokens", text, &a->id)) ||
            (rc = deq_load_bool(l, o, "added_tokens[]", "special", false, &a->special)) ||
            (rc = deq_load_bool(l, o, "added_tokens[]", "lstrip", false, &a->lstrip)) ||
            (rc = deq_load_bool(l, o, "added_tokens[]", "rstrip", false, &a->rstrip)) ||
            (rc = deq_load_bool(l, o, "added_tokens[]", "normalized", false, &a->normalized)) ||
            (rc = deq_load_bool(l, o, "added_tokens[]", "single_word", false, &single_word)))
            return rc;
        if (single_word)
            return BAD(l, "added_tokens[%zu].single_word: true is not supported", i);
        a->content = text; /* of the JSON tree until deq_load_tokens() copies it */
        a->len = (uint32_t)json_string_length(content);
        tok->n_added = i + 1;
    }
    if (n)
        qsort(tok->added, n, sizeof *tok->added, by_id);
    for (size_t i = 1; i < n; i++)
        if (tok->added[i].id == tok->added[i - 1].id)
            return BAD(l, "added_tokens: id %u is given twice", tok->added[i].id);
    return DEQ_OK;
}

static enum deq_rc twice(struct loader *l, const struct deq_added *a)
{
    return BAD(l, "added_tokens: \"%.*s\" stands there twice", deq_load_shown_z(a->content), a->content);
}

/* A normalized token is searched for in normalised text; the reference then searches for its content's form. */
static enum deq_rc check_normal(struct loader *l, const struct deq_added *a)
{
    for (size_t i = 0; i < l->tok->n_forms; i++) {
        struct deq_buf form;
        deq_buf_init(&form, DEQ_TOKENIZER_MAX_FILE_BYTES);
        const bool ok = deq_normalize(l->tok->form[i], a->content, a->len, &form),
                   same = ok && form.len == a->len && !memcmp(form.data, a->content, a->len);
        deq_buf_free(&form);
        if (!ok)
            return deq_load_no_memory(l);
        if (!same)
            return BAD(l,
                       "added_tokens: \"%.*s\" is normalized, and the normalizer makes something else of it: this is "
                       "not supported",
                       deq_load_shown_z(a->content), a->content);
    }
    return DEQ_OK;
}

static enum deq_rc index_added(struct loader *l)
{
    struct deq_tokenizer *tok = l->tok;
    for (size_t k = 0; k < DEQ_COUNT(tok->set) && tok->n_added; k++) {
        struct deq_added_set *set = &tok->set[k];
        const struct deq_added *again;
        if (!deq_added_room(set, tok->n_added))
            return deq_load_no_memory(l);
        for (size_t i = 0; i < tok->n_added; i++)
            if (tok->added[i].normalized == (k == 1))
                set->item[set->n++] = &tok->added[i];
        if (!deq_added_index(set, &again))
            return deq_load_no_memory(l);
        if (again)
            return twice(l, again);
    }
    for (size_t i = 0; i < tok->set[1].n; i++) {
        const struct deq_added *a = tok->set[1].item[i];
        if (deq_added_find(&tok->set[0], a->content, a->len))
            return twice(l, a);
        const enum deq_rc rc = check_normal(l, a);
        if (rc)
            return rc;
    }
    return DEQ_OK;
}

/* The bytes that a token's text stands for, written to out (at least n bytes). Text with a character outside
 * the byte alphabet stands for itself, as in the reference; *ret_pure is false then, for such a token cannot
 * come out of a merge of bytes. */
static size_t token_bytes(const char *text, size_t n, char *out, bool *ret_pure)
{
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int k = deq_utf8_decode(text + i, n - i, &cp), byte = k > 0 ? deq_cp_to_byte(cp) : -1;
        if (byte < 0) {
            memcpy(out, text, n);
            *ret_pure = false;
            return n;
        }
        out[len++] = (char)byte;
        i += (size_t)k;
    }
    *ret_pure = true;
    return len;
}

enum deq_rc deq_load_tokens(struct loader *l, json_t *vocab, bool want_words)
{
    struct deq_tokenizer *tok = l->tok;
    uint32_t highest = 0, id;
    size_t bytes = 1, n_vocab = 0;
    const char *key;
    size_t key_len;
    json_t *v;
    enum deq_rc rc;

    json_object_keylen_foreach(vocab, key, key_len, v) {
        if ((rc = deq_load_id(l, v, "model.vocab", key, &id)))
            return rc;
        highest = DEQ_MAX(highest, id);
        bytes += key_len;
        n_vocab++;
    }
    if (!n_vocab)
        return BAD(l, "model.vocab: expected tokens, found none");
    for (size_t i = 0; i < tok->n_added; i++) {
        highest = DEQ_MAX(highest, tok->added[i].id);
        bytes += tok->added[i].len + 1;
    }
    if (highest >= 2 * (n_vocab + tok->n_added) + SPARE_IDS)
        return BAD(l, "id %u: the file has %zu tokens, expected their ids below %zu", highest, n_vocab + tok->n_added,
                   2 * (n_vocab + tok->n_added) + SPARE_IDS);
    tok->vocab_size = highest + 1;
    if (tok->model == MODEL_WORDLEVEL)
        bytes += n_vocab + tok->n_added; /* the blanks */
    tok->span = DEQ_NEW_ARRAY(struct deq_span, tok->vocab_size);
    tok->blob = deq_alloc(bytes); /* bytes is below twice the limit of a file, so offsets fit 32 bits */
    if (want_words)
        tok->bpe.word = DEQ_NEW_ARRAY(struct deq_bpe_word, n_vocab);
    if (!tok->span || !tok->blob || (want_words && !tok->bpe.word))
        return deq_load_no_memory(l);

    for (size_t i = 0; i < tok->n_added; i++) {
        struct deq_added *a = &tok->added[i];
        json_t *same = json_object_get(vocab, a->content);
        if (same && json_integer_value(same) != (json_int_t)a->id)
            return BAD(l, "added_tokens: \"%.*s\" has id %u here and %lld in model.vocab", deq_load_shown_z(a->content),
                       a->content, a->id, (long long)json_integer_value(same));
        if (tok->model == MODEL_WORDLEVEL)
            blob_add(tok, " ", 1);
        uint32_t at = blob_add(tok, a->content, a->len + 1); /* with its NUL, for messages */
        tok->span[a->id] = (struct deq_span){at, a->len};
        a->content = tok->blob + at - 1;
    }
    if ((rc = index_added(l)))
        return rc;
    json_object_keylen_foreach(vocab, key, key_len, v) {
        id = (uint32_t)json_integer_value(v);
        const struct deq_added *a = deq_added_by_id(tok, id);
        if (a && a->len == key_len && !memcmp(a->content, key, key_len))
            continue;
        if (tok->span[id].at)
            return BAD(l, "model.vocab: \"%.*s\" has id %u, which another token has too", deq_load_shown_z(key), key,
                       id);
        if (tok->model == MODEL_WORDLEVEL) {
            if (!deq_is_word(key, key_len))
                return BAD(l, "model.vocab: \"%.*s\" is empty or holds white space, so that no text can give it",
                           deq_load_shown_z(key), key);
            blob_add(tok, " ", 1);
            tok->span[id] = (struct deq_span){blob_add(tok, key, key_len), (uint32_t)key_len};
            continue;
        }
        bool pure;
        char *out = tok->blob + tok->blob_len;
        size_t n = token_bytes(key, key_len, out, &pure);
        tok->span[id] = (struct deq_span){(uint32_t)tok->blob_len + 1, (uint32_t)n};
        tok->blob_len += n;
        if (want_words && pure && n)
            tok->bpe.word[tok->bpe.n_words++] = (struct deq_bpe_word){out, (uint32_t)n, id};
    }
    return DEQ_OK;
}
