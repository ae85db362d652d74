/* Word level: the ids of the DEQ authors' code and the texts of the tokenizers library on the golden files (check_wordlevel.py wrote
 * them, and compares far more), damaged vocabularies and tokenizer.json, failing allocations, a vocabulary of WikiText-103's size. */
#include "core/text/wordlevel.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/text/corpus.h"
#include "core/text/tokenizer.h"
#include "tests/unit/test.h"

#define GOLDEN "tests/golden/tokenizer/wordlevel/"

static char dir[256];

static const char *file(const char *name)
{
    static char path[4][512];
    static unsigned turn;
    char *p = path[turn++ % 4];
    const char *base = getenv("TMPDIR");
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "%s/deq-wordlevel-XXXXXX", base && *base ? base : "/tmp");
        CHECK(mkdtemp(dir) != NULL);
    }
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static const char *written(const char *name, const char *text, size_t len)
{
    const char *path = file(name);
    CHECK(!deq_io_replace(path, &(struct deq_part){text, len}, 1, NULL));
    return path;
}

static char *content(const char *path, size_t *ret_len)
{
    char *data = NULL;
    struct deq_err err = {0};
    size_t len = 0;
    CHECK_MSG(!deq_io_read(path, 64 << 20, &data, &len, &err), "%s", err.text);
    if (ret_len)
        *ret_len = len;
    return data;
}

static struct deq_tokenizer *load(const char *path)
{
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_tokenizer_load(path, &tok, &err), "%s", err.text);
    return tok;
}

static struct deq_tokenizer *golden(void)
{
    struct deq_err err = {0};
    CHECK_MSG(!deq_wordlevel_from_vocab(GOLDEN "vocab.txt", 0, file("golden.json"), NULL, &err), "%s", err.text);
    return load(file("golden.json"));
}

static struct deq_tokens ids_of(char *text)
{
    struct deq_tokens t = {0};
    for (char *p = text, *end; p && (strtoul(p, &end, 10), end != p); p = end)
        CHECK(deq_tokens_push(&t, (uint32_t)strtoul(p, NULL, 10)));
    return t;
}

static bool same_tokens(const struct deq_tokens *a, const struct deq_tokens *b)
{
    return a->n == b->n && (!a->n || !memcmp(a->ids, b->ids, a->n * sizeof *a->ids));
}

TEST(wordlevel_counts_as_the_authors_do)
{
    struct deq_wordcount c;
    struct deq_wordlevel_info info = {0}, again = {0};
    struct deq_err err = {0};
    size_t len, n_want, n_got;
    char *text = content(GOLDEN "sample.txt", &len);
    CHECK(!deq_wordcount_init(&c, &err));
    CHECK_MSG(!deq_wordcount_add(&c, "sample.txt", text, len, &err), "%s", err.text);
    CHECK_MSG(!deq_wordcount_write(&c, file("counted.json"), file("vocab.txt"), &info, &err), "%s", err.text);
    char *want = content(GOLDEN "vocab.txt", &n_want), *got = content(file("vocab.txt"), &n_got);
    CHECK(n_want == n_got && !memcmp(want, got, n_want));
    CHECK_MSG(!deq_wordlevel_from_vocab(GOLDEN "vocab.txt", info.n_words, file("listed.json"), &again, &err), "%s", err.text);
    char *counted = content(file("counted.json"), &n_want), *listed = content(file("listed.json"), &n_got);
    CHECK(n_want == n_got && !memcmp(counted, listed, n_want));
    CHECK(info.n_words == 130 && info.eos_id == 0 && info.unk_id > 0 && !memcmp(&info, &again, sizeof info));

    struct deq_tokenizer *tok = load(file("counted.json"));
    char *golden_ids = content(GOLDEN "ids.txt", NULL);
    struct deq_tokens t = {0}, ids = ids_of(golden_ids);
    for (size_t i = 0; i < len; i++) /* where Python cuts and the library does not */
        text[i] = text[i] >= 0x1c && text[i] <= 0x1f ? ' ' : text[i];
    CHECK(tok && !deq_tokenizer_encode(tok, text, len, false, &t, &err) && same_tokens(&t, &ids));
    t.n = 0;
    CHECK(!deq_tokenizer_encode(tok, text, len, true, &t, &err) && same_tokens(&t, &ids)); /* <eos> is a word of the vocabulary, special or not */
    t.n = 0;
    uint64_t bytes; /* `deq eval` and training: the last line end is not text, and the end of the text is <eos> */
    CHECK(!deq_corpus_encode(tok, 0, text, len, &t, &bytes, &err) && same_tokens(&t, &ids));
    deq_tokens_free(&t);
    deq_tokens_free(&ids);
    deq_tokenizer_free(tok);
    deq_wordcount_free(&c);
    deq_free(golden_ids);
    deq_free(text);
    deq_free(want);
    deq_free(got);
    deq_free(counted);
    deq_free(listed);
}

