#include "core/text/wordlevel.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/base/utf8.h"
#include "core/text/pretok.h"
#include "core/text/tokenizer.h"

#define EOS "<eos>"

enum { MAX_VOCAB_BYTES = 256 << 20, SHOWN = 64 };

/* Words that the decoder does not simply set apart by blanks; a tab stands where there is
 * none (tokenizer_wordlevel.c). */
static const struct {
    const char *word, *text;
} joints[] = {
    {EOS, "\t\n\t"},
    {"@-@", "\t-\t"}, {"@,@", "\t,\t"}, {"@.@", "\t.\t"},
    {",", "\t,"}, {".", "\t."}, {";", "\t;"}, {":", "\t:"}, {"!", "\t!"}, {"?", "\t?"}, {"%", "\t%"},
    {")", "\t)"}, {"]", "\t]"}, {"}", "\t}"}, {"\xe2\x80\x9d", "\t\xe2\x80\x9d"},
    {"(", " (\t"}, {"[", " [\t"}, {"{", " {\t"}, {"\xe2\x80\x9c", " \xe2\x80\x9c\t"},
    {"$", " $\t"}, {"\xc2\xa3", " \xc2\xa3\t"}, {"\xe2\x82\xac", " \xe2\x82\xac\t"},
    {"'s", "\t's"}, {"'t", "\t't"}, {"n't", "\tn't"}, {"'re", "\t're"}, {"'ve", "\t've"}, {"'ll", "\t'll"},
    {"'m", "\t'm"}, {"'d", "\t'd"},
};

/* ---- words in order of their ids, with their numbers ---- */

struct list {
    struct deq_wordset set; /* the number of a word in `words` */
    struct deq_words words;
    const uint32_t *order;  /* [n] id -> number; NULL: they are the same */
    uint32_t n;
};

static struct deq_span word_of(const struct list *l, uint32_t id)
{
    return l->words.span[l->order ? l->order[id] : id];
}

/* The number of a word, or -1. */
static int64_t number_of(const struct list *l, const char *word)
{
    return deq_wordset_find(&l->set, l->words, word, strlen(word));
}

/* ---- tokenizer.json ---- */

static void json_string(struct deq_buf *out, const char *s, size_t n)
{
    size_t done = 0;
    deq_buf_add(out, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        deq_buf_add(out, s + done, i - done);
        if (c < 0x20)
            deq_buf_fmt(out, "\\u%04x", c);
        else
            deq_buf_fmt(out, "\\%c", c);
        done = i + 1;
    }
    deq_buf_add(out, s + done, n - done);
    deq_buf_add(out, "\"", 1);
}

static void json_rule(struct deq_buf *out, const char *word, const char *text)
{
    char regex[64] = "^ ";
    size_t n = 2;
    for (const char *p = word; *p; p++) {
        if (strchr("\\^$.|?*+()[]{}", *p)) /* each by itself stands for something else */
            regex[n++] = '\\';
        regex[n++] = *p;
    }
    regex[n++] = '$';
    deq_buf_str(out, "      {\"type\": \"Replace\", \"pattern\": {\"Regex\": ");
    json_string(out, regex, n);
    deq_buf_str(out, "}, \"content\": ");
    json_string(out, text, strlen(text));
    deq_buf_str(out, "},\n");
}

static void json_decoder(struct deq_buf *out, const struct list *l)
{
    deq_buf_str(out, "{\"type\": \"Sequence\", \"decoders\": [\n"
                     "      {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \" \"},\n");
    for (size_t i = 0; i < DEQ_COUNT(joints); i++)
        if (number_of(l, joints[i].word) >= 0)
            json_rule(out, joints[i].word, joints[i].text);
    deq_buf_str(out, "      {\"type\": \"Fuse\"},\n"
                     "      {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\t+ ?\"}, \"content\": \"\"},\n"
                     "      {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}\n    ]}");
}

