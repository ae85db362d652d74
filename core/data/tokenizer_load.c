/* tokenizer.json -> struct deq_tokenizer. The file is not trusted: every value is checked where it is read, and an error names the
 * key and what was expected. Nothing here is quadratic in the size of the file. */
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/data/tokenizer_impl.h"

enum {
    MAX_ADDED = 1 << 16,
    MAX_ADDED_BYTES = 1024, /* of one added token: bounds the work per byte of text */
    MAX_AFFIX = 64,         /* tokens before or after a text */
    SHOWN = 64,             /* bytes of text from the file in a message */
};

enum deq_rc deq_load_no_memory(struct loader *l)
{
    return deq_fail(l->err, DEQ_ENOMEM, "%s: no memory to load it", l->name);
}

/* not cut inside a code point */
int deq_load_shown(const char *s, size_t n)
{
    return (int)deq_utf8_complete(s, DEQ_MIN(n, (size_t)SHOWN));
}

static int shown(const char *s)
{
    return deq_load_shown(s, strlen(s));
}

const char *deq_load_type(const json_t *v)
{
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return v ? "null" : "nothing";
    }
    return "something else";
}

bool deq_load_absent(const json_t *v)
{
    return !v || json_is_null(v);
}

enum deq_rc deq_load_bool(struct loader *l, const json_t *o, const char *where, const char *key, bool otherwise, bool *ret)
{
    const json_t *v = json_object_get(o, key);
    if (deq_load_absent(v)) {
        *ret = otherwise;
        return DEQ_OK;
    }
    if (!json_is_boolean(v))
        return BAD(l, "%s.%s: expected a boolean, found %s", where, key, deq_load_type(v));
    *ret = json_is_true(v);
    return DEQ_OK;
}

enum deq_rc deq_load_id(struct loader *l, const json_t *v, const char *where, const char *what, uint32_t *ret)
{
    if (!json_is_integer(v))
        return BAD(l, "%s: \"%.*s\": expected an integer id, found %s", where, shown(what), what, deq_load_type(v));
    json_int_t id = json_integer_value(v);
    if (id < 0 || id >= DEQ_TOKENIZER_MAX_IDS)
        return BAD(l, "%s: \"%.*s\": id %lld is outside 0..%d", where, shown(what), what, (long long)id, DEQ_TOKENIZER_MAX_IDS - 1);
    *ret = (uint32_t)id;
    return DEQ_OK;
}

const char *deq_load_component(struct loader *l, const json_t *o, const char *where)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!json_is_object(o))
        BAD(l, "%s: expected an object, found %s", where, deq_load_type(o));
    else if (!type)
        BAD(l, "%s.type: expected a string, found %s", where, deq_load_type(json_object_get(o, "type")));
    return type;
}

/* ---- tokens ---- */

static int by_id(const void *pa, const void *pb)
{
    const struct added *a = pa, *b = pb;
    return a->id < b->id ? -1 : a->id > b->id;
}

