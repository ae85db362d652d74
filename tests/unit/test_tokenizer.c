/* Tokenizer: equality with the reference library on the golden files (check_hf.py wrote them, and compares far more), lossless
 * round trips of any bytes, refusal of damaged files, failing allocations. (Time: test_tokenizer_linear.c.) */
#include "core/text/tokenizer.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/text/bpe.h"
#include "core/text/bpe_train.h"
#include "core/text/normalize.h"
#include "core/text/pretok.h"
#include "core/text/tokenizer_config.h"
#include "tests/unit/test.h"

#define GOLDEN "tests/golden/tokenizer/"

enum { SAMPLE_VOCAB = 1024 };

static char *read_golden(const char *name, size_t *ret_len)
{
    char *data = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_io_read(name, 64 << 20, &data, ret_len, &err), "%s", err.text);
    return data;
}

static struct deq_tokenizer *gpt2(void)
{
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_tokenizer_load(GOLDEN "gpt2", &tok, &err), "%s", err.text);
    return tok;
}

/* tokenizer.json trained on sample.txt */
static struct deq_buf trained_json(uint32_t vocab_size)
{
    struct deq_buf json;
    struct deq_err err = {0};
    size_t len = 0;
    char *text = read_golden(GOLDEN "sample.txt", &len);
    struct deq_bpe_train_opts opts = {.vocab_size = vocab_size};
    deq_buf_init(&json, 64 << 20);
    if (text)
        CHECK_MSG(!deq_bpe_train(text, len, &opts, &json, &err), "%s", err.text);
    deq_free(text);
    return json;
}

/* Copy of json with one occurrence of `from` replaced; NULL when it is not there. */
static char *with(const char *json, const char *from, const char *to)
{
    const char *at = strstr(json, from);
    if (!at)
        return NULL;
    struct deq_buf b;
    deq_buf_init(&b, 64 << 20);
    deq_buf_add(&b, json, (size_t)(at - json));
    deq_buf_str(&b, to);
    deq_buf_str(&b, at + strlen(from));
    return b.data;
}

static struct deq_tokenizer *parse(const char *json)
{
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    enum deq_rc rc = json ? deq_tokenizer_parse(json, strlen(json), "test", &tok, &err) : DEQ_EINVAL;
    CHECK_MSG(!rc, "%s", err.text);
    return tok;
}

static size_t hex_text(const char *hex, size_t n, char *out)
{
    for (size_t i = 0; i + 1 < n; i += 2) {
        char pair[3] = {hex[i], hex[i + 1], 0};
        out[i / 2] = (char)strtoul(pair, NULL, 16);
    }
    return n / 2;
}

static bool round_trip(const struct deq_tokenizer *tok, const char *s, size_t n)
{
    struct deq_tokens t = {0};
    struct deq_buf out;
    deq_buf_init(&out, 64 << 20);
    bool ok = !deq_tokenizer_encode(tok, s, n, false, &t, NULL) && !deq_tokenizer_decode(tok, t.ids, t.n, false, &out, NULL) &&
              out.len == n && (!n || !memcmp(out.data, s, n));
    deq_buf_free(&out);
    deq_tokens_free(&t);
    return ok;
}

static bool encodes_to(const struct deq_tokenizer *tok, const char *s, bool special, const uint32_t *want, size_t n)
{
    struct deq_tokens t = {0};
    bool ok = !deq_tokenizer_encode(tok, s, strlen(s), special, &t, NULL) && t.n == n && !memcmp(t.ids, want, n * sizeof *want);
    if (!ok)
        for (size_t i = 0; i < t.n; i++)
            printf("%s%u", i ? " " : "", t.ids[i]);
    deq_tokens_free(&t);
    return ok;
}

#define ENCODES(tok, s, special, ...)                                                                                     \
    CHECK(encodes_to(tok, s, special, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)))

TEST(byte_alphabet_is_a_bijection)
{
    bool seen[0x144] = {false};
    for (unsigned b = 0; b < 256; b++) {
        uint32_t cp = deq_byte_to_cp((uint8_t)b);
        CHECK(cp < 0x144 && !seen[cp] && deq_cp_to_byte(cp) == (int)b);
        seen[cp] = true;
    }
    CHECK(deq_byte_to_cp(' ') == 0x120 && deq_byte_to_cp('\n') == 0x10a && deq_byte_to_cp(173) == 0x143);
    CHECK(deq_cp_to_byte(' ') == -1 && deq_cp_to_byte(0x144) == -1 && deq_cp_to_byte(0x10ffff) == -1);
}

