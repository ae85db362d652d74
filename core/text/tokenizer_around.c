/* What stands around a BPE model in a tokenizer.json: normalizer, pre-tokenizer, post-processor, decoder.
 *
 *   normalizer      null, NFC, NFD, NFKC, NFKD, or a Sequence of them
 *   pre_tokenizer   ByteLevel, or a Sequence of Split (by an expression of pretok.h) and Digits that ends
 *                   with ByteLevel
 *   post_processor  null, ByteLevel (concerns offsets only), TemplateProcessing, or a Sequence of them
 *   decoder         ByteLevel, or a Sequence of that alone */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/tokenizer_impl.h"

/* ---- normalizer ---- */

static enum deq_rc read_form(struct loader *l, const json_t *o, const char *where)
{
    struct deq_tokenizer *tok = l->tok;
    const char *type = deq_load_component(l, o, where);
    enum deq_form form;
    if (!type)
        return DEQ_EFORMAT;
    if (!deq_form_find(type, &form))
        return BAD(l,
                   "%s.type: \"%.*s\" is not supported, expected \"NFC\", \"NFD\", \"NFKC\" or \"NFKD\", alone or in a "
                   "\"Sequence\"",
                   where, deq_load_shown_z(type), type);
    if (tok->n_forms == DEQ_STAGES_MAX)
        return BAD(l, "normalizer: more than %d of them", DEQ_STAGES_MAX);
    tok->form[tok->n_forms++] = form;
    return DEQ_OK;
}

/* The list of a Sequence, or NULL (and an error). */
static const json_t *sequence(struct loader *l, const json_t *o, const char *where, const char *key)
{
    const json_t *list = json_object_get(o, key);
    if (json_is_array(list))
        return list;
    BAD(l, "%s.%s: expected an array, found %s", where, key, deq_load_type(list));
    return NULL;
}

static bool is(const char *type, const char *name)
{
    return !strcmp(type, name);
}

enum deq_rc deq_load_normalizer(struct loader *l, const json_t *o)
{
    if (deq_load_absent(o))
        return DEQ_OK;
    const char *type = deq_load_component(l, o, "normalizer");
    if (!type)
        return DEQ_EFORMAT;
    if (!is(type, "Sequence"))
        return read_form(l, o, "normalizer");
    const json_t *list = sequence(l, o, "normalizer", "normalizers");
    enum deq_rc rc = list ? DEQ_OK : DEQ_EFORMAT;
    for (size_t i = 0; i < json_array_size(list) && !rc; i++)
        rc = read_form(l, json_array_get(list, i), "normalizer.normalizers[]");
    return rc;
}

/* ---- pre_tokenizer ---- */

/* The pieces of this stage are cut by the next. */
static enum deq_rc add_stage(struct loader *l, enum deq_pretok kind)
{
    struct deq_tokenizer *tok = l->tok;
    if (tok->n_pretok == DEQ_STAGES_MAX)
        return BAD(l, "pre_tokenizer.pretokenizers: more than %d that cut", DEQ_STAGES_MAX);
    tok->pretok[tok->n_pretok++] = kind;
    return DEQ_OK;
}

static enum deq_rc read_byte_level(struct loader *l, const json_t *o, const char *where)
{
    struct deq_tokenizer *tok = l->tok;
    bool trim = false, regex = false;
    enum deq_rc rc;
    if ((rc = deq_load_bool(l, o, where, "add_prefix_space", true, &tok->prefix_space)) ||
        (rc = deq_load_bool(l, o, where, "use_regex", true, &regex)) ||
        (rc = deq_load_bool(l, o, where, "trim_offsets", true, &trim))) /* concerns offsets only */
        return rc;
    if (tok->prefix_space && tok->n_pretok)
        return BAD(l, "%s.add_prefix_space: true is not supported after a Split or Digits", where);
    return regex ? add_stage(l, DEQ_PRETOK_GPT2) : DEQ_OK;
}