static int by_content(const void *pa, const void *pb)
{
    const struct added *a = *(const struct added *const *)pa, *b = *(const struct added *const *)pb;
    int c = memcmp(a->content, b->content, DEQ_MIN(a->len, b->len));
    return c ? c : a->len < b->len ? -1 : a->len > b->len;
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

static enum deq_rc read_added(struct loader *l, const json_t *list)
{
    struct deq_tokenizer *tok = l->tok;
    if (deq_load_absent(list))
        return DEQ_OK;
    if (!json_is_array(list))
        return BAD(l, "added_tokens: expected an array, found %s", deq_load_type(list));
    size_t n = json_array_size(list);
    if (n > MAX_ADDED)
        return BAD(l, "added_tokens: %zu of them, the limit is %d", n, MAX_ADDED);
    if (n && !(tok->added = DEQ_NEW_ARRAY(struct added, n)))
        return deq_load_no_memory(l);
    for (size_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(list, i), *content = json_object_get(o, "content");
        struct added *a = &tok->added[i];
        const char *text = json_string_value(content);
        bool single_word = false;
        enum deq_rc rc;
        if (!json_is_object(o))
            return BAD(l, "added_tokens[%zu]: expected an object, found %s", i, deq_load_type(o));
        if (!text)
            return BAD(l, "added_tokens[%zu].content: expected a string, found %s", i, deq_load_type(content));
        if (!*text || json_string_length(content) > MAX_ADDED_BYTES)
            return BAD(l, "added_tokens[%zu].content: expected 1..%d bytes, found %zu", i, MAX_ADDED_BYTES,
                       json_string_length(content));
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

static enum deq_rc index_added(struct loader *l)
{
    struct deq_tokenizer *tok = l->tok;
    for (size_t k = 0; k < DEQ_COUNT(tok->set); k++) {
        struct added_set *set = &tok->set[k];
        if (!tok->n_added)
            break;
        if (!(set->item = DEQ_NEW_ARRAY(const struct added *, tok->n_added)))
            return deq_load_no_memory(l);
        for (size_t i = 0; i < tok->n_added; i++)
            if (tok->added[i].normalized == (k == 1))
                set->item[set->n++] = &tok->added[i];
        if (set->n)
            qsort(set->item, set->n, sizeof *set->item, by_content);
        for (size_t i = 0; i < set->n; i++) {
            if (i && !by_content(&set->item[i - 1], &set->item[i]))
                return BAD(l, "added_tokens: \"%.*s\" stands there twice", shown(set->item[i]->content), set->item[i]->content);
            set->begins[(uint8_t)set->item[i]->content[0]] = true;
        }
    }
    for (size_t i = 0; i < tok->set[1].n; i++) {
        const struct added *a = tok->set[1].item[i], *b = deq_added_longest(&tok->set[0], a->content, a->len);
        if (b && b->len == a->len)
            return BAD(l, "added_tokens: \"%.*s\" stands there twice", shown(a->content), a->content);
    }
    return DEQ_OK;
}

/* The bytes that a token's text stands for, written to out (at least n bytes). Text with a character outside the byte alphabet
 * stands for itself, as in the reference; *ret_pure is false then, for such a token cannot come out of a merge of bytes. */
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
        struct added *a = &tok->added[i];
        json_t *same = json_object_get(vocab, a->content);
        if (same && json_integer_value(same) != (json_int_t)a->id)
            return BAD(l, "added_tokens: \"%.*s\" has id %u here and %lld in model.vocab", shown(a->content), a->content, a->id,
                       (long long)json_integer_value(same));
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
        const struct added *a = deq_added_by_id(tok, id);
        if (a && a->len == key_len && !memcmp(a->content, key, key_len))
            continue;
        if (tok->span[id].at)
            return BAD(l, "model.vocab: \"%.*s\" has id %u, which another token has too", shown(key), key, id);
        if (tok->model == MODEL_WORDLEVEL) {
            if (!deq_is_word(key, key_len))
                return BAD(l, "model.vocab: \"%.*s\" is empty or holds white space, so that no text can give it", shown(key), key);
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

/* ---- what stands around the tokens ---- */

static enum deq_rc read_model(struct loader *l, const json_t *model)
{
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model))
        return BAD(l, "model: expected an object, found %s", deq_load_type(model));
    /* files of before 2020 have no type; they were all BPE */
    const char *name = deq_load_absent(type) && json_object_get(model, "merges") ? "BPE" : json_string_value(type);
    if (!name)
        return BAD(l, "model.type: expected a string, found %s", deq_load_type(type));
    if (!strcmp(name, "BPE")) {
        l->tok->model = MODEL_BPE;
        return deq_load_bpe(l, model);
    }
    if (!strcmp(name, "WordLevel")) {
        l->tok->model = MODEL_WORDLEVEL;
        return deq_load_wordlevel(l, model);
    }
    return BAD(l, "model.type: \"%.*s\" is not supported, expected \"BPE\" or \"WordLevel\"", shown(name), name);
}

static enum deq_rc read_byte_level(struct loader *l, const json_t *o, const char *where, bool *ret_prefix, bool *ret_regex)
{
    bool trim = false;
    enum deq_rc rc;
    if ((rc = deq_load_bool(l, o, where, "add_prefix_space", true, ret_prefix)) ||
        (rc = deq_load_bool(l, o, where, "use_regex", true, ret_regex)))
        return rc;
    return deq_load_bool(l, o, where, "trim_offsets", true, &trim); /* concerns offsets only */
}

static enum deq_rc read_split(struct loader *l, const json_t *o, const char *where)
{
    const char *regex = json_string_value(json_object_get(json_object_get(o, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(o, "behavior"));
    bool invert = false;
    enum deq_rc rc = deq_load_bool(l, o, where, "invert", false, &invert);
    if (rc)
        return rc;
    if (!regex)
        return BAD(l, "%s.pattern: expected {\"Regex\": \"...\"}", where);
    if (!deq_pretok_find(regex, &l->tok->pretok))
        return BAD(l, "%s.pattern.Regex: this expression is not supported: %.*s", where,
                   (int)deq_utf8_complete(regex, DEQ_MIN(strlen(regex), (size_t)300)), regex);
    /* the known expressions match every character, so that keeping all matches is the same as removing all non-matches */
    if (behavior && ((!strcmp(behavior, "Isolated") && !invert) || (!strcmp(behavior, "Removed") && invert)))
        return DEQ_OK;
    return BAD(l, "%s.behavior: expected \"Isolated\" (or \"Removed\" with invert)", where);
}

static enum deq_rc read_pre_tokenizer(struct loader *l, const json_t *o)
{
    struct deq_tokenizer *tok = l->tok;
    bool regex = false;
    enum deq_rc rc;
    const char *type = deq_load_component(l, o, "pre_tokenizer");
    if (!type)
        return DEQ_EFORMAT;
    if (!strcmp(type, "ByteLevel")) {
        if ((rc = read_byte_level(l, o, "pre_tokenizer", &tok->prefix_space, &regex)))
            return rc;
        tok->pretok = regex ? DEQ_PRETOK_GPT2 : DEQ_PRETOK_WHOLE;
        return DEQ_OK;
    }
    if (strcmp(type, "Sequence"))
        return BAD(l, "pre_tokenizer.type: \"%.*s\" is not supported, expected \"ByteLevel\" or \"Sequence\"", shown(type), type);

    const json_t *list = json_object_get(o, "pretokenizers"), *split = json_array_get(list, 0), *bytes = json_array_get(list, 1);
    if (json_array_size(list) != 2)
        return BAD(l, "pre_tokenizer.pretokenizers: expected [Split, ByteLevel]");
    const char *a = deq_load_component(l, split, "pre_tokenizer.pretokenizers[0]");
    const char *b = a ? deq_load_component(l, bytes, "pre_tokenizer.pretokenizers[1]") : NULL;
    if (!b)
        return DEQ_EFORMAT;
    if (strcmp(a, "Split") || strcmp(b, "ByteLevel"))
        return BAD(l, "pre_tokenizer.pretokenizers: expected [Split, ByteLevel], found [%.*s, %.*s]", shown(a), a, shown(b), b);
    bool prefix = false;
    if ((rc = read_split(l, split, "pre_tokenizer.pretokenizers[0]")) ||
        (rc = read_byte_level(l, bytes, "pre_tokenizer.pretokenizers[1]", &prefix, &regex)))
        return rc;
    if (regex || prefix)
        return BAD(l, "pre_tokenizer.pretokenizers[1]: after a Split, %s must be false", regex ? "use_regex" : "add_prefix_space");
    return DEQ_OK;
}

static enum deq_rc read_affix(struct loader *l, const json_t *ids, const char *what, uint32_t **list, size_t *n)
{
    if (!json_is_array(ids) || !json_array_size(ids))
        return BAD(l, "post_processor.special_tokens: \"%.*s\": expected ids: [...]", shown(what), what);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        uint32_t id;
        enum deq_rc rc = deq_load_id(l, json_array_get(ids, i), "post_processor.special_tokens", what, &id);
        if (rc)
            return rc;
        if (id >= l->tok->vocab_size || !l->tok->span[id].at)
            return BAD(l, "post_processor.special_tokens: \"%.*s\": id %u is not in the vocabulary", shown(what), what, id);
        if (*n == MAX_AFFIX)
            return BAD(l, "post_processor.single: more than %d tokens around a text", MAX_AFFIX);
        if (!*list && !(*list = DEQ_NEW_ARRAY(uint32_t, MAX_AFFIX)))
            return deq_load_no_memory(l);
        (*list)[(*n)++] = id;
    }
    return DEQ_OK;
}

static enum deq_rc read_template(struct loader *l, const json_t *o)
{
    struct deq_tokenizer *tok = l->tok;
    const json_t *single = json_object_get(o, "single"), *special = json_object_get(o, "special_tokens");
    bool seen = false;
    if (tok->n_before || tok->n_after)
        return BAD(l, "post_processor: expected one TemplateProcessing, found two");
    if (!json_is_array(single))
        return BAD(l, "post_processor.single: expected an array, found %s", deq_load_type(single));
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const char *seq = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        const char *id = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (seq && !strcmp(seq, "A") && !seen) {
            seen = true;
        } else if (id && !seq) {
            const json_t *ids = json_object_get(json_object_get(special, id), "ids");
            enum deq_rc rc = read_affix(l, ids, id, seen ? &tok->after : &tok->before, seen ? &tok->n_after : &tok->n_before);
            if (rc)
                return rc;
        } else {
            return BAD(l, "post_processor.single[%zu]: expected a SpecialToken or, once, Sequence A", i);
        }
    }
    return seen ? DEQ_OK : BAD(l, "post_processor.single: Sequence A is missing");
}

static enum deq_rc read_post_processor(struct loader *l, const json_t *o, bool nested)
{
    if (deq_load_absent(o))
        return DEQ_OK;
    const char *type = deq_load_component(l, o, "post_processor");
    if (!type)
        return DEQ_EFORMAT;
    if (!strcmp(type, "ByteLevel"))
        return DEQ_OK; /* concerns offsets only */
    if (!strcmp(type, "TemplateProcessing"))
        return read_template(l, o);
    if (strcmp(type, "Sequence") || nested)
        return BAD(l, "post_processor.type: \"%.*s\" is not supported, expected null, \"ByteLevel\" or \"TemplateProcessing\"",
                   shown(type), type);
    const json_t *list = json_object_get(o, "processors");
    if (!json_is_array(list))
        return BAD(l, "post_processor.processors: expected an array, found %s", deq_load_type(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        enum deq_rc rc = deq_load_absent(item) ? BAD(l, "post_processor.processors[%zu]: expected an object, found null", i)
                                               : read_post_processor(l, item, true);
        if (rc)
            return rc;
    }
    return DEQ_OK;
}

/* What stands around a BPE model, the post-processor apart. */
static enum deq_rc read_bpe_around(struct loader *l, const json_t *root)
{
    const json_t *normalizer = json_object_get(root, "normalizer"), *decoder = json_object_get(root, "decoder");
    enum deq_rc rc;
    if (!deq_load_absent(normalizer)) {
        const char *type = deq_load_component(l, normalizer, "normalizer");
        return type ? BAD(l, "normalizer.type: \"%.*s\" is not supported, expected null", shown(type), type) : DEQ_EFORMAT;
    }
    if ((rc = read_pre_tokenizer(l, json_object_get(root, "pre_tokenizer"))))
        return rc;
    const char *type = deq_load_component(l, decoder, "decoder");
    if (!type)
        return DEQ_EFORMAT;
    return strcmp(type, "ByteLevel") ? BAD(l, "decoder.type: \"%.*s\" is not supported, expected \"ByteLevel\"", shown(type), type)
                                     : DEQ_OK;
}

static enum deq_rc read_root(struct loader *l, const json_t *root)
{
    enum deq_rc rc;
    if (!json_is_object(root))
        return BAD(l, "expected an object, found %s", deq_load_type(root));
    if ((rc = read_added(l, json_object_get(root, "added_tokens"))) || (rc = read_model(l, json_object_get(root, "model"))))
        return rc;
    rc = l->tok->model == MODEL_WORDLEVEL ? deq_load_wordlevel_around(l, root) : read_bpe_around(l, root);
    return rc ? rc : read_post_processor(l, json_object_get(root, "post_processor"), false);
}

static json_t *parse_json(struct loader *l, const char *json, size_t len)
{
    json_error_t je;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        BAD(l, "line %d, column %d: %s", je.line, je.column, je.text);
    return root;
}

enum deq_rc deq_tokenizer_parse(const char *json, size_t len, const char *name, struct deq_tokenizer **ret_tok, struct deq_err *err)
{
    struct loader l = {DEQ_NEW(struct deq_tokenizer), name, err};
    json_t *root = NULL;
    enum deq_rc rc;
    if (!l.tok)
        return deq_load_no_memory(&l);
    if (len > DEQ_TOKENIZER_MAX_FILE_BYTES)
        rc = BAD(&l, "%zu bytes, the limit is %d", len, DEQ_TOKENIZER_MAX_FILE_BYTES);
    else if (!(root = parse_json(&l, json, len)))
        rc = DEQ_EFORMAT;
    else
        rc = read_root(&l, root);
    json_decref(root);
    if (rc)
        deq_tokenizer_free(l.tok);
    else
        *ret_tok = l.tok;
    return rc;
}

static enum deq_rc load_json(const char *path, struct deq_tokenizer **ret_tok, struct deq_err *err)
{
    char *data;
    size_t len;
    enum deq_rc rc = deq_io_read(path, DEQ_TOKENIZER_MAX_FILE_BYTES, &data, &len, err);
    if (rc)
        return rc;
    rc = deq_tokenizer_parse(data, len, path, ret_tok, err);
    deq_free(data);
    return rc;
}

/* GPT-2's own pair of files. They name no special token; the one every such vocabulary has is recognised by its text. */
static enum deq_rc load_gpt2(const char *vocab_path, const char *merges_path, struct deq_tokenizer **ret_tok, struct deq_err *err)
{
    static const char end_of_text[] = "<|endoftext|>";
    struct loader l = {DEQ_NEW(struct deq_tokenizer), vocab_path, err};
    char *vocab_text = NULL, *merges_text = NULL;
    size_t vocab_len, merges_len;
    json_t *vocab = NULL, *eot;
    enum deq_rc rc;
    if (!l.tok)
        return deq_load_no_memory(&l);
    if ((rc = deq_io_read(vocab_path, DEQ_TOKENIZER_MAX_FILE_BYTES, &vocab_text, &vocab_len, err)) ||
        (rc = deq_io_read(merges_path, DEQ_TOKENIZER_MAX_FILE_BYTES, &merges_text, &merges_len, err)))
        goto out;
    rc = DEQ_EFORMAT;
    if (!(vocab = parse_json(&l, vocab_text, vocab_len)))
        goto out;
    if (!json_is_object(vocab)) {
        BAD(&l, "expected an object of token: id, found %s", deq_load_type(vocab));
        goto out;
    }
    l.tok->pretok = DEQ_PRETOK_GPT2;
    if ((eot = json_object_get(vocab, end_of_text))) {
        if (!(l.tok->added = DEQ_NEW(struct added))) {
            rc = deq_load_no_memory(&l);
            goto out;
        }
        l.tok->added[0] = (struct added){.content = end_of_text, .len = sizeof end_of_text - 1, .special = true};
        l.tok->n_added = 1;
        if ((rc = deq_load_id(&l, eot, "vocab", end_of_text, &l.tok->added[0].id)))
            goto out;
    }
    if ((rc = deq_load_tokens(&l, vocab, false)))
        goto out;
    l.name = merges_path;
    if ((rc = deq_load_bpe_txt(&l, vocab, merges_text, merges_len)))
        goto out;
    *ret_tok = l.tok;
    l.tok = NULL;
out:
    json_decref(vocab);
    deq_free(vocab_text);
    deq_free(merges_text);
    deq_tokenizer_free(l.tok);
    return rc;
}

enum deq_rc deq_tokenizer_load(const char *path, struct deq_tokenizer **ret_tok, struct deq_err *err)
{
    char json[4096], vocab[4096], merges[4096];
    if (!deq_io_is_dir(path))
        return load_json(path, ret_tok, err);
    if (!deq_io_join(json, sizeof json, path, "tokenizer.json") || !deq_io_join(vocab, sizeof vocab, path, "vocab.json") ||
        !deq_io_join(merges, sizeof merges, path, "merges.txt"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", path);
    if (deq_io_exists(json))
        return load_json(json, ret_tok, err);
    if (deq_io_exists(vocab) && deq_io_exists(merges))
        return load_gpt2(vocab, merges, ret_tok, err);
    return deq_fail(err, DEQ_ENOTFOUND, "%s: neither tokenizer.json nor vocab.json with merges.txt is there", path);
}