TEST(pretok_golden)
{
    size_t len = 0;
    char *data = read_golden(GOLDEN "pretok.txt", &len), text[4096];
    size_t lines = 0;
    for (char *line = data, *nl; line && (nl = strchr(line, '\n')); line = nl + 1, lines++) {
        enum deq_pretok kind = line[0] == 'c' ? DEQ_PRETOK_CL100K : DEQ_PRETOK_QWEN2;
        size_t want[512], n_want = 0, n = 0, at = 0, k = 0;
        for (char *p = strchr(line, ' '); p && p < nl; n_want++) {
            char *end = ++p;
            while (*end != ' ' && *end != '\n')
                end++;
            want[n_want] = hex_text(p, (size_t)(end - p), text + n);
            n += want[n_want];
            p = end;
        }
        for (; at < n && k < n_want; k++) {
            size_t got = deq_pretok_next(kind, text + at, n - at);
            if (got != want[k])
                break;
            at += got;
        }
        CHECK_MSG(at == n && k == n_want, "line %zu, piece %zu", lines + 1, k + 1);
    }
    CHECK(lines == 1400);
    deq_free(data);
}

TEST(gpt2_known_ids)
{
    struct deq_tokenizer *tok = gpt2();
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 50257);
    CHECK(deq_tokenizer_id(tok, "<|endoftext|>") == 50256 && deq_tokenizer_id(tok, "<|endoftext|") == -1);
    CHECK(deq_tokenizer_is_special(tok, 50256) && !deq_tokenizer_is_special(tok, 50255) && !deq_tokenizer_is_special(tok, 1u << 31));
    ENCODES(tok, "Hello  world, it's me", false, 15496, 220, 995, 11, 340, 338, 502);
    ENCODES(tok, "a<|endoftext|>", true, 64, 50256);
    ENCODES(tok, "<|endoftext|>", false, 27, 91, 437, 1659, 5239, 91, 29);
    size_t n = 99;
    const char *bytes = deq_tokenizer_bytes(tok, 995, &n);
    CHECK(bytes && n == 6 && !memcmp(bytes, " world", 6));
    CHECK(!deq_tokenizer_bytes(tok, 50257, &n));
    deq_tokenizer_free(tok);
}

TEST(gpt2_golden)
{
    struct deq_tokenizer *tok = gpt2();
    size_t len = 0, lines = 0;
    char *data = read_golden(GOLDEN "encode-gpt2.txt", &len), *text = deq_alloc(len + 1);
    for (char *line = data, *nl; tok && text && line && (nl = strchr(line, '\n')); line = nl + 1, lines++) {
        struct deq_tokens t = {0};
        char *p = strchr(line, ' ');
        size_t n = hex_text(line, (size_t)(p - line), text), k = 0;
        CHECK(!deq_tokenizer_encode(tok, text, n, false, &t, NULL));
        for (; k < t.n && p < nl && strtoul(p, &p, 10) == t.ids[k]; k++)
            ;
        CHECK_MSG(k == t.n && p == nl, "line %zu, token %zu", lines + 1, k + 1);
        CHECK(round_trip(tok, text, n));
        deq_tokens_free(&t);
    }
    CHECK(lines > 1200);
    deq_free(text);
    deq_free(data);
    deq_tokenizer_free(tok);
}

TEST(round_trip_of_any_bytes)
{
    struct deq_buf json = trained_json(SAMPLE_VOCAB);
    struct deq_tokenizer *toks[4] = {gpt2(), parse(json.data), NULL, NULL};
    static const char *const regex[] = {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
        "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
        "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"};
    for (size_t i = 0; i < 2; i++) {
        struct deq_buf pre;
        deq_buf_init(&pre, 4096);
        deq_buf_fmt(&pre, "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, "
                          "\"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                          "\"trim_offsets\": true, \"use_regex\": false}]}", regex[i]);
        char *changed = with(json.data, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                                        "\"use_regex\": true}", pre.data);
        toks[2 + i] = parse(changed);
        deq_free(changed);
        deq_buf_free(&pre);
    }
    for (size_t k = 0; k < DEQ_COUNT(toks); k++) {
        size_t bad = 0;
        if (!toks[k])
            continue;
        for (unsigned a = 0; a < 256; a++)
            for (unsigned b = 0; b < 256; b++)
                bad += !round_trip(toks[k], (char[]){(char)a, (char)b}, 2);
        for (uint64_t i = 0; i < 3000; i++) {
            char s[600];
            size_t n = deq_rng_below(1, i, 0, sizeof s);
            unsigned style = (unsigned)(i % 3); /* any byte; mostly blanks and quotes; ASCII */
            for (size_t j = 0; j < n; j++) {
                uint64_t r = deq_rng_u64(2, i, j);
                s[j] = style == 0 ? (char)r : style == 1 ? " \n\r\t'se\xe3\x80\x80\xc2\xa0"[r % 13] : (char)(32 + r % 95);
            }
            bad += !round_trip(toks[k], s, n);
        }
        CHECK_MSG(bad == 0, "tokenizer %zu: %zu texts", k, bad);
        CHECK(round_trip(toks[k], "", 0));
        deq_tokenizer_free(toks[k]);
    }
    deq_buf_free(&json);
}

