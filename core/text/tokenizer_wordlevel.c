/* Word level: a tokenizer.json whose model.type is "WordLevel". Text is cut at white space,
 * each word is looked up whole.
 *
 * Around the model such a file may have
 *   pre_tokenizer  {"type": "WhitespaceSplit"}: cuts at Unicode's White_Space. Python's str.split(), with which
 *                  word-level corpora are usually cut, also cuts at U+001C..U+001F; the library and this code do not.
 *   normalizer     null, or a Replace of line ends by one word with blanks around it (" <eos> "), so that every
 *                  line end is a token: of {"String": "\n"}, or of {"Regex": "\r\n?|\n"}, which is what Python
 *                  calls a line end in a text file.
 *   decoder        null: words are joined by blanks. Or a Sequence that joins some of them otherwise, in exactly
 *                  this form:
 *                    Replace {"Regex": "^"} -> " "               a blank before every word
 *                    Replace {"Regex": "^ WORD$"} -> TEXT         any number, each for one word
 *                    Fuse
 *                    Replace {"Regex": "\t+ ?"} -> ""             a tab eats the blank after it
 *                    Strip " " 1 0
 *                  where TEXT is "\tT", " T\t" or "\tT\t": T without a blank before it, after it, or both. T is a word
 *                  or "\n". No word holds a tab, so that the text of a token is a function of it and of the token
 *                  before it: decoding can stream. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_impl.h"

#define NEWLINES_OF_PYTHON "\\r\\n?|\\n"

void deq_wordlevel_free(struct wordlevel *w)
{
    deq_wordset_free(&w->set);
    deq_free(w->joint);
    deq_free(w->joint_text);
}

static struct deq_words words_of(const struct deq_tokenizer *tok)
{
    return (struct deq_words){tok->blob, tok->span};
}

/* ---- the file ---- */

enum deq_rc deq_load_wordlevel(struct loader *l, const json_t *model)
{
    struct deq_tokenizer *tok = l->tok;
    json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_token"), *v;
    const char *key;
    enum deq_rc rc;
    tok->words.unk = tok->words.newline = -1;
    if (!json_is_object(vocab))
        return BAD(l, "model.vocab: expected an object of word: id, found %s", deq_load_type(vocab));
    if (!json_is_string(unk))
        return BAD(l, "model.unk_token: expected a string, found %s", deq_load_type(unk));
    if ((rc = deq_load_tokens(l, vocab, false)))
        return rc;
    if ((rc = deq_wordset_init(&tok->words.set, json_object_size(vocab), l->err)))
        return deq_fail_prefix(l->err, rc, l->name);
    json_object_foreach(vocab, key, v) {
        if (!deq_wordset_add(&tok->words.set, words_of(tok), (uint32_t)json_integer_value(v)))
            return deq_load_no_memory(l);
    }
    tok->words.unk = deq_wordset_find(&tok->words.set, words_of(tok), json_string_value(unk), json_string_length(unk));
    return DEQ_OK;
}

static enum deq_rc read_normalizer(struct loader *l, const json_t *o)
{
    struct deq_tokenizer *tok = l->tok;
    const char *type, *content;
    if (deq_load_absent(o))
        return DEQ_OK;
    if (!(type = deq_load_component(l, o, "normalizer")))
        return DEQ_EFORMAT;
    if (strcmp(type, "Replace"))
        return BAD(l, "normalizer.type: \"%.*s\" is not supported, expected null or a \"Replace\" of line ends",
                   deq_load_shown(type, strlen(type)), type);
    const json_t *pattern = json_object_get(o, "pattern");
    const char *string = json_string_value(json_object_get(pattern, "String")),
               *regex = json_string_value(json_object_get(pattern, "Regex"));
    if (json_object_size(pattern) != 1 ||
        !((string && !strcmp(string, "\n")) || (regex && !strcmp(regex, NEWLINES_OF_PYTHON))))
        return BAD(l, "normalizer.pattern: expected {\"String\": \"\\n\"} or {\"Regex\": \"\\\\r\\\\n?|\\\\n\"}");
    tok->words.cr = regex != NULL;
    content = json_string_value(json_object_get(o, "content"));
    const size_t n = content ? strlen(content) : 0;
    if (n < 3 || content[0] != ' ' || content[n - 1] != ' ' || !deq_is_word(content + 1, n - 2))
        return BAD(l, "normalizer.content: expected one word between two blanks");
    if ((tok->words.newline = deq_wordset_find(&tok->words.set, words_of(tok), content + 1, n - 2)) < 0)
        return BAD(l, "normalizer.content: the word \"%.*s\" is not in the vocabulary",
                   deq_load_shown(content + 1, n - 2), content + 1);
    /* such a token would be looked for in what the normaliser made */
    for (size_t i = 0; i < tok->n_added; i++)
        if (tok->added[i].normalized)
            return BAD(l, "added_tokens: \"%s\".normalized: true is not supported together with a normalizer",
                       tok->added[i].content);
    return DEQ_OK;
}