TEST(wordlevel_decodes_as_the_library_does)
{
    struct deq_tokenizer *tok = golden();
    char *data = content(GOLDEN "decode.txt", NULL);
    size_t lines = 0;
    for (char *line = data, *nl; tok && line && (nl = strchr(line, '\n')); line = nl + 1, lines++) {
        struct deq_buf text, streamed;
        *nl = 0;
        char *space = strchr(line, ' ');
        struct deq_tokens ids = {0};
        if (space) {
            *space = 0;
            ids = ids_of(space + 1);
        }
        deq_buf_init(&text, 1 << 20);
        deq_buf_init(&streamed, 1 << 20);
        CHECK(!deq_tokenizer_decode(tok, ids.ids, ids.n, false, &text, NULL));
        bool same = *line == '-' ? !text.len : strlen(line) == 2 * text.len;
        for (size_t i = 0; i < text.len && same; i++) {
            char pair[3];
            snprintf(pair, sizeof pair, "%02x", (unsigned char)text.data[i]);
            same = !memcmp(line + 2 * i, pair, 2);
        }
        CHECK_MSG(same, "line %zu: %s", lines + 1, text.data ? text.data : "");
        /* token by token it is the same: the only special token, <eos>, has a text */
        for (size_t i = 0, n; i < ids.n; i++) {
            const char *s = deq_tokenizer_text(tok, i ? (int64_t)ids.ids[i - 1] : -1, ids.ids[i], &n);
            CHECK(s && deq_buf_add(&streamed, s, n));
        }
        CHECK(streamed.len == text.len && (!text.len || !memcmp(streamed.data, text.data, text.len)));
        deq_buf_free(&text);
        deq_buf_free(&streamed);
        deq_tokens_free(&ids);
    }
    CHECK(lines == 300);
    deq_free(data);
    deq_tokenizer_free(tok);
}

/* ---- small files ---- */

#define ADDED "{\"id\": 0, \"content\": \"<eos>\", \"special\": true}"
#define NEWLINE "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\r\\\\n?|\\\\n\"}, \"content\": \" <eos> \"}"
#define RULE(word, text) "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^ " word "$\"}, \"content\": \"" text "\"}"
#define BLANK "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \" \"}"
#define FUSE "{\"type\": \"Fuse\"}"
#define GLUE "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\t+ ?\"}, \"content\": \"\"}"
#define STRIP "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}"
#define COMMA RULE(",", "\\t,")
#define JOINTS "{\"type\": \"Sequence\", \"decoders\": [" BLANK ", " RULE("<eos>", "\\t\\n\\t") ", " COMMA ", " RULE("\\\\(", " (\\t") ", " RULE("@-@", "\\t-\\t") ", " FUSE ", " GLUE ", " STRIP "]}"
#define VOCAB "\"<eos>\": 0, \"the\": 1, \",\": 2, \"(\": 3, \"@-@\": 4, \"<unk>\": 5, \"caf\xc3\xa9\": 6"
#define SMALL                                                                                                                        \
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [" ADDED "], \"normalizer\": " NEWLINE ", " \
    "\"pre_tokenizer\": {\"type\": \"WhitespaceSplit\"}, \"post_processor\": null, \"decoder\": " JOINTS ", \"model\": {\"type\": " \
    "\"WordLevel\", \"vocab\": {" VOCAB "}, \"unk_token\": \"<unk>\"}}"