/* The vocabulary of all small files below: bytes a, b, c, space (as U+0120), and some words. */
#define SMALL_VOCAB "\"a\": 0, \"b\": 1, \"c\": 2, \"\xc4\xa0\": 3, \"ab\": 4, \"abc\": 5, \"bc\": 6, \"<s>\": 7, \"\xc4\xa0" "a\": 8"
#define SMALL_ADDED                                                                                               \
    "{\"id\": 7, \"content\": \"<s>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}"
#define SMALL_MODEL                                                                                                                \
    "{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": \"\", \"end_of_word_suffix\": \"\", " \
    "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {" SMALL_VOCAB "}, "                    \
    "\"merges\": [\"a b\", [\"b\", \"c\"], \"ab c\"]}"
#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}"
#define SMALL                                                                                                                     \
    "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [" SMALL_ADDED "], \"normalizer\": null, " \
    "\"pre_tokenizer\": " BYTE_LEVEL ", \"post_processor\": null, \"decoder\": " BYTE_LEVEL ", \"model\": " SMALL_MODEL "}"

static struct deq_tokenizer *parse_with(const char *from, const char *to)
{
    char *json = with(SMALL, from, to);
    struct deq_tokenizer *tok = parse(json);
    deq_free(json);
    return tok;
}

TEST(small_vocabulary)
{
    struct deq_tokenizer *tok = parse(SMALL);
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 9);
    ENCODES(tok, "abcab", false, 5, 4);
    ENCODES(tok, " a", false, 3, 0); /* no merge makes "U+0120 a", though it is in the vocabulary */
    ENCODES(tok, "a<s>b", true, 0, 7, 1);
    struct deq_err err = {0};
    struct deq_tokens t = {0};
    CHECK(deq_tokens_push(&t, 42));
    CHECK(deq_tokenizer_encode(tok, "ab ax", 5, false, &t, &err) == DEQ_EINVAL && strstr(err.text, "0x78"));
    CHECK(t.n == 1 && t.ids[0] == 42);
    struct deq_buf out;
    deq_buf_init(&out, 4);
    CHECK(!deq_tokenizer_decode(tok, (uint32_t[]){5}, 1, false, &out, &err) && out.len == 3);
    CHECK(deq_tokenizer_decode(tok, (uint32_t[]){0, 9}, 2, false, &out, &err) == DEQ_EINVAL && strstr(err.text, "9"));
    CHECK(out.len == 3 && !strcmp(out.data, "abc"));
    CHECK(deq_tokenizer_decode(tok, (uint32_t[]){5}, 1, false, &out, &err) == DEQ_ENOMEM);
    deq_buf_free(&out); /* a failure stays until then */
    CHECK(!deq_tokenizer_decode(tok, (uint32_t[]){7, 4, 7}, 3, true, &out, &err) && !strcmp(out.data, "ab"));
    deq_buf_free(&out);
    deq_tokens_free(&t);
    deq_tokenizer_free(tok);

    tok = parse_with("\"ignore_merges\": false", "\"ignore_merges\": true");
    ENCODES(tok, " a", false, 8);
    ENCODES(tok, " aab", false, 3, 0, 4);
    deq_tokenizer_free(tok);
    tok = parse_with("\"add_prefix_space\": false", "\"add_prefix_space\": true");
    ENCODES(tok, "ab", false, 3, 4);
    ENCODES(tok, " ab", false, 3, 4);
    ENCODES(tok, "ab<s>c", true, 3, 4, 7, 3, 2);
    deq_tokenizer_free(tok);
    tok = parse_with("\"type\": \"BPE\", ", "");
    ENCODES(tok, "abc", false, 5);
    deq_tokenizer_free(tok);
}

TEST(long_first_word_with_prefix_space)
{
    enum { N = 20000 };
    struct deq_tokenizer *tok = parse_with("\"add_prefix_space\": false", "\"add_prefix_space\": true");
    char *s = deq_alloc(N + 1);
    for (size_t len = N - 40; tok && s && len <= N; len++) { /* across the places where the scan is cut */
        struct deq_tokens t = {0};
        memset(s, 'c', len);
        CHECK(!deq_tokenizer_encode(tok, s, len, false, &t, NULL) && t.n == len + 1 && t.ids[0] == 3);
        t.n = 0;
        s[4090 + len % 20] = ' ';
        CHECK(!deq_tokenizer_encode(tok, s, len, false, &t, NULL) && t.n == len + 1);
        deq_tokens_free(&t);
    }
    deq_free(s);
    deq_tokenizer_free(tok);
}

TEST(added_tokens)
{
    struct deq_tokenizer *tok = parse_with(
        SMALL_ADDED, SMALL_ADDED ", {\"id\": 20, \"content\": \"<s>b\"}, {\"id\": 21, \"content\": \"ca\", \"normalized\": true}, "
                                 "{\"id\": 22, \"content\": \"<l>\", \"lstrip\": true}, {\"id\": 23, \"content\": \"<r>\", \"rstrip\": true}");
    size_t n;
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 24 && deq_tokenizer_id(tok, "ca") == 21 && !deq_tokenizer_bytes(tok, 10, &n));
    ENCODES(tok, "a<s>bc", true, 0, 20, 2);   /* the longest wins */
    ENCODES(tok, "a<s>ca", true, 0, 7, 21);   /* what is normalized is found between the others */
    ENCODES(tok, "bca", false, 1, 21);        /* not special: always found, before any merge */
    ENCODES(tok, "a  <l>  b", false, 0, 22, 3, 3, 1);
    ENCODES(tok, "a  <r> \xe3\x80\x80 b", false, 0, 3, 3, 23, 1);
    deq_tokenizer_free(tok);
}

