#include "core/text/tokenizer_config.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/mem.h"

#define NAME "tokenizer_config.json"

enum { MAX_BYTES = 16 << 20 };

/* The path of the file in the directory of the tokenizer.json at `path`; false when that has another
 * name, or there is no room. */
static bool beside(const char *path, char *ret, size_t size)
{
    static const char name[] = "tokenizer.json";
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    if (strcmp(base, name) || (size_t)(base - path) + sizeof NAME > size)
        return false;
    memcpy(ret, path, (size_t)(base - path));
    memcpy(ret + (base - path), NAME, sizeof NAME);
    return true;
}

static bool set_token(json_t *root, const char *key, const struct deq_tokenizer *tok, int64_t id)
{
    size_t n;
    const char *s = id >= 0 && id <= UINT32_MAX ? deq_tokenizer_bytes(tok, (uint32_t)id, &n) : NULL;
    return !s || !json_object_set_new(root, key, json_stringn(s, n));
}

enum deq_rc deq_tokenizer_config_save(const char *path, int64_t bos_id, int64_t eos_id, int64_t unk_id,
                                      struct deq_err *err)
{
    char to[4096];
    struct deq_tokenizer *tok = NULL;
    if (!beside(path, to, sizeof to))
        return DEQ_OK;
    enum deq_rc rc = deq_tokenizer_load(path, &tok, err);
    if (rc)
        return rc;
    /* positions are relative, so that no text is too long: transformers' number for that */
    json_t *root = json_pack("{s:s, s:b, s:f}", "tokenizer_class", "PreTrainedTokenizerFast",
                             "clean_up_tokenization_spaces", 0, "model_max_length", 1e30);
    const bool ok = root && set_token(root, "bos_token", tok, bos_id) &&
                    (bos_id < 0 || !json_object_set_new(root, "add_bos_token", json_true())) &&
                    set_token(root, "eos_token", tok, eos_id) && set_token(root, "unk_token", tok, unk_id);
    char *text = deq_json_text(ok ? root : NULL, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (!text)
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", to);
    else
        rc = deq_io_replace(to, (const struct deq_part[]){{text, strlen(text)}, {"\n", 1}}, 2, err);
    free(text); /* jansson's */
    json_decref(root);
    deq_tokenizer_free(tok);
    return rc;
}

enum deq_rc deq_tokenizer_config_read(const char *dir, json_t **ret, struct deq_err *err)
{
    char path[4096], *data;
    size_t len;
    json_error_t where;
    json_t *root = NULL;
    if (!deq_io_join(path, sizeof path, dir, NAME))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    *ret = NULL;
    if (!deq_io_exists(path))
        return DEQ_OK;
    enum deq_rc rc = deq_io_read(path, MAX_BYTES, &data, &len, err);
    if (rc)
        return rc;
    rc = deq_json_parse(data, len, 0, &root, &where);
    deq_free(data);
    if (rc == DEQ_ENOMEM)
        return deq_fail(err, rc, "%s: no memory to read it", path);
    if (rc)
        return deq_fail(err, rc, "%s: line %d, column %d: %s", path, where.line, where.column, where.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return deq_fail(err, DEQ_EFORMAT, "%s: expected an object", path);
    }
    *ret = root;
    return DEQ_OK;
}

const char *deq_tokenizer_config_token(const json_t *root, const char *key)
{
    const json_t *v = json_object_get(root, key);
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

/* The id of the token that `key` names; *ret_id stays where it is absent. */
static enum deq_rc find_token(const char *dir, const json_t *root, const char *key, const struct deq_tokenizer *tok,
                              int64_t *ret_id, struct deq_err *err)
{
    const json_t *v = json_object_get(root, key);
    const char *content = deq_tokenizer_config_token(root, key);
    if (!v || json_is_null(v))
        return DEQ_OK;
    if (!content)
        return deq_fail(err, DEQ_EFORMAT, "%s/" NAME ": %s: expected a string", dir, key);
    if ((*ret_id = deq_tokenizer_id(tok, content)) < 0)
        return deq_fail(err, DEQ_EFORMAT, "%s/" NAME ": %s: \"%.64s\" is not among the added tokens of tokenizer.json",
                        dir, key, content);
    return DEQ_OK;
}

/* What begins a text: the configuration's word counts, then the tokenizer's; a tokenizer that stands alone, as
 * Parcae's, tells no roles, and its authors' training put the token of this name there. */
static enum deq_rc find_bos(const char *dir, const json_t *root, const struct deq_tokenizer *tok, int64_t *ret_id,
                            struct deq_err *err)
{
    const json_t *add = json_object_get(root, "add_bos_token");
    *ret_id = json_is_boolean(add) ? -1 : deq_tokenizer_begin(tok);
    if (json_is_true(add))
        return find_token(dir, root, "bos_token", tok, ret_id, err);
    if (!root && *ret_id < 0)
        *ret_id = deq_tokenizer_id(tok, "<|bos|>");
    return DEQ_OK;
}

enum deq_rc deq_tokenizer_config_ends(const char *dir, const struct deq_tokenizer *tok, int64_t *ret_bos,
                                      int64_t *ret_eos, struct deq_err *err)
{
    static const char *const usual[] = {"<|endoftext|>", "<eos>", "<|eos|>"};
    int64_t bos = -1, eos = -1;
    json_t *root;
    enum deq_rc rc = deq_tokenizer_config_read(dir, &root, err);
    if (rc)
        return rc;
    rc = find_token(dir, root, "eos_token", tok, &eos, err);
    if (!rc)
        rc = find_bos(dir, root, tok, &bos, err);
    json_decref(root);
    for (size_t i = 0; i < DEQ_COUNT(usual) && eos < 0; i++)
        eos = deq_tokenizer_id(tok, usual[i]);
    if (!rc) {
        *ret_bos = bos;
        *ret_eos = eos;
    }
    return rc;
}