/* Copy of SMALL with one occurrence of `from` replaced; NULL when it is not there. */
static char *with(const char *from, const char *to)
{
    const char *at = strstr(SMALL, from);
    struct deq_buf b;
    if (!at)
        return NULL;
    deq_buf_init(&b, 1 << 20);
    deq_buf_add(&b, SMALL, (size_t)(at - SMALL));
    deq_buf_str(&b, to);
    deq_buf_str(&b, at + strlen(from));
    return b.data;
}

static struct deq_tokenizer *parse_with(const char *from, const char *to)
{
    char *json = with(from, to);
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK_MSG(json && !deq_tokenizer_parse(json, strlen(json), "test", &tok, &err), "%s", err.text);
    deq_free(json);
    return tok;
}

/* "0 1 2" */
static bool encodes(const struct deq_tokenizer *tok, const char *text, const char *want)
{
    char copy[256];
    struct deq_tokens t = {0};
    snprintf(copy, sizeof copy, "%s", want);
    struct deq_tokens ids = ids_of(copy);
    bool ok = tok && !deq_tokenizer_encode(tok, text, strlen(text), false, &t, NULL) && same_tokens(&t, &ids);
    for (size_t i = 0; !ok && i < t.n; i++)
        printf("%s%u", i ? " " : "", t.ids[i]);
    deq_tokens_free(&t);
    deq_tokens_free(&ids);
    return ok;
}

static bool decodes(const struct deq_tokenizer *tok, const char *ids, bool skip_special, const char *want)
{
    char copy[256];
    struct deq_buf b;
    snprintf(copy, sizeof copy, "%s", ids);
    struct deq_tokens t = ids_of(copy);
    deq_buf_init(&b, 1 << 20);
    bool ok = tok && !deq_tokenizer_decode(tok, t.ids, t.n, skip_special, &b, NULL) && b.len == strlen(want) && (!b.len || !memcmp(b.data, want, b.len));
    if (!ok)
        printf("[%s]", b.data ? b.data : "");
    deq_buf_free(&b);
    deq_tokens_free(&t);
    return ok;
}

TEST(wordlevel_small)
{
    size_t n = 0;
    struct deq_tokenizer *tok = parse_with("1.0", "1.0");
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 7 && deq_tokenizer_is_special(tok, 0) && !deq_tokenizer_is_special(tok, 5));
    CHECK(deq_tokenizer_id(tok, "<eos>") == 0 && deq_tokenizer_id(tok, "the") == -1);
    CHECK(encodes(tok, "", "") && encodes(tok, " \t ", ""));
    CHECK(encodes(tok, "the , nowhere caf\xc3\xa9", "1 2 5 6"));
    CHECK(encodes(tok, "the\xe3\x80\x80the\xc2\x85the", "1 1 1"));
    CHECK(encodes(tok, "the\n\n the\r\nthe\rthe\n", "1 0 0 1 0 1 0 1 0")); /* a last line without its end has none */
    CHECK(encodes(tok, "the <eos> the<eos>", "1 0 5"));
    CHECK(encodes(tok, "caf\xc3 \xff\xfe the\xe3\x80", "5 5 5")); /* what is not UTF-8 is of no known word, and no white space */
    CHECK(decodes(tok, "1 3 1 2 1 4 1 0 1 0 0", false, "the (the, the-the\nthe\n\n"));
    CHECK(decodes(tok, "1 0 1", true, "the the") && decodes(tok, "0 1", false, "\nthe") && decodes(tok, "2 4 4 3 0", false, ",--(\n"));
    CHECK(deq_tokenizer_bytes(tok, 6, &n) && n == 5);
    CHECK(deq_tokenizer_text(tok, 1, 6, &n) && n == 6 && *deq_tokenizer_text(tok, 1, 6, &n) == ' ');
    CHECK(deq_tokenizer_text(tok, 3, 6, &n) && n == 5);
    CHECK(deq_tokenizer_text(tok, 1 << 24, 6, &n) && n == 6); /* any prev will do */
    CHECK(!deq_tokenizer_text(tok, 1, 7, &n) && !deq_tokenizer_text(tok, -1, UINT32_MAX, &n));
    deq_tokenizer_free(tok);

    tok = parse_with(JOINTS, "null"); /* words joined by blanks: encode(decode(ids)) == ids */
    CHECK(decodes(tok, "1 3 1 2 4 0 1", false, "the ( the , @-@ <eos> the") && encodes(tok, "the ( the , @-@ <eos> the", "1 3 1 2 4 0 1"));
    CHECK(!deq_tokenizer_text(tok, 1, 0, &n)); /* special, and nobody says what it looks like */
    deq_tokenizer_free(tok);
    tok = parse_with(NEWLINE, "null");
    CHECK(encodes(tok, "the\nthe\r\n", "1 1"));
    deq_tokenizer_free(tok);
    tok = parse_with("{\"Regex\": \"\\\\r\\\\n?|\\\\n\"}", "{\"String\": \"\\n\"}");
    CHECK(encodes(tok, "the\nthe\r\nthe\rthe", "1 0 1 0 1 1"));
    deq_tokenizer_free(tok);

    struct deq_tokens t = {0};
    struct deq_err err = {0};
    tok = parse_with("\"unk_token\": \"<unk>\"", "\"unk_token\": \"[UNK]\"");
    CHECK(deq_tokens_push(&t, 42));
    CHECK(tok && deq_tokenizer_encode(tok, "the nowhere", 11, false, &t, &err) == DEQ_EINVAL && strstr(err.text, "\"nowhere\"") && t.n == 1);
    deq_tokens_free(&t);
    deq_tokenizer_free(tok);
}