static bool normal(enum deq_form form, const char *s, const char *want)
{
    struct deq_buf out;
    deq_buf_init(&out, 1 << 20);
    const bool ok = deq_normalize(form, s, strlen(s), &out) && out.len == strlen(want) && !memcmp(out.len ? out.data : "", want, out.len);
    deq_buf_free(&out);
    return ok;
}

TEST(normal_forms)
{
    CHECK(normal(DEQ_NFC, "", "") && normal(DEQ_NFC, "plain", "plain"));
    CHECK(normal(DEQ_NFC, "e\xcc\x81t e\xcc\x81", "\xc3\xa9t \xc3\xa9"));
    CHECK(normal(DEQ_NFD, "\xc3\xa9", "e\xcc\x81"));
    CHECK(normal(DEQ_NFKC, "\xef\xac\x81 \xc2\xbd", "fi 1\xe2\x81\x84""2") && normal(DEQ_NFC, "\xef\xac\x81", "\xef\xac\x81"));
    CHECK(normal(DEQ_NFKD, "\xe1\xba\x9b\xcc\xa3", "s\xcc\xa3\xcc\x87"));
    CHECK(normal(DEQ_NFC, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81")); /* Hangul */
    CHECK(normal(DEQ_NFC, "a\xff" "e\xcc\x81\xcc\xff\xcc\x81", "a\xff\xc3\xa9\xcc\xff\xcc\x81")); /* other bytes stay */
    CHECK(normal(DEQ_NFC, "a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81")); /* marks in order first */
}

TEST(normalizer_and_stages)
{
    struct deq_tokenizer *tok = parse_with("\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKD\"}, {\"type\": \"NFC\"}]}");
    ENCODES(tok, "\xef\xbd\x81\xef\xbd\x82<s>c", true, 4, 7, 2); /* full width a, b */
    deq_tokenizer_free(tok);
    char *json = with(SMALL, SMALL_ADDED, SMALL_ADDED ", {\"id\": 20, \"content\": \"ba\", \"normalized\": true}, {\"id\": 21, \"content\": \"cc\", \"normalized\": false}");
    char *normal_json = with(json, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}");
    tok = parse(normal_json);
    ENCODES(tok, "a\xef\xbd\x82" "a\xef\xbd\x83" "c", true, 0, 20, 2, 2); /* "ba" after, "cc" before the form */
    deq_tokenizer_free(tok);
    deq_free(normal_json);
    deq_free(json);
    json = with(SMALL, SMALL_ADDED, SMALL_ADDED ", {\"id\": 20, \"content\": \"\xef\xbd\x82\", \"normalized\": true}");
    normal_json = with(json, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}");
    struct deq_err err = {0};
    CHECK(deq_tokenizer_parse(normal_json, strlen(normal_json), "x", &tok, &err) == DEQ_EFORMAT && strstr(err.text, "the normalizer makes something else of it"));
    deq_free(normal_json);
    deq_free(json);
    static const char *const digits[] = {"true", "false"};
    for (size_t i = 0; i < 2; i++) {
        char stages[512];
        snprintf(stages, sizeof stages, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": %s}, " BYTE_LEVEL "]}",
                 digits[i]);
        json = with(SMALL, "\"pre_tokenizer\": " BYTE_LEVEL, stages);
        normal_json = with(json, "\"a\": 0, \"b\": 1", "\"a\": 0, \"b\": 1, \"1\": 10, \"11\": 11");
        deq_free(json);
        json = with(normal_json, "[\"a b\"", "[\"1 1\", \"a b\"");
        deq_free(normal_json);
        tok = parse(json);
        if (i)
            ENCODES(tok, "ab11 11ab", false, 4, 11, 3, 11, 4);
        else
            ENCODES(tok, "ab11 11ab", false, 4, 10, 10, 3, 10, 10, 4);
        deq_tokenizer_free(tok);
        deq_free(json);
    }
    tok = parse_with("\"decoder\": " BYTE_LEVEL, "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [" BYTE_LEVEL "]}");
    ENCODES(tok, "ab", false, 4);
    deq_tokenizer_free(tok);
}

static bool write_text(const char *path, const char *text)
{
    return !deq_io_replace(path, &(struct deq_part){text, strlen(text)}, 1, NULL);
}

TEST(tokenizer_config_beside)
{
    char dir[] = "/tmp/deq-tokenizer-XXXXXX", path[64], config[64], *text = NULL;
    struct deq_err err = {0};
    size_t len;
    int64_t eos = 9;
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    snprintf(config, sizeof config, "%s/tokenizer_config.json", dir);
    struct deq_tokenizer *tok = parse(SMALL);
    CHECK(!deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == -1); /* no file, no usual name */
    CHECK(write_text(path, SMALL) && !deq_tokenizer_config_save(path, 7, 3, &err));
    CHECK(!deq_io_read(config, 1 << 16, &text, &len, &err) && strstr(text, "\"eos_token\": \"<s>\"") && strstr(text, "\"unk_token\": \" \"") &&
          strstr(text, "\"PreTrainedTokenizerFast\""));
    deq_free(text);
    CHECK(!deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == 7);
    static const struct {
        const char *text, *message;
    } bad[] = {{"{\"eos_token\": \"</s>\"}", "eos_token: \"</s>\" is not among the added tokens"}, {"{\"eos_token\": 7}", "eos_token: expected a string"},
               {"[]", "expected an object"}, {"{", "line 1"}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++)
        CHECK(write_text(config, bad[i].text) && deq_tokenizer_config_eos(dir, tok, &eos, &err) == DEQ_EFORMAT && strstr(err.text, bad[i].message));
    CHECK(write_text(config, "{\"eos_token\": {\"content\": \"<s>\"}}") && !deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == 7);
    CHECK(write_text(config, "{\"eos_token\": null}") && !deq_tokenizer_config_eos(dir, tok, &eos, &err) && eos == -1);
    CHECK(!unlink(config));
    snprintf(config, sizeof config, "%s/other.json", dir); /* no model directory: nothing beside it */
    CHECK(!deq_tokenizer_config_save(config, 7, -1, &err));
    CHECK(!unlink(path) && !rmdir(dir));
    deq_tokenizer_free(tok);
}

TEST(template_of_post_processor)
{
    static const char *const forms[] = {
        "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": "
        "\"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"x\", \"type_id\": 0}}], \"pair\": [], \"special_tokens\": {\"<s>\": "
        "{\"id\": \"<s>\", \"ids\": [7], \"tokens\": [\"<s>\"]}, \"x\": {\"id\": \"x\", \"ids\": [4, 5], \"tokens\": [\"a\", \"b\"]}}}"};
    char seq[1024], none[] = "\"post_processor\": null", *json;
    const uint32_t *before, *after;
    size_t n_before = 9, n_after = 9;
    for (int nested = 0; nested < 2; nested++) {
        snprintf(seq, sizeof seq, nested ? "\"post_processor\": {\"type\": \"Sequence\", \"processors\": [" BYTE_LEVEL ", %s]}"
                                         : "\"post_processor\": %s", forms[0]);
        json = with(SMALL, none, seq);
        struct deq_tokenizer *tok = parse(json);
        if (tok) {
            deq_tokenizer_affix(tok, &before, &n_before, &after, &n_after);
            CHECK(n_before == 1 && before[0] == 7 && n_after == 2 && after[0] == 4 && after[1] == 5);
            ENCODES(tok, "ab", true, 4);
        }
        deq_tokenizer_free(tok);
        deq_free(json);
    }
    struct deq_tokenizer *tok = parse(SMALL);
    deq_tokenizer_affix(tok, &before, &n_before, &after, &n_after);
    CHECK(n_before == 0 && n_after == 0);
    deq_tokenizer_free(tok);
}

TEST(damaged_files_are_refused_by_name)
{
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"{\"version\"", "[{\"version\"", "line 1"},
        {"\"version\": \"1.0\"", "\"model\": {}", "duplicate"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}", "normalizer.type: \"Lowercase\" is not supported"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}, 1]}", "normalizer.normalizers[]: expected an object"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\"}", "normalizer.normalizers: expected an array, found nothing"},
        {"\"normalizer\": null", "\"normalizer\": 7", "normalizer: expected an object, found an integer"},
        {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type: \"Unigram\" is not supported"},
        {"\"type\": \"BPE\"", "\"type\": 3", "model.type: expected a string, found an integer"},
        {"\"type\": \"BPE\"", "\"type\": \"B\\nX\"", "\"B?X\""},
        {"\"dropout\": null", "\"dropout\": 0.1", "model.dropout"},
        {"\"unk_token\": null", "\"unk_token\": \"<unk>\"", "model.unk_token"},
        {"\"continuing_subword_prefix\": \"\"", "\"continuing_subword_prefix\": \"##\"", "model.continuing_subword_prefix"},
        {"\"end_of_word_suffix\": \"\"", "\"end_of_word_suffix\": 1", "model.end_of_word_suffix"},
        {"\"fuse_unk\": false", "\"fuse_unk\": true", "model.fuse_unk"},
        {"\"byte_fallback\": false", "\"byte_fallback\": true", "model.byte_fallback"},
        {"\"ignore_merges\": false", "\"ignore_merges\": 0", "model.ignore_merges: expected a boolean, found an integer"},
        {"\"vocab\": {" SMALL_VOCAB "}", "\"vocab\": []", "model.vocab: expected an object"},
        {"\"vocab\": {" SMALL_VOCAB "}", "\"vocab\": {}", "model.vocab: expected tokens, found none"},
        {"\"c\": 2", "\"c\": 1", "which another token has too"},
        {"\"c\": 2", "\"c\": -1", "\"c\": id -1 is outside"},
        {"\"c\": 2", "\"c\": 16777216", "\"c\": id 16777216 is outside"},
        {"\"c\": 2", "\"c\": 16777215", "id 16777215: the file has 10 tokens, expected their ids below 65556"},
        {"\"c\": 2", "\"c\": 99999999999999999999", "line 1"},
        {"\"c\": 2", "\"c\": \"2\"", "\"c\": expected an integer id, found a string"},
        {"\"c\": 2", "\"c\": 2.0", "\"c\": expected an integer id, found a fraction"},
        {"\"c\": 2", "\"a\": 2", "duplicate"},
        {"\"c\": 2", "\"x\": 2", "model.merges[1]: part \"c\" is not in the vocabulary"},
        {"\"bc\": 6", "\"xx\": 6", "model.merges[1]: the merged token \"bc\" is not in the vocabulary"},
        {"\"merges\": [", "\"merges\": [\"a b\", ", "model.merges[1]: the same pair"},
        {"\"a b\"", "\"ab\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"a  b\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\" b\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"a \"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"a b c\"", "model.merges[0]: expected two parts"},
        {"\"a b\"", "\"\"", "model.merges[0]: expected two parts"},
        {"[\"b\", \"c\"]", "[\"b\"]", "model.merges[1]: expected"},
        {"[\"b\", \"c\"]", "[\"b\", \"c\", \"a\"]", "model.merges[1]: expected"},
        {"[\"b\", \"c\"]", "[\"b\", 7]", "model.merges[1]: expected"},
        {"[\"b\", \"c\"]", "null", "model.merges[1]: expected"},
        {"\"merges\": [", "\"merges_\": [", "model.merges: expected an array, found nothing"},
        {"\"model\": {", "\"model_\": {", "model: expected an object, found nothing"},
        {"\"added_tokens\": [" SMALL_ADDED "]", "\"added_tokens\": 1", "added_tokens: expected an array"},
        {SMALL_ADDED, "7", "added_tokens[0]: expected an object"},
        {"\"content\": \"<s>\"", "\"content\": null", "added_tokens[0].content: expected a string, found null"},
        {"\"content\": \"<s>\"", "\"content\": \"\"", "added_tokens[0].content: expected text, found none"},
        {"\"content\": \"<s>\"", "\"content\": \"<t>\"", "id 7, which another token has too"},
        {"\"id\": 7", "\"id\": 12", "\"<s>\" has id 12 here and 7 in model.vocab"},
        {"\"id\": 7", "\"id\": true", "added_tokens: \"<s>\": expected an integer id, found a boolean"},
        {"\"id\": 7", "\"id\": 4294967303", "is outside"},
        {"\"single_word\": false", "\"single_word\": true", "single_word"},
        {"\"lstrip\": false", "\"lstrip\": \"no\"", "lstrip: expected a boolean, found a string"},
        {SMALL_ADDED, SMALL_ADDED ", " SMALL_ADDED, "id 7 is given twice"},
        {SMALL_ADDED, SMALL_ADDED ", {\"id\": 9, \"content\": \"<t>\"}, {\"id\": 10, \"content\": \"<t>\"}", "\"<t>\" stands there twice"},
        {SMALL_ADDED, SMALL_ADDED ", {\"id\": 9, \"content\": \"<t>\"}, {\"id\": 10, \"content\": \"<t>\", \"normalized\": true}",
         "\"<t>\" stands there twice"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": null", "pre_tokenizer: expected an object, found null"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": {\"type\": \"Whitespace\"}", "\"Whitespace\" is not supported"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": []}", "ByteLevel at the end, found nothing"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [" BYTE_LEVEL ", " BYTE_LEVEL
         "]}", "found \"ByteLevel\" as number 1 of 2"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
         "\"pattern\": {\"Regex\": \"\\\\w+|x\"}, \"behavior\": \"Isolated\", \"invert\": false}, " BYTE_LEVEL "]}", "not supported: \\w+|x"},
        {"\"pre_tokenizer\": " BYTE_LEVEL, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
         "\"pattern\": {\"String\": \" \"}}, " BYTE_LEVEL "]}", "pattern: expected"},
        {"\"use_regex\": true", "\"use_regex\": 1", "pre_tokenizer.use_regex: expected a boolean"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\"}", "\"BertProcessing\" is not supported"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\"}", "post_processor.single: expected an array"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []}", "Sequence A is missing"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
         "\"q\"}}]}", "\"q\": expected ids"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
         "\"q\"}}], \"special_tokens\": {\"q\": {\"ids\": [77]}}}", "id 77 is not in the vocabulary"},
        {"\"decoder\": " BYTE_LEVEL, "\"decoder\": null", "decoder: expected an object, found null"},
        {"\"decoder\": " BYTE_LEVEL, "\"decoder\": {\"type\": \"Metaspace\"}", "decoder.type: \"Metaspace\""},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        char *json = with(SMALL, cases[i].from, cases[i].to);
        struct deq_tokenizer *tok = NULL;
        struct deq_err err = {0};
        CHECK_MSG(json != NULL, "case %zu does not apply", i);
        if (!json)
            continue;
        enum deq_rc rc = deq_tokenizer_parse(json, strlen(json), "some.json", &tok, &err);
        CHECK_MSG(rc == DEQ_EFORMAT && !tok, "case %zu: %s", i, cases[i].to);
        CHECK_MSG(!strncmp(err.text, "some.json: ", 11) && strstr(err.text, cases[i].message), "case %zu: \"%s\" lacks \"%s\"", i,
                  err.text, cases[i].message);
        deq_tokenizer_free(tok);
        deq_free(json);
    }
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK(deq_tokenizer_parse("[]", 2, "x", &tok, &err) == DEQ_EFORMAT && strstr(err.text, "expected an object, found an array"));
    CHECK(deq_tokenizer_parse("", 0, "x", &tok, &err) == DEQ_EFORMAT);
    CHECK(deq_tokenizer_load("tests/golden/tokenizer/none", &tok, &err) == DEQ_ENOTFOUND);
    CHECK(deq_tokenizer_load("tests/golden", &tok, &err) == DEQ_ENOTFOUND && strstr(err.text, "vocab.json"));
}