/* plain: no line ends, no joints. */
static enum deq_rc write_json(const struct list *l, bool plain, const char *out_path,
                              struct deq_wordlevel_info *ret_info, struct deq_err *err)
{
    int64_t eos = plain ? -1 : number_of(l, EOS), unk = plain ? -1 : number_of(l, "<unk>"),
            capital = plain ? -1 : number_of(l, "<UNK>");
    const char *unk_token = unk < 0 && capital >= 0 ? "<UNK>" : "<unk>";
    struct deq_wordlevel_info info = {l->n, -1, -1};
    struct deq_buf b;
    deq_buf_init(&b, DEQ_TOKENIZER_MAX_FILE_BYTES);
    unk = unk < 0 ? capital : unk;
    for (uint32_t id = 0; id < l->n; id++) {
        const int64_t number = l->order ? l->order[id] : id;
        info.eos_id = number == eos ? (int64_t)id : info.eos_id;
        info.unk_id = number == unk ? (int64_t)id : info.unk_id;
    }
    deq_buf_str(&b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    if (eos >= 0)
        deq_buf_fmt(&b,
                    "{\"id\": %lld, \"content\": \"" EOS "\", \"single_word\": false, \"lstrip\": false, "
                    "\"rstrip\": false, \"normalized\": false, \"special\": true}",
                    (long long)info.eos_id);
    deq_buf_str(&b, "],\n  \"normalizer\": ");
    deq_buf_str(&b, eos < 0 ? "null"
                            : "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\r\\\\n?|\\\\n\"}, "
                              "\"content\": \" " EOS " \"}");
    deq_buf_str(&b, ",\n  \"pre_tokenizer\": {\"type\": \"WhitespaceSplit\"},\n  \"post_processor\": null,\n"
                    "  \"decoder\": ");
    if (plain)
        deq_buf_str(&b, "null");
    else
        json_decoder(&b, l);
    deq_buf_str(&b, ",\n  \"model\": {\"type\": \"WordLevel\", \"unk_token\": ");
    json_string(&b, unk_token, strlen(unk_token));
    deq_buf_str(&b, ", \"vocab\": {");
    for (uint32_t id = 0; id < l->n; id++) {
        const struct deq_span w = word_of(l, id);
        deq_buf_str(&b, id ? ",\n    " : "\n    ");
        json_string(&b, l->words.blob + w.at - 1, w.len);
        deq_buf_fmt(&b, ": %u", id);
    }
    deq_buf_str(&b, "\n  }}\n}\n");
    enum deq_rc rc = DEQ_OK;
    if (b.failed)
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory, or more than %d bytes, for a vocabulary of %u words", out_path,
                      DEQ_TOKENIZER_MAX_FILE_BYTES, l->n);
    else
        rc = deq_io_replace(out_path, &(struct deq_part){b.data, b.len}, 1, err);
    deq_buf_free(&b);
    if (!rc && ret_info)
        *ret_info = info;
    return rc;
}

/* ---- white space and line ends of Python ---- */

/* Length of a character at which str.split() cuts, or 0. */
static size_t blank_at(const char *s, size_t n)
{
    uint32_t cp;
    const int k = deq_utf8_decode(s, n, &cp);
    return k > 0 && (deq_cp_is_space(cp) || (cp >= 0x1c && cp <= 0x1f)) ? (size_t)k : 0;
}

/* The next word of s from *at, which moves past it; 0 when there is none. */
static size_t next_word(const char *s, size_t n, size_t *at, const char **ret_word)
{
    size_t begin = *at, end, k;
    while (begin < n && (k = blank_at(s + begin, n - begin)))
        begin += k;
    for (end = begin; end < n && !blank_at(s + end, n - end);)
        end++;
    *at = end;
    *ret_word = s + begin;
    return end - begin;
}

/* Length of the line at the beginning of s; *ret_next: where the next begins. A text file's line
 * ends are "\n", "\r\n", "\r". */
static size_t line_length(const char *s, size_t n, size_t *ret_next)
{
    size_t i = 0;
    while (i < n && s[i] != '\n' && s[i] != '\r')
        i++;
    *ret_next = i + (i < n) + (i + 1 < n && s[i] == '\r' && s[i + 1] == '\n');
    return i;
}

/* ---- a vocabulary file ---- */

static enum deq_rc read_vocab(const char *path, const char *data, size_t len, struct list *l, struct deq_span *span,
                              size_t *ret_again, struct deq_err *err)
{
    size_t line = 1;
    *ret_again = 0;
    for (size_t at = 0, next; at < len; at += next, line++) {
        const size_t n = line_length(data + at, len - at, &next);
        const char *word;
        size_t from = 0, n_word = next_word(data + at, n, &from, &word);
        if (!n_word)
            return deq_fail(err, DEQ_EFORMAT, "%s: line %zu: expected a symbol, found an empty line", path, line);
        if (!deq_utf8_valid(data + at, n) || memchr(word, 0, n_word))
            return deq_fail(err, DEQ_EFORMAT, "%s: line %zu: expected UTF-8 without zero bytes", path, line);
        if (deq_wordset_find(&l->set, l->words, word, n_word) >= 0) {
            ++*ret_again;
            continue;
        }
        if (l->n == DEQ_WORDLEVEL_MAX_WORDS)
            return deq_fail(err, DEQ_EFORMAT, "%s: more than %d symbols", path, DEQ_WORDLEVEL_MAX_WORDS);
        span[l->n] = (struct deq_span){(uint32_t)(word - data) + 1, (uint32_t)n_word};
        if (!deq_wordset_add(&l->set, l->words, l->n++))
            return deq_fail(err, DEQ_ENOMEM, "%s: no memory for its symbols", path);
    }
    return DEQ_OK;
}