TEST(wordlevel_damaged_files_are_refused_by_name)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"vocab\": {" VOCAB "}", "\"vocab\": []", "model.vocab: expected an object of word: id, found an array"},
        {"\"vocab\": {" VOCAB "}", "\"vocab\": {}", "model.vocab: expected tokens, found none"},
        {"\"the\": 1", "\"the\": 2", "which another token has too"},
        {"\"the\": 1", "\"the\": \"1\"", "expected an integer id, found a string"},
        {"\"the\": 1", "\"the\": 99999999", "is outside"},
        {"\"the\": 1", "\",\": 1", "duplicate"},
        {"\"the\": 1", "\"\": 1", "model.vocab: \"\" is empty or holds white space"},
        {"\"the\": 1", "\"the end\": 1", "model.vocab: \"the end\" is empty or holds white space"},
        {"\"the\": 1", "\"a\xe2\x80\x83\": 1", "is empty or holds white space"},
        {"\"<eos>\": 0", "\"<eos>\": 7", "\"<eos>\" has id 0 here and 7 in model.vocab"},
        {", \"unk_token\": \"<unk>\"", "", "model.unk_token: expected a string, found nothing"},
        {"\"unk_token\": \"<unk>\"", "\"unk_token\": null", "model.unk_token: expected a string, found null"},
        {"\"WhitespaceSplit\"", "\"Whitespace\"", "pre_tokenizer.type: \"Whitespace\" is not supported with WordLevel"},
        {"{\"type\": \"WhitespaceSplit\"}", "null", "pre_tokenizer: expected an object, found null"},
        {NEWLINE, "{\"type\": \"Lowercase\"}", "normalizer.type: \"Lowercase\" is not supported"},
        {NEWLINE, "{}", "normalizer.type: expected a string, found nothing"},
        {"\\\\r\\\\n?|\\\\n", "\\\\s", "normalizer.pattern: expected"},
        {"\" <eos> \"", "\"<eos>\"", "normalizer.content: expected one word between two blanks"},
        {"\" <eos> \"", "\"  \"", "normalizer.content: expected one word between two blanks"},
        {"\" <eos> \"", "\" a b \"", "normalizer.content: expected one word between two blanks"},
        {"\" <eos> \"", "\" <nl> \"", "normalizer.content: the word \"<nl>\" is not in the vocabulary"},
        {"\"special\": true", "\"normalized\": true", "\"<eos>\".normalized: true is not supported together with a normalizer"},
        {JOINTS, "7", "decoder: expected an object, found an integer"},
        {JOINTS, "{\"type\": \"WordPiece\"}", "decoder.type: \"WordPiece\" is not supported, expected null or \"Sequence\""},
        {JOINTS, "{\"type\": \"Sequence\"}", "decoder.decoders: expected"},
        {BLANK ", ", "", "decoder.decoders: expected"},
        {", " FUSE, "", "decoder.decoders: expected"},
        {", " GLUE, "", "decoder.decoders: expected"},
        {"\"start\": 1", "\"start\": 2", "decoder.decoders: expected"},
        {COMMA, "null", "decoder.decoders[2]: expected a Replace"},
        {COMMA, FUSE, "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE(".", "\\t."), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE("\\\\w", "\\tw"), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE("", "\\t,"), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE("a b", "\\t,"), "decoder.decoders[2]: expected a Replace"},
        {COMMA, RULE(",", " ,"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", ""), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", "\\t"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", "\\t\\t"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", "\\t, ,"), "decoder.decoders[2].content: expected"},
        {COMMA, RULE(",", ",\\t"), "decoder.decoders[2].content: expected"},
        {COMMA, COMMA ", " COMMA, "decoder.decoders: the word \",\" stands there twice"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\"}", "\"BertProcessing\" is not supported"},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        char *json = with(cases[i].from, cases[i].to);
        struct deq_tokenizer *tok = NULL;
        struct deq_err err = {0};
        CHECK_MSG(json != NULL, "case %zu does not apply", i);
        if (!json)
            continue;
        enum deq_rc rc = deq_tokenizer_parse(json, strlen(json), "some.json", &tok, &err);
        CHECK_MSG(rc == DEQ_EFORMAT && !tok, "case %zu: %s", i, cases[i].to);
        CHECK_MSG(!strncmp(err.text, "some.json: ", 11) && strstr(err.text, cases[i].message), "case %zu: \"%s\" lacks \"%s\"", i, err.text,
                  cases[i].message);
        deq_tokenizer_free(tok);
        deq_free(json);
    }
}