TEST(cut_and_changed_files_never_crash)
{
    const char *json = SMALL;
    size_t len = strlen(json), accepted = 0;
    char *copy = deq_alloc(len + 1);
    for (size_t n = 0; n < len; n++) {
        struct deq_tokenizer *tok = NULL;
        accepted += !deq_tokenizer_parse(json, n, "cut", &tok, NULL);
        deq_tokenizer_free(tok);
    }
    CHECK(accepted == 0);
    for (uint64_t i = 0; i < 20000; i++) {
        struct deq_tokenizer *tok = NULL;
        memcpy(copy, json, len + 1);
        for (uint64_t k = 0; k <= i % 3; k++)
            copy[deq_rng_below(9, i, 2 * k, len)] = "0123456789\"{}[],:ab<\xc4\xa0 \\-"[deq_rng_below(9, i, 2 * k + 1, 25)];
        if (!deq_tokenizer_parse(copy, len, "changed", &tok, NULL)) {
            struct deq_tokens t = {0};
            (void)deq_tokenizer_encode(tok, "abcab <s> cab<", 14, true, &t, NULL);
            for (size_t j = 0; j < t.n; j++) {
                size_t n;
                CHECK(deq_tokenizer_bytes(tok, t.ids[j], &n));
            }
            deq_tokens_free(&t);
        }
        deq_tokenizer_free(tok);
    }
    deq_free(copy);
}

