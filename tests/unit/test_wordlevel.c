/* core/text/wordlevel.c: the ids of the DEQ authors' code and the texts of the tokenizers library on the golden files
 * (check_wordlevel.py wrote them, and compares far more), damaged vocabularies, failing allocations, a vocabulary of
 * WikiText-103's size. */
#include "core/text/wordlevel.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/text/corpus.h"
#include "core/text/tokenizer.h"
#include "tests/unit/words.h"

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
    CHECK_MSG(!deq_wordlevel_from_vocab(GOLDEN "vocab.txt", info.n_words, file("listed.json"), &again, &err), "%s",
              err.text);
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
    /* <eos> is a word of the vocabulary, special or not */
    CHECK(!deq_tokenizer_encode(tok, text, len, true, &t, &err) && same_tokens(&t, &ids));
    t.n = 0;
    uint64_t bytes; /* `deq eval` and training: the last line end is not text, and the end of the text is <eos> */
    CHECK(!deq_corpus_encode(tok, -1, 0, text, len, &t, &bytes, &err) && same_tokens(&t, &ids));
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
    CHECK(deq_wordlevel_from_vocab(written("v.txt", "a\0b\n", 4), 0, file("v.json"), NULL, &err) == DEQ_EFORMAT &&
          strstr(err.text, "zero bytes"));
    CHECK(deq_wordlevel_from_vocab(file("none"), 0, file("v.json"), NULL, &err) == DEQ_ENOTFOUND ||
          err.code == DEQ_EIO);
    /* <UNK> stands in where there is no <unk>; without <eos> a line end is white space */
    struct deq_wordlevel_info info;
    CHECK(!deq_wordlevel_from_vocab(written("v.txt", "<S>\n<UNK>\n", 10), 2, file("v.json"), &info, &err) &&
          info.eos_id == -1 && info.unk_id == 1);
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
    CHECK(deq_tokenizer_encode(tok, "<0> hello", 9, false, &t, &err) == DEQ_EINVAL &&
          strstr(err.text, "\"hello\" is not in the vocabulary"));
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
    static const char *const names[] = {"golden.json", "counted.json", "vocab.txt", "listed.json", "v.txt", "v.json",
                                        "p.json", "f.txt", "f.json", "f2.txt", "f3.json", "big.txt", "big.json",
                                        "eighth.json"};
    for (size_t i = 0; i < DEQ_COUNT(names); i++)
        unlink(file(names[i]));
    CHECK(rmdir(dir) == 0); /* nothing half-written stayed either */
}