TEST(wordlevel_cut_and_changed_files_never_crash)
{
    size_t len = strlen(SMALL), accepted = 0, loaded = 0;
    char *copy = deq_alloc(len + 1);
    for (size_t n = 0; n < len; n++) {
        struct deq_tokenizer *tok = NULL;
        accepted += !deq_tokenizer_parse(SMALL, n, "cut", &tok, NULL);
        deq_tokenizer_free(tok);
    }
    CHECK(accepted == 0);
    for (uint64_t i = 0; i < 20000; i++) {
        struct deq_tokenizer *tok = NULL;
        memcpy(copy, SMALL, len + 1);
        for (uint64_t k = 0; k <= i % 3; k++)
            copy[deq_rng_below(9, i, 2 * k, len)] = "0123456789\"{}[],:ab<\xc4\xa0 \\-nt$^"[deq_rng_below(9, i, 2 * k + 1, 29)];
        if (!deq_tokenizer_parse(copy, len, "changed", &tok, NULL)) {
            struct deq_tokens t = {0};
            struct deq_buf b;
            loaded++;
            deq_buf_init(&b, 4096);
            (void)deq_tokenizer_encode(tok, "the ( caf\xc3\xa9 , @-@\n<eos> no\r", 27, true, &t, NULL);
            CHECK(!deq_tokenizer_decode(tok, t.ids, t.n, false, &b, NULL));
            deq_buf_free(&b);
            deq_tokens_free(&t);
        }
        deq_tokenizer_free(tok);
    }
    CHECK(loaded > 1000);
    deq_free(copy);
}

/* ---- vocabulary files ---- */