TEST(failing_allocations)
{
    char text[200];
    memset(text, 'b', sizeof text); /* long enough for the heap */
    for (uint64_t nth = 1;; nth++) {
        struct deq_tokenizer *tok = NULL;
        struct deq_err err = {0};
        deq_mem_fault(nth, false);
        enum deq_rc rc = deq_tokenizer_parse(SMALL, strlen(SMALL), "x", &tok, &err);
        struct deq_tokens t = {0};
        struct deq_buf out, json;
        deq_buf_init(&out, 1000);
        deq_buf_init(&json, 1 << 20);
        if (!rc)
            rc = deq_tokenizer_encode(tok, text, sizeof text, true, &t, &err);
        if (!rc)
            rc = deq_tokenizer_decode(tok, t.ids, t.n, true, &out, &err);
        struct deq_bpe_train_opts opts = {.vocab_size = 270};
        if (!rc)
            rc = deq_bpe_train("the cat and the hat and that", 28, &opts, &json, &err);
        deq_mem_fault(0, false);
        CHECK(rc == DEQ_OK || (rc == DEQ_ENOMEM && err.code == DEQ_ENOMEM));
        deq_tokens_free(&t);
        deq_buf_free(&out);
        deq_buf_free(&json);
        deq_tokenizer_free(tok);
        if (!rc) {
            CHECK(nth > 200);
            break;
        }
    }
}