/* --- the decoder --- */

/* *ret: whether it still is, and v is what text says. */
static enum deq_rc compare(struct loader *l, const json_t *v, const char *text, bool *ret)
{
    json_t *want;
    json_error_t where;
    if (deq_json_parse(text, strlen(text), 0, &want, &where))
        return deq_load_no_memory(l);
    *ret = *ret && json_equal(v, want);
    json_decref(want);
    return DEQ_OK;
}

/* "^ WORD$": writes WORD without its backslashes to out (as long as regex) and returns its length; 0
 * when it is something else. */
static size_t literal_of(const char *regex, char *out)
{
    size_t n = 0;
    const char *p = regex;
    if (*p++ != '^' || *p++ != ' ')
        return 0;
    for (; *p && !(p[0] == '$' && !p[1]); p++) {
        if (*p == '\\') {
            if (!*++p || !strchr("\\^$.|?*+()[]{}-/,:;!'\"%&=@<>#~_`", *p))
                return 0;
        } else if (strchr("^$.|?*+()[]{}", *p)) {
            return 0;
        }
        out[n++] = *p;
    }
    return *p == '$' && deq_is_word(out, n) ? n : 0;
}

static int joint_by_id(const void *pa, const void *pb)
{
    const struct joint *a = pa, *b = pb;
    return a->id < b->id ? -1 : a->id > b->id;
}

static enum deq_rc read_rule(struct loader *l, const json_t *rule, size_t index, char *scratch, size_t *text_len)
{
    struct deq_tokenizer *tok = l->tok;
    struct wordlevel *w = &tok->words;
    const char *regex = json_string_value(json_object_get(json_object_get(rule, "pattern"), "Regex"));
    const char *content = json_string_value(json_object_get(rule, "content")),
               *type = json_string_value(json_object_get(rule, "type"));
    const size_t n_word = type && !strcmp(type, "Replace") && regex ? literal_of(regex, scratch) : 0;
    if (!n_word)
        return BAD(l, "decoder.decoders[%zu]: expected a Replace of {\"Regex\": \"^ WORD$\"}", index);
    size_t n = content ? strlen(content) : 0;
    struct joint j = {.before = n && content[0] == '\t'};
    if (n > 1 && (j.before || content[0] == ' ')) {
        j.after = content[n - 1] == '\t';
        content++;
        n -= 1u + j.after;
    } else {
        n = 0;
    }
    if (!n || !(j.before || j.after) || !(deq_is_word(content, n) || (n == 1 && *content == '\n')))
        return BAD(l,
                   "decoder.decoders[%zu].content: expected \"\\tT\", \" T\\t\" or \"\\tT\\t\", T a word or a line end",
                   index);
    int64_t id = deq_wordset_find(&w->set, words_of(tok), scratch, n_word);
    const struct deq_added *added = id < 0 ? deq_added_by_content(tok, scratch, n_word) : NULL;
    if (added)
        id = added->id;
    if (id < 0)
        return DEQ_OK; /* no token is that word */
    j.id = (uint32_t)id;
    w->joint_text[*text_len] = ' ';
    memcpy(w->joint_text + *text_len + 1, content, n);
    j.text = (struct deq_span){(uint32_t)*text_len + 2, (uint32_t)n};
    *text_len += n + 1;
    w->joint[w->n_joints++] = j;
    return DEQ_OK;
}

static enum deq_rc twice(struct loader *l, uint32_t id)
{
    size_t n;
    const char *word = deq_tokenizer_bytes(l->tok, id, &n);
    return BAD(l, "decoder.decoders: the word \"%.*s\" stands there twice", deq_load_shown(word, n), word);
}