enum deq_rc deq_wordlevel_from_vocab(const char *vocab_path, uint32_t expected, const char *out_path,
                                     struct deq_wordlevel_info *ret_info, struct deq_err *err)
{
    struct list l = {0};
    struct deq_span *span = NULL;
    char *data = NULL;
    size_t len, lines = 1, again = 0;
    enum deq_rc rc = deq_text_read(vocab_path, MAX_VOCAB_BYTES, &data, &len, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < len; i++)
        lines += data[i] == '\n' || data[i] == '\r';
    if (!(span = DEQ_NEW_ARRAY(struct deq_span, DEQ_MIN(lines, (size_t)DEQ_WORDLEVEL_MAX_WORDS)))) {
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory for its symbols", vocab_path);
        goto out;
    }
    l.words = (struct deq_words){data, span};
    if ((rc = deq_wordset_init(&l.set, DEQ_MIN(expected, (uint32_t)DEQ_WORDLEVEL_MAX_WORDS), err)) ||
        (rc = read_vocab(vocab_path, data, len, &l, span, &again, err)))
        goto out;
    if (!l.n)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: expected a symbol a line, found nothing", vocab_path);
    else if (expected && l.n != expected && again)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: %u symbols (%zu more lines repeat one of them), expected %u", vocab_path,
                      l.n, again, expected);
    else if (expected && l.n != expected)
        rc = deq_fail(err, DEQ_EFORMAT, "%s: %u symbols, expected %u", vocab_path, l.n, expected);
    else
        rc = write_json(&l, false, out_path, ret_info, err);
out:
    deq_wordset_free(&l.set);
    deq_free(span);
    deq_free(data);
    return rc;
}

/* ---- no vocabulary ---- */

enum deq_rc deq_wordlevel_placeholder(uint32_t n_words, const char *out_path, struct deq_err *err)
{
    struct deq_buf blob;
    struct deq_span *span;
    enum deq_rc rc;
    if (!n_words || n_words > DEQ_WORDLEVEL_MAX_WORDS)
        return deq_fail(err, DEQ_EINVAL, "a vocabulary of %u words: expected 1..%d", n_words, DEQ_WORDLEVEL_MAX_WORDS);
    deq_buf_init(&blob, (size_t)n_words * 16);
    span = DEQ_NEW_ARRAY(struct deq_span, n_words);
    for (uint32_t i = 0; span && i < n_words; i++) {
        const size_t at = blob.len;
        deq_buf_fmt(&blob, "<%u>", i);
        span[i] = (struct deq_span){(uint32_t)at + 1, (uint32_t)(blob.len - at)};
    }
    if (!span || blob.failed)
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for a vocabulary of %u words", n_words);
    else
        rc = write_json(&(struct list){.words = {blob.data, span}, .n = n_words}, true, out_path, NULL, err);
    deq_buf_free(&blob);
    deq_free(span);
    return rc;
}

/* ---- a vocabulary from texts ---- */

enum deq_rc deq_wordcount_init(struct deq_wordcount *c, struct deq_err *err)
{
    *c = (struct deq_wordcount){0};
    return deq_wordset_init(&c->set, 1 << 16, err);
}

void deq_wordcount_free(struct deq_wordcount *c)
{
    deq_wordset_free(&c->set);
    deq_free(c->blob);
    deq_free(c->span);
    deq_free(c->count);
}

/* Room for one more word of n bytes. */
static bool room(struct deq_wordcount *c, size_t n)
{
    if (c->len + n > c->blob_cap) {
        const size_t cap = 2 * (c->len + n);
        char *blob = deq_realloc(c->blob, c->blob_cap, cap);
        if (!blob)
            return false;
        c->blob = blob;
        c->blob_cap = cap;
    }
    if (c->set.n == c->cap) {
        const size_t cap = c->cap ? 2 * c->cap : 1024;
        struct deq_span *span = deq_realloc(c->span, c->cap * sizeof *span, cap * sizeof *span);
        if (!span)
            return false;
        c->span = span;
        uint64_t *count = deq_realloc(c->count, c->cap * sizeof *count, cap * sizeof *count);
        if (!count)
            return false;
        c->count = count;
        c->cap = cap;
    }
    return true;
}