TEST(wordlevel_vocabulary_files)
{
    static const struct {
        const char *text;
        uint32_t expected;
        const char *message; /* NULL: it is read, */
        const char *ids;     /* and "<eos> a b\n" is this */
    } cases[] = {
        {"<eos>\na\nb\n", 3, NULL, "0 1 2 0"},
        {"<eos> 7\na\t6\nb 5 x", 3, NULL, "0 1 2 0"},      /* the first field counts; the last line may lack its end */
        {"<eos>\r\na\r\n b\r\n", 3, NULL, "0 1 2 0"},
        {"<eos>\ra\rb\r", 3, NULL, "0 1 2 0"},
        {"<eos>\na\x1c" "9\nb\n", 3, NULL, "0 1 2 0"},       /* str.split() cuts there */
        {"b\n<eos>\na\n", 0, NULL, "1 2 0 1"},
        {"<eos>\na\na\nb\n", 3, NULL, "0 1 2 0"},          /* Vocab.add_symbol skips what it has */
        {"<eos>\na\na\nb\n", 4, "v.txt: 3 symbols (1 more lines repeat one of them), expected 4", NULL},
        {"<eos>\na\nb\n", 4, "v.txt: 3 symbols, expected 4", NULL},
        {"<eos>\na\nb\nc\n", 3, "v.txt: 4 symbols, expected 3", NULL},
        {"", 3, "v.txt: expected a symbol a line, found nothing", NULL},
        {"<eos>\n\nb\n", 3, "v.txt: line 2: expected a symbol, found an empty line", NULL},
        {"<eos>\na\nb\n \n", 3, "v.txt: line 4: expected a symbol, found an empty line", NULL},
        {"<eos>\na\xff\nb\n", 3, "v.txt: line 2: expected UTF-8", NULL},
        {"\xef\xbb\xbf<eos>\r\na\nb\n", 3, NULL, "0 1 2 0"}, /* a byte order mark is no part of the first symbol */
        {"\xff\xfe<\0e\0", 3, "v.txt: UTF-16", NULL},
    };
    struct deq_err err = {0};
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_wordlevel_info info = {0};
        const char *path = written("v.txt", cases[i].text, strlen(cases[i].text)), *out = file("v.json");
        unlink(out);
        enum deq_rc rc = deq_wordlevel_from_vocab(path, cases[i].expected, out, &info, &err);
        CHECK_MSG(rc == (cases[i].message ? DEQ_EFORMAT : DEQ_OK), "case %zu: %s", i, err.text);
        CHECK(deq_io_exists(out) == !rc);
        if (rc) {
            CHECK_MSG(cases[i].message && strstr(err.text, cases[i].message), "case %zu: \"%s\"", i, err.text);
            continue;
        }
        struct deq_tokenizer *tok = load(out);
        CHECK_MSG(tok && info.n_words == 3 && deq_tokenizer_vocab_size(tok) == 3, "case %zu", i);
        CHECK_MSG(encodes(tok, "<eos> a b\n", cases[i].ids), "case %zu", i);
        CHECK(info.unk_id == -1 && info.eos_id == deq_tokenizer_id(tok, "<eos>"));
        deq_tokenizer_free(tok);
    }
    CHECK(deq_wordlevel_from_vocab(written("v.txt", "a\0b\n", 4), 0, file("v.json"), NULL, &err) == DEQ_EFORMAT && strstr(err.text, "zero bytes"));
    CHECK(deq_wordlevel_from_vocab(file("none"), 0, file("v.json"), NULL, &err) == DEQ_ENOTFOUND || err.code == DEQ_EIO);
    /* <UNK> stands in where there is no <unk>; without <eos> a line end is white space */
    struct deq_wordlevel_info info;
    CHECK(!deq_wordlevel_from_vocab(written("v.txt", "<S>\n<UNK>\n", 10), 2, file("v.json"), &info, &err) && info.eos_id == -1 && info.unk_id == 1);
    struct deq_tokenizer *tok = load(file("v.json"));
    CHECK(encodes(tok, "<S>\nword\n", "0 1"));
    deq_tokenizer_free(tok);
}

TEST(wordlevel_placeholder)
{
    struct deq_err err = {0};
    struct deq_tokens t = {0};
    CHECK(!deq_wordlevel_placeholder(1000, file("p.json"), &err));
    struct deq_tokenizer *tok = load(file("p.json"));
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 1000);
    CHECK(encodes(tok, "<0> <999>\n<10>", "0 999 10") && decodes(tok, "0 999 10", false, "<0> <999> <10>"));
    CHECK(deq_tokenizer_encode(tok, "<0> hello", 9, false, &t, &err) == DEQ_EINVAL && strstr(err.text, "\"hello\" is not in the vocabulary"));
    deq_tokens_free(&t);
    deq_tokenizer_free(tok);
    CHECK(deq_wordlevel_placeholder(0, file("p.json"), &err) == DEQ_EINVAL);
    CHECK(deq_wordlevel_placeholder(DEQ_WORDLEVEL_MAX_WORDS + 1u, file("p.json"), &err) == DEQ_EINVAL);
}