static enum deq_rc read_decoder(struct loader *l, const json_t *o)
{
    struct wordlevel *w = &l->tok->words;
    const char *type;
    if (deq_load_absent(o))
        return DEQ_OK;
    if (!(type = deq_load_component(l, o, "decoder")))
        return DEQ_EFORMAT;
    if (strcmp(type, "Sequence"))
        return BAD(l, "decoder.type: \"%.*s\" is not supported, expected null or \"Sequence\"",
                   deq_load_shown(type, strlen(type)), type);
    const json_t *list = json_object_get(o, "decoders");
    const size_t n = json_array_size(list);
    static const struct {
        size_t before_end; /* 0: the first */
        const char *text;
    } around[] = {{0, "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \" \"}"},
                  {3, "{\"type\": \"Fuse\"}"},
                  {2, "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\t+ ?\"}, \"content\": \"\"}"},
                  {1, "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}"}};
    bool same = n >= 4;
    for (size_t i = 0; i < DEQ_COUNT(around) && same; i++) {
        const size_t at = around[i].before_end ? n - around[i].before_end : 0;
        const enum deq_rc rc = compare(l, json_array_get(list, at), around[i].text, &same);
        if (rc)
            return rc;
    }
    if (!same)
        return BAD(l, "decoder.decoders: expected Replace \"^\" by \" \", words, Fuse, Replace \"\\t+ ?\" by \"\", "
                      "Strip \" \" 1 0");
    size_t bytes = 1, longest = 0, used = 0;
    for (size_t i = 1; i < n - 3; i++) {
        const json_t *rule = json_array_get(list, i);
        bytes += json_string_length(json_object_get(rule, "content")) + 1;
        longest = DEQ_MAX(longest, json_string_length(json_object_get(json_object_get(rule, "pattern"), "Regex")));
    }
    char *scratch = deq_alloc(longest + 1);
    w->joint = DEQ_NEW_ARRAY(struct joint, n);
    w->joint_text = deq_alloc(bytes);
    enum deq_rc rc = scratch && w->joint && w->joint_text ? DEQ_OK : deq_load_no_memory(l);
    for (size_t i = 1; i < n - 3 && !rc; i++)
        rc = read_rule(l, json_array_get(list, i), i, scratch, &used);
    deq_free(scratch);
    if (rc)
        return rc;
    if (w->n_joints)
        qsort(w->joint, w->n_joints, sizeof *w->joint, joint_by_id);
    for (size_t i = 1; i < w->n_joints; i++)
        if (w->joint[i].id == w->joint[i - 1].id)
            return twice(l, w->joint[i].id);
    return DEQ_OK;
}

enum deq_rc deq_load_wordlevel_around(struct loader *l, const json_t *root)
{
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    const char *type = deq_load_component(l, pre, "pre_tokenizer");
    enum deq_rc rc;
    if (!type)
        return DEQ_EFORMAT;
    if (strcmp(type, "WhitespaceSplit"))
        return BAD(l, "pre_tokenizer.type: \"%.*s\" is not supported with WordLevel, expected \"WhitespaceSplit\"",
                   deq_load_shown(type, strlen(type)), type);
    if ((rc = read_normalizer(l, json_object_get(root, "normalizer"))))
        return rc;
    return read_decoder(l, json_object_get(root, "decoder"));
}

/* ---- text ---- */

/* Length of the white space character at the beginning of s, or 0. */
static size_t space_at(const char *s, size_t n)
{
    const uint8_t c = (uint8_t)s[0];
    uint32_t cp;
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13);
    const int k = deq_utf8_decode(s, n, &cp);
    return k > 0 && deq_cp_is_space(cp) ? (size_t)k : 0;
}

bool deq_is_word(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (space_at(s + i, n - i))
            return false;
    return n > 0;
}

enum deq_rc deq_wordlevel_encode(const struct deq_tokenizer *tok, const char *s, size_t n, struct deq_tokens *out,
                                 struct deq_err *err)
{
    const struct wordlevel *w = &tok->words;
    for (size_t at = 0, k; at < n; at += k) {
        int64_t id;
        if ((k = space_at(s + at, n - at))) {
            const bool cr = w->cr && s[at] == '\r';
            if (w->newline < 0 || !(cr || s[at] == '\n'))
                continue;
            k += cr && at + 1 < n && s[at + 1] == '\n';
            id = w->newline;
        } else {
            while (at + k < n && !space_at(s + at + k, n - at - k))
                k++;
            if ((id = deq_wordset_find(&w->set, words_of(tok), s + at, k)) < 0 && (id = w->unk) < 0)
                return deq_fail(err, DEQ_EINVAL, "the word \"%.*s\" is not in the vocabulary, nor is an unk_token",
                                deq_load_shown(s + at, k), s + at);
        }
        if (!deq_tokens_push(out, (uint32_t)id))
            return deq_fail(err, DEQ_ENOMEM, "no memory for the tokens of a text");
    }
    return DEQ_OK;
}

static const struct joint *joint_of(const struct wordlevel *w, int64_t id)
{
    const struct joint key = {.id = (uint32_t)id};
    return w->n_joints && id >= 0 && id <= UINT32_MAX ? bsearch(&key, w->joint, w->n_joints, sizeof key, joint_by_id)
                                                      : NULL;
}

const char *deq_wordlevel_text(const struct deq_tokenizer *tok, int64_t prev, uint32_t id, bool *ret_joint,
                               size_t *ret_len)
{
    const struct joint *j = joint_of(&tok->words, id), *p = joint_of(&tok->words, prev);
    const struct deq_span *span = j ? &j->text : &tok->span[id];
    const bool blank = prev >= 0 && !(j && j->before) && !(p && p->after);
    *ret_joint = j != NULL;
    *ret_len = span->len + blank;
    return (j ? tok->words.joint_text : tok->blob) + span->at - 1 - blank;
}