static bool count_new(struct deq_wordcount *c, const char *word, size_t n)
{
    const uint32_t number = (uint32_t)c->set.n;
    if (!room(c, n))
        return false;
    memcpy(c->blob + c->len, word, n);
    c->span[number] = (struct deq_span){(uint32_t)c->len + 1, (uint32_t)n};
    c->count[number] = 1;
    c->len += n;
    return deq_wordset_add(&c->set, (struct deq_words){c->blob, c->span}, number);
}

enum deq_rc deq_wordcount_add(struct deq_wordcount *c, const char *name, const char *text, size_t len,
                              struct deq_err *err)
{
    const char *word;
    size_t n;
    if (!deq_utf8_valid(text, len) || memchr(text, 0, len))
        return deq_fail(err, DEQ_EFORMAT, "%s: expected UTF-8 without zero bytes", name);
    for (size_t at = 0; (n = next_word(text, len, &at, &word)); c->n_words++) {
        const int64_t number = deq_wordset_find(&c->set, (struct deq_words){c->blob, c->span}, word, n);
        if (number >= 0) {
            c->count[number]++;
            continue;
        }
        if (c->set.n == DEQ_WORDLEVEL_MAX_WORDS || c->len + n >= MAX_VOCAB_BYTES)
            return deq_fail(err, DEQ_EFORMAT, "%s: more than %d different words, or %d bytes of them: %.*s", name,
                            DEQ_WORDLEVEL_MAX_WORDS, MAX_VOCAB_BYTES,
                            (int)deq_utf8_complete(word, DEQ_MIN(n, (size_t)SHOWN)), word);
        if (!count_new(c, word, n))
            return deq_fail(err, DEQ_ENOMEM, "%s: no memory for %zu words", name, c->set.n);
    }
    return DEQ_OK;
}

struct ranked {
    uint64_t count;
    uint32_t number;
};

static int by_count(const void *pa, const void *pb)
{
    const struct ranked *a = pa, *b = pb;
    return a->count != b->count ? (a->count > b->count ? -1 : 1) : a->number < b->number ? -1 : a->number > b->number;
}

static enum deq_rc write_vocab(const struct deq_wordcount *c, const struct list *l, const char *path,
                               struct deq_err *err)
{
    struct deq_buf b;
    deq_buf_init(&b, MAX_VOCAB_BYTES + (size_t)l->n * 24);
    for (uint32_t id = 0; id < l->n; id++) {
        const struct deq_span w = word_of(l, id);
        deq_buf_add(&b, l->words.blob + w.at - 1, w.len);
        deq_buf_fmt(&b, " %llu\n", (unsigned long long)c->count[l->order[id]]);
    }
    enum deq_rc rc = b.failed ? deq_fail(err, DEQ_ENOMEM, "%s: no memory for %u words", path, l->n)
                              : deq_io_replace(path, &(struct deq_part){b.data, b.len}, 1, err);
    deq_buf_free(&b);
    return rc;
}

enum deq_rc deq_wordcount_write(struct deq_wordcount *c, const char *out_path, const char *vocab_path,
                                struct deq_wordlevel_info *ret_info, struct deq_err *err)
{
    int64_t eos = deq_wordset_find(&c->set, (struct deq_words){c->blob, c->span}, EOS, sizeof EOS - 1);
    if (eos < 0) { /* Vocab.special: it is there though the texts do not have it */
        eos = (int64_t)c->set.n;
        if (!count_new(c, EOS, sizeof EOS - 1))
            return deq_fail(err, DEQ_ENOMEM, "%s: no memory for %zu words", out_path, c->set.n);
        c->count[eos] = 0;
    }
    const size_t n = c->set.n;
    struct ranked *rank = DEQ_NEW_ARRAY(struct ranked, n);
    uint32_t *order = DEQ_NEW_ARRAY(uint32_t, n);
    enum deq_rc rc = rank && order ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "%s: no memory for %zu words", out_path, n);
    if (rc)
        goto out;
    for (uint32_t i = 0; i < n; i++)
        rank[i] = (struct ranked){(int64_t)i == eos ? UINT64_MAX : c->count[i], i};
    qsort(rank, n, sizeof *rank, by_count);
    for (size_t i = 0; i < n; i++)
        order[i] = rank[i].number;
    const struct list l = {c->set, {c->blob, c->span}, order, (uint32_t)n};
    if (vocab_path)
        rc = write_vocab(c, &l, vocab_path, err);
    if (!rc)
        rc = write_json(&l, false, out_path, ret_info, err);
out:
    deq_free(rank);
    deq_free(order);
    return rc;
}
