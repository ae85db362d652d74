/* tokenizer.json -> struct deq_tokenizer. The file is not trusted: every value is checked where it is read, and an
 * error names the key and what was expected. Nothing here is quadratic in the size of the file.
 * Tokens are read by tokenizer_tokens.c, what stands around a BPE model by tokenizer_around.c, models by
 * tokenizer_bpe.c and tokenizer_wordlevel.c. */
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_impl.h"

enum {
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

int deq_load_shown_z(const char *s)
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

enum deq_rc deq_load_bool(struct loader *l, const json_t *o, const char *where, const char *key, bool otherwise,
                          bool *ret)
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
        return BAD(l, "%s: \"%.*s\": expected an integer id, found %s", where, deq_load_shown_z(what), what,
                   deq_load_type(v));
    json_int_t id = json_integer_value(v);
    if (id < 0 || id >= DEQ_TOKENIZER_MAX_IDS)
        return BAD(l, "%s: \"%.*s\": id %lld is outside 0..%d", where, deq_load_shown_z(what), what, (long long)id,
                   DEQ_TOKENIZER_MAX_IDS - 1);
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

static enum deq_rc read_model(struct loader *l, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model))
        return BAD(l, "model: expected an object, found %s", deq_load_type(model));
    /* files of before 2020 have no type; they were all BPE */
    const char *name = deq_load_absent(type) && json_object_get(model, "merges") ? "BPE" : json_string_value(type);
    if (!name)
        return BAD(l, "model.type: expected a string, found %s", deq_load_type(type));
    if (!strcmp(name, "BPE")) {
        l->tok->model = MODEL_BPE;
        const enum deq_rc rc = deq_load_normalizer(l, json_object_get(root, "normalizer"));
        return rc ? rc : deq_load_bpe(l, model);
    }
    if (!strcmp(name, "WordLevel")) {
        l->tok->model = MODEL_WORDLEVEL;
        return deq_load_wordlevel(l, model);
    }
    return BAD(l, "model.type: \"%.*s\" is not supported, expected \"BPE\" or \"WordLevel\"", deq_load_shown_z(name),
               name);
}

static enum deq_rc read_root(struct loader *l, const json_t *root)
{
    enum deq_rc rc;
    if (!json_is_object(root))
        return BAD(l, "expected an object, found %s", deq_load_type(root));
    if ((rc = deq_load_added(l, json_object_get(root, "added_tokens"))) || (rc = read_model(l, root)))
        return rc;
    rc = l->tok->model == MODEL_WORDLEVEL ? deq_load_wordlevel_around(l, root) : deq_load_bpe_around(l, root);
    return rc ? rc : deq_load_post_processor(l, json_object_get(root, "post_processor"));
}

static enum deq_rc parse_json(struct loader *l, const char *json, size_t len, json_t **ret)
{
    json_error_t je;
    const enum deq_rc rc = deq_json_parse(json, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, ret, &je);
    if (rc == DEQ_ENOMEM)
        return deq_load_no_memory(l);
    return rc ? BAD(l, "line %d, column %d: %s", je.line, je.column, je.text) : DEQ_OK;
}

enum deq_rc deq_tokenizer_parse(const char *json, size_t len, const char *name, struct deq_tokenizer **ret_tok,
                                struct deq_err *err)
{
    struct loader l = {DEQ_NEW(struct deq_tokenizer), name, err};
    json_t *root = NULL;
    enum deq_rc rc;
    if (!l.tok)
        return deq_load_no_memory(&l);
    if (len > DEQ_TOKENIZER_MAX_FILE_BYTES)
        rc = BAD(&l, "%zu bytes, the limit is %d", len, DEQ_TOKENIZER_MAX_FILE_BYTES);
    else if (!(rc = parse_json(&l, json, len, &root)))
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
    enum deq_rc rc = deq_text_read(path, DEQ_TOKENIZER_MAX_FILE_BYTES, &data, &len, err);
    if (rc)
        return rc;
    rc = deq_tokenizer_parse(data, len, path, ret_tok, err);
    deq_free(data);
    return rc;
}

/* GPT-2's own pair of files. They name no special token; the one every such vocabulary has
 * is recognised by its text. */
static enum deq_rc load_gpt2(const char *vocab_path, const char *merges_path, struct deq_tokenizer **ret_tok,
                             struct deq_err *err)
{
    static const char end_of_text[] = "<|endoftext|>";
    struct loader l = {DEQ_NEW(struct deq_tokenizer), vocab_path, err};
    char *vocab_text = NULL, *merges_text = NULL;
    size_t vocab_len, merges_len;
    json_t *vocab = NULL, *eot;
    enum deq_rc rc;
    if (!l.tok)
        return deq_load_no_memory(&l);
    if ((rc = deq_text_read(vocab_path, DEQ_TOKENIZER_MAX_FILE_BYTES, &vocab_text, &vocab_len, err)) ||
        (rc = deq_text_read(merges_path, DEQ_TOKENIZER_MAX_FILE_BYTES, &merges_text, &merges_len, err)))
        goto out;
    if ((rc = parse_json(&l, vocab_text, vocab_len, &vocab)))
        goto out;
    if (!json_is_object(vocab)) {
        rc = BAD(&l, "expected an object of token: id, found %s", deq_load_type(vocab));
        goto out;
    }
    l.tok->pretok[0] = DEQ_PRETOK_GPT2;
    l.tok->n_pretok = 1;
    if ((eot = json_object_get(vocab, end_of_text))) {
        if (!(l.tok->added = DEQ_NEW(struct deq_added))) {
            rc = deq_load_no_memory(&l);
            goto out;
        }
        l.tok->added[0] = (struct deq_added){.content = end_of_text, .len = sizeof end_of_text - 1, .special = true};
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
    if (!deq_io_join(json, sizeof json, path, "tokenizer.json") ||
        !deq_io_join(vocab, sizeof vocab, path, "vocab.json") ||
        !deq_io_join(merges, sizeof merges, path, "merges.txt"))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", path);
    if (deq_io_exists(json))
        return load_json(json, ret_tok, err);
    if (deq_io_exists(vocab) && deq_io_exists(merges))
        return load_gpt2(vocab, merges, ret_tok, err);
    return deq_fail(err, DEQ_ENOTFOUND, "%s: neither tokenizer.json nor vocab.json with merges.txt is there", path);
}