TEST(wordlevel_failing_allocations)
{
    const char *vocab = written("f.txt", "<eos> 1\na 2\n( 1\n", 16);
    char path[512];
    snprintf(path, sizeof path, "%s", vocab);
    for (uint64_t nth = 1;; nth++) {
        struct deq_tokenizer *tok = NULL;
        struct deq_wordcount c = {0};
        struct deq_tokens t = {0};
        struct deq_buf b;
        struct deq_err err = {0};
        const char *json = file("f.json"), *list = file("f2.txt"), *plain = file("f3.json");
        deq_buf_init(&b, 4096);
        deq_mem_fault(nth, false);
        enum deq_rc rc = deq_wordlevel_from_vocab(path, 3, json, NULL, &err);
        if (!rc)
            rc = deq_wordlevel_placeholder(20, plain, &err);
        if (!rc)
            rc = deq_wordcount_init(&c, &err);
        if (!rc)
            rc = deq_wordcount_add(&c, "text", "a ( a b", 7, &err);
        if (!rc)
            rc = deq_wordcount_write(&c, json, list, NULL, &err);
        if (!rc)
            rc = deq_tokenizer_parse(SMALL, strlen(SMALL), "x", &tok, &err);
        if (!rc)
            rc = deq_tokenizer_encode(tok, "the ( the\n", 10, true, &t, &err);
        if (!rc)
            rc = deq_tokenizer_decode(tok, t.ids, t.n, false, &b, &err);
        deq_mem_fault(0, false);
        CHECK_MSG(rc == DEQ_OK || (rc == DEQ_ENOMEM && err.code == DEQ_ENOMEM), "%s", err.text);
        deq_buf_free(&b);
        deq_tokens_free(&t);
        deq_wordcount_free(&c);
        deq_tokenizer_free(tok);
        if (!rc) {
            CHECK(nth > 40);
            break;
        }
    }
}

static void vocabulary_of(struct deq_buf *b, uint32_t n, const char *to)
{
    struct deq_err err = {0};
    b->len = 0;
    deq_buf_str(b, "<eos>\n<unk>\n");
    for (uint32_t i = 2; i < n; i++)
        deq_buf_fmt(b, "%x%c\n", i * 2654435761u, 'a' + (char)(i % 26));
    CHECK_MSG(!deq_wordlevel_from_vocab(written("big.txt", b->data, b->len), n, file(to), NULL, &err), "%s", err.text);
}

enum { WIKITEXT_WORDS = 267735 };

static void load_words(void *ctx, size_t n)
{
    (void)ctx;
    deq_tokenizer_free(load(file(n == WIKITEXT_WORDS / 8 ? "eighth.json" : "big.json")));
}

/* An index that is searched from the front would be quadratic in the words. */
TEST(wordlevel_of_wikitext_103_size)
{
    struct deq_buf b;
    struct deq_err err = {0};
    deq_buf_init(&b, 16 << 20);
    vocabulary_of(&b, WIKITEXT_WORDS / 8, "eighth.json");
    vocabulary_of(&b, WIKITEXT_WORDS, "big.json");
    CHECK_LINEAR(load_words, NULL, WIKITEXT_WORDS / 8, "an index of words");
    struct deq_tokenizer *tok = load(file("big.json"));
    CHECK(tok && deq_tokenizer_vocab_size(tok) == WIKITEXT_WORDS);
    struct deq_tokens t = {0};
    CHECK(tok && !deq_tokenizer_encode(tok, b.data, b.len, false, &t, &err) && t.n == 2 * (size_t)WIKITEXT_WORDS);
    size_t wrong = 0;
    for (uint32_t i = 0; i < WIKITEXT_WORDS && t.n == 2 * (size_t)WIKITEXT_WORDS; i++)
        wrong += t.ids[2 * i] != i || t.ids[2 * i + 1] != 0;
    CHECK(wrong == 0);
    deq_tokens_free(&t);
    deq_tokenizer_free(tok);
    deq_buf_free(&b);
}

TEST(wordlevel_leaves_no_files)
{
    static const char *const names[] = {"golden.json", "counted.json", "vocab.txt", "listed.json", "v.txt", "v.json", "p.json",
                                        "f.txt", "f.json", "f2.txt", "f3.json", "big.txt", "big.json", "eighth.json"};
    for (size_t i = 0; i < DEQ_COUNT(names); i++)
        unlink(file(names[i]));
    CHECK(rmdir(dir) == 0); /* nothing half-written stayed either */
}