struct thread_job {
    const struct deq_tokenizer *tok;
    const char *text;
    size_t len;
    struct deq_tokens out;
    enum deq_rc rc;
};

static void *thread_main(void *arg)
{
    struct thread_job *j = arg;
    j->rc = deq_tokenizer_encode(j->tok, j->text, j->len, true, &j->out, NULL);
    return NULL;
}

TEST(threads_share_one_tokenizer)
{
    struct deq_tokenizer *tok = gpt2();
    size_t len = 0;
    char *text = read_golden(GOLDEN "sample.txt", &len);
    struct thread_job job[4];
    pthread_t thread[4];
    if (!tok || !text)
        return;
    for (size_t i = 0; i < 4; i++) {
        job[i] = (struct thread_job){.tok = tok, .text = text, .len = len};
        CHECK(!pthread_create(&thread[i], NULL, thread_main, &job[i]));
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        CHECK(!job[i].rc && job[i].out.n == job[0].out.n &&
              !memcmp(job[i].out.ids, job[0].out.ids, job[0].out.n * sizeof(uint32_t)));
    }
    for (size_t i = 0; i < 4; i++)
        deq_tokens_free(&job[i].out);
    deq_free(text);
    deq_tokenizer_free(tok);
}

/* ---- training ---- */

TEST(training_equals_the_reference)
{
    struct deq_buf json = trained_json(SAMPLE_VOCAB);
    struct deq_tokenizer *tok = parse(json.data);
    size_t len = 0, lines = 0, n_a, n_b, n_c;
    char *data = read_golden(GOLDEN "sample-merges.txt", &len);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == SAMPLE_VOCAB && deq_tokenizer_id(tok, "<|endoftext|>") == 0);
    for (char *p = data; tok && p && *p; lines++) {
        uint32_t a = (uint32_t)strtoul(p, &p, 10), b = (uint32_t)strtoul(p, &p, 10), c = (uint32_t)strtoul(p, &p, 10);
        const char *x = deq_tokenizer_bytes(tok, a, &n_a), *y = deq_tokenizer_bytes(tok, b, &n_b), *z = deq_tokenizer_bytes(tok, c, &n_c);
        CHECK_MSG(c == 257 + lines && x && y && z && n_c == n_a + n_b && !memcmp(z, x, n_a) && !memcmp(z + n_a, y, n_b), "merge %zu",
                  lines);
        p += *p == '\n';
    }
    CHECK(lines == SAMPLE_VOCAB - 257);
    struct deq_buf again = trained_json(SAMPLE_VOCAB);
    CHECK(again.len == json.len && !memcmp(again.data, json.data, json.len));
    deq_buf_free(&again);
    deq_buf_free(&json);
    deq_free(data);
    deq_tokenizer_free(tok);
}