static enum deq_rc read_split(struct loader *l, const json_t *o, const char *where)
{
    const char *regex = json_string_value(json_object_get(json_object_get(o, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(o, "behavior"));
    enum deq_pretok kind;
    bool invert = false;
    enum deq_rc rc = deq_load_bool(l, o, where, "invert", false, &invert);
    if (rc)
        return rc;
    if (!regex)
        return BAD(l, "%s.pattern: expected {\"Regex\": \"...\"}", where);
    if (!deq_pretok_find(regex, &kind))
        return BAD(l, "%s.pattern.Regex: this expression is not supported: %.*s", where,
                   (int)deq_utf8_complete(regex, DEQ_MIN(strlen(regex), (size_t)300)), regex);
    /* the known expressions match every character, so that keeping all matches is the same
     * as removing all non-matches */
    if (behavior && ((is(behavior, "Isolated") && !invert) || (is(behavior, "Removed") && invert)))
        return add_stage(l, kind);
    return BAD(l, "%s.behavior: expected \"Isolated\" (or \"Removed\" with invert)", where);
}

static enum deq_rc read_digits(struct loader *l, const json_t *o, const char *where)
{
    bool each = false;
    enum deq_rc rc = deq_load_bool(l, o, where, "individual_digits", false, &each);
    return rc ? rc : add_stage(l, each ? DEQ_PRETOK_DIGIT : DEQ_PRETOK_DIGITS);
}

static enum deq_rc read_pre_tokenizer(struct loader *l, const json_t *o)
{
    static const char expected[] = "pre_tokenizer.pretokenizers: expected Split and Digits, and ByteLevel at the end";
    char where[64];
    enum deq_rc rc = DEQ_OK;
    const char *type = deq_load_component(l, o, "pre_tokenizer");
    if (!type)
        return DEQ_EFORMAT;
    if (is(type, "ByteLevel"))
        return read_byte_level(l, o, "pre_tokenizer");
    if (!is(type, "Sequence"))
        return BAD(l, "pre_tokenizer.type: \"%.*s\" is not supported, expected \"ByteLevel\" or \"Sequence\"",
                   deq_load_shown_z(type), type);
    const json_t *list = sequence(l, o, "pre_tokenizer", "pretokenizers");
    const size_t n = json_array_size(list);
    if (!list)
        return DEQ_EFORMAT;
    if (!n)
        return BAD(l, "%s, found nothing", expected);
    for (size_t i = 0; i < n && !rc; i++) {
        snprintf(where, sizeof where, "pre_tokenizer.pretokenizers[%zu]", i);
        const json_t *item = json_array_get(list, i);
        if (!(type = deq_load_component(l, item, where)))
            return DEQ_EFORMAT;
        if (is(type, "ByteLevel") != (i + 1 == n))
            return BAD(l, "%s, found \"%.*s\" as number %zu of %zu", expected, deq_load_shown_z(type), type, i + 1, n);
        if (is(type, "ByteLevel"))
            rc = read_byte_level(l, item, where);
        else if (is(type, "Split"))
            rc = read_split(l, item, where);
        else if (is(type, "Digits"))
            rc = read_digits(l, item, where);
        else
            rc = BAD(l, "%s, found \"%.*s\"", expected, deq_load_shown_z(type), type);
    }
    return rc;
}

/* ---- post_processor ---- */

/* A token of the template, before the text or behind it. */
static enum deq_rc read_template_token(struct loader *l, const json_t *special, const char *name, bool before)
{
    struct deq_tokenizer *tok = l->tok;
    const json_t *ids = json_object_get(json_object_get(special, name), "ids");
    if (!json_is_array(ids) || !json_array_size(ids))
        return BAD(l, "post_processor.special_tokens: \"%.*s\": expected ids: [...]", deq_load_shown_z(name), name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        uint32_t id;
        enum deq_rc rc = deq_load_id(l, json_array_get(ids, i), "post_processor.special_tokens", name, &id);
        if (rc)
            return rc;
        if (id >= tok->vocab_size || !tok->span[id].at)
            return BAD(l, "post_processor.special_tokens: \"%.*s\": id %u is not in the vocabulary",
                       deq_load_shown_z(name), name, id);
        if (before && tok->begins)
            return BAD(l, "post_processor.single: more than one token before a text is not supported");
        if (before)
            tok->begin = id;
        tok->begins = tok->begins || before;
    }
    return DEQ_OK;
}

static enum deq_rc read_template(struct loader *l, const json_t *o)
{
    const json_t *single = json_object_get(o, "single"), *special = json_object_get(o, "special_tokens");
    bool seen = false;
    if (!json_is_array(single))
        return BAD(l, "post_processor.single: expected an array, found %s", deq_load_type(single));
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const char *seq = json_string_value(json_object_get(json_object_get(piece, "Sequence"), "id"));
        const char *id = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (seq && !strcmp(seq, "A") && !seen) {
            seen = true;
        } else if (id && !seq) {
            const enum deq_rc rc = read_template_token(l, special, id, !seen);
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
        return BAD(l,
                   "post_processor.type: \"%.*s\" is not supported, expected null, \"ByteLevel\" or "
                   "\"TemplateProcessing\"",
                   deq_load_shown_z(type), type);
    const json_t *list = json_object_get(o, "processors");
    if (!json_is_array(list))
        return BAD(l, "post_processor.processors: expected an array, found %s", deq_load_type(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        enum deq_rc rc = deq_load_absent(item)
                             ? BAD(l, "post_processor.processors[%zu]: expected an object, found null", i)
                             : read_post_processor(l, item, true);
        if (rc)
            return rc;
    }
    return DEQ_OK;
}

enum deq_rc deq_load_post_processor(struct loader *l, const json_t *o)
{
    return read_post_processor(l, o, false);
}

/* ---- decoder, and all ---- */

static enum deq_rc read_decoder(struct loader *l, const json_t *o)
{
    const char *type = deq_load_component(l, o, "decoder");
    if (type && is(type, "Sequence")) {
        const json_t *list = sequence(l, o, "decoder", "decoders");
        if (!list)
            return DEQ_EFORMAT;
        if (json_array_size(list) != 1)
            return BAD(l, "decoder.decoders: expected \"ByteLevel\" alone, found %zu of them", json_array_size(list));
        type = deq_load_component(l, json_array_get(list, 0), "decoder.decoders[0]");
    }
    if (!type)
        return DEQ_EFORMAT;
    return is(type, "ByteLevel") ? DEQ_OK
                                 : BAD(l, "decoder.type: \"%.*s\" is not supported, expected \"ByteLevel\"",
                                       deq_load_shown_z(type), type);
}

enum deq_rc deq_load_bpe_around(struct loader *l, const json_t *root)
{
    const enum deq_rc rc = read_pre_tokenizer(l, json_object_get(root, "pre_tokenizer"));
    return rc ? rc : read_decoder(l, json_object_get(root, "decoder"));
}