static struct deq_buf train_text(const char *text, uint32_t vocab_size)
{
    struct deq_buf json;
    struct deq_bpe_train_opts opts = {.vocab_size = vocab_size};
    deq_buf_init(&json, 1 << 20);
    CHECK(!deq_bpe_train(text, strlen(text), &opts, &json, NULL));
    return json;
}

TEST(training_leaves_document_ends_out)
{
    /* three times "the cat", whatever stands between */
    static const char *const same[] = {"the cat\n<|endoftext|>\nthe cat\n<|endoftext|>\nthe cat",
                                       "<|endoftext|>\nthe cat\n<|endoftext|>\n<|endoftext|>\nthe cat\n<|endoftext|>\nthe cat\n<|endoftext|>"};
    struct deq_buf a = train_text(same[0], 300), b = train_text(same[1], 300);
    CHECK(a.len == b.len && !memcmp(a.data, b.data, a.len));
    struct deq_tokenizer *tok = parse(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 257 + 5); /* th the at cat " cat": no more pairs */
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
    deq_buf_free(&b);
    a = train_text("x <|endoftext|>\n", 300); /* not a line by itself: text */
    tok = parse(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) > 260);
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
    a = train_text("a\n\n<|endoftext|>\n\n\n<|endoftext|>\nb", 300); /* the documents are "a\n", "\n", "b": no pair of line ends */
    tok = parse(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 257);
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
    a = train_text("", 257);
    tok = parse(a.data);
    CHECK(tok && deq_tokenizer_vocab_size(tok) == 257 && round_trip(tok, "any\xff", 4));
    deq_tokenizer_free(tok);
    deq_buf_free(&a);
}

static void count_progress(void *ctx, size_t done, size_t total)
{
    size_t *last = ctx;
    CHECK(done >= *last && done <= total && total == SAMPLE_VOCAB - 257);
    *last = done;
}

TEST(training_arguments)
{
    struct deq_buf json;
    struct deq_err err = {0};
    size_t last = 0, len = 0;
    char *text = read_golden(GOLDEN "sample.txt", &len);
    deq_buf_init(&json, 1 << 20);
    struct deq_bpe_train_opts opts = {.vocab_size = 256};
    CHECK(deq_bpe_train("a", 1, &opts, &json, &err) == DEQ_EINVAL && strstr(err.text, "257"));
    opts = (struct deq_bpe_train_opts){SAMPLE_VOCAB, count_progress, &last};
    CHECK(!deq_bpe_train(text, len, &opts, &json, &err) && last == SAMPLE_VOCAB - 257);
    deq_buf_free(&json);
    deq_buf_init(&json, 100);
    CHECK(deq_bpe_train("a", 1, &opts, &json, &err) == DEQ_ENOMEM);
    deq_buf_free(&json);
    deq_free(text);
}
