/* core/text/tokenizer.c: equality with the reference library on the golden files (check_hf.py wrote them, and compares
 * far more), lossless round trips of any bytes. (Time: test_tokenizer_linear.c.) */
#include "core/text/tokenizer.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/tokenizers.h"

static struct deq_tokenizer *gpt2(void)
{
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_tokenizer_load(GOLDEN "gpt2", &tok, &err), "%s", err.text);
    return tok;
}

TEST(gpt2_known_ids)
{
    struct deq_tokenizer *tok = gpt2();
    if (!tok)
        return;
    CHECK(deq_tokenizer_vocab_size(tok) == 50257);
    CHECK(deq_tokenizer_id(tok, "<|endoftext|>") == 50256 && deq_tokenizer_id(tok, "<|endoftext|") == -1);
    CHECK(deq_tokenizer_is_special(tok, 50256) && !deq_tokenizer_is_special(tok, 50255) &&
          !deq_tokenizer_is_special(tok, 1u << 31));
    ENCODES(tok, "Hello  world, it's me", false, 15496, 220, 995, 11, 340, 338, 502);
    ENCODES(tok, "a<|endoftext|>", true, 64, 50256);
    ENCODES(tok, "<|endoftext|>", false, 27, 91, 437, 1659, 5239, 91, 29);
    size_t n = 99;
    const char *bytes = deq_tokenizer_bytes(tok, 995, &n);
    CHECK(bytes && n == 6 && !memcmp(bytes, " world", 6));
    CHECK(!deq_tokenizer_bytes(tok, 50257, &n));
    deq_tokenizer_free(tok);
}

/* Lines of a text in hexadecimal and its ids; the number of lines. Frees tok. */
static size_t agrees_with(struct deq_tokenizer *tok, const char *path, bool parse_special)
{
    size_t len = 0, lines = 0;
    char *data = read_golden(path, &len), *text = deq_alloc(len + 1);
    for (char *line = data, *nl; tok && text && line && (nl = strchr(line, '\n')); line = nl + 1, lines++) {
        struct deq_tokens t = {0};
        char *p = strchr(line, ' ');
        size_t n = hex_text(line, (size_t)(p - line), text), k = 0;
        CHECK(!deq_tokenizer_encode(tok, text, n, parse_special, &t, NULL));
        for (; k < t.n && p < nl && strtoul(p, &p, 10) == t.ids[k]; k++)
            ;
        CHECK_MSG(k == t.n && p == nl, "line %zu, token %zu", lines + 1, k + 1);
        CHECK(tokenizer_round_trip(tok, text, n));
        deq_tokens_free(&t);
    }
    deq_free(text);
    deq_free(data);
    deq_tokenizer_free(tok);
    return lines;
}

TEST(gpt2_golden)
{
    CHECK(agrees_with(gpt2(), GOLDEN "encode-gpt2.txt", false) > 1200);
}

/* Digits two at a time, possessive parts, byte_fallback over a full alphabet; special tokens in a text. */
TEST(parcae_golden)
{
    struct deq_tokenizer *tok = NULL;
    struct deq_err err = {0};
    CHECK_MSG(!deq_tokenizer_load(GOLDEN "parcae", &tok, &err), "%s", err.text);
    if (tok)
        CHECK(agrees_with(tok, GOLDEN "parcae/encode.txt", true) == 17);
}

TEST(round_trip_of_any_bytes)
{
    struct deq_buf json = trained_json(SAMPLE_VOCAB);
    struct deq_tokenizer *toks[4] = {gpt2(), parse_tokenizer(json.data), NULL, NULL};
    REQUIRE(toks[0] && toks[1]);
    static const char *const regex[] = {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"
        " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}|"
        " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+",
    };
    for (size_t i = 0; i < 2; i++) {
        struct deq_buf pre;
        deq_buf_init(&pre, 4096);
        deq_buf_fmt(&pre,
                    "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
                    "\"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
                    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                    "\"use_regex\": false}]}",
                    regex[i]);
        char *changed = text_with(json.data,
                                  "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                                  "\"use_regex\": true}",
                                  pre.data);
        toks[2 + i] = parse_tokenizer(changed);
        deq_free(changed);
        deq_buf_free(&pre);
    }
    for (size_t k = 0; k < DEQ_COUNT(toks); k++) {
        size_t bad = 0;
        if (!toks[k])
            continue;
        for (unsigned a = 0; a < 256; a++)
            for (unsigned b = 0; b < 256; b++)
                bad += !tokenizer_round_trip(toks[k], (char[]){(char)a, (char)b}, 2);
        for (uint64_t i = 0; i < 3000; i++) {
            char s[600];
            size_t n = deq_rng_below(1, i, 0, sizeof s);
            unsigned style = (unsigned)(i % 3); /* any byte; mostly blanks and quotes; ASCII */
            for (size_t j = 0; j < n; j++) {
                uint64_t r = deq_rng_u64(2, i, j);
                static const char blanks[] = " \n\r\t'se\xe3\x80\x80\xc2\xa0";
                s[j] = style == 0 ? (char)r : style == 1 ? blanks[r % 13] : (char)(32 + r % 95);
            }
            bad += !tokenizer_round_trip(toks[k], s, n);
        }
        CHECK_MSG(bad == 0, "tokenizer %zu: %zu texts", k, bad);
        CHECK(tokenizer_round_trip(toks[k], "", 0));
        deq_tokenizer_free(toks[k]);
    }
    deq_buf_free(&json);
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

static bool ranges_give(const struct deq_tokenizer *tok, const char *s, const struct deq_range *special, size_t n,
                        const uint32_t *want, size_t n_want)
{
    struct deq_tokens t = {0};
    bool ok = !deq_tokenizer_encode_ranges(tok, s, strlen(s), special, n, &t, NULL) && t.n == n_want;
    for (size_t i = 0; i < n_want && ok; i++)
        ok = t.ids[i] == want[i];
    deq_tokens_free(&t);
    return ok;
}

#define RANGES_GIVE(tok, s, special, ...)                                                                    \
    CHECK(ranges_give(tok, s, special, DEQ_COUNT(special), (const uint32_t[]){__VA_ARGS__},                      \
                      DEQ_COUNT(((const uint32_t[]){__VA_ARGS__}))))

/* Special tokens are recognised within a range, and nothing else changes: a token may lie across. */
TEST(special_tokens_in_ranges)
{
    struct deq_tokenizer *tok = gpt2();
    REQUIRE(tok);
    static const char text[] = "a<|endoftext|>b<|endoftext|>c";
    RANGES_GIVE(tok, text, ((const struct deq_range[]){{1, 14}}), 64, 50256, 65, 27, 91, 437, 1659, 5239, 91, 29, 66);
    RANGES_GIVE(tok, text, ((const struct deq_range[]){{0, 2}, {15, 29}}), 64, 27, 91, 437, 1659, 5239, 91, 29, 65,
                50256, 66);
    RANGES_GIVE(tok, text, ((const struct deq_range[]){{0, 13}, {16, 29}}), 64, 27, 91, 437, 1659, 5239, 91, 29, 65,
                27, 91, 437, 1659, 5239, 91, 29, 66); /* neither lies in one whole */
    RANGES_GIVE(tok, "Hello world", ((const struct deq_range[]){{0, 7}}), 15496, 995);
    deq_tokenizer_free(tok);
}

/* SMALL with a special token that is looked for in the normal form, and a normalizer or "null". */
static struct deq_tokenizer *looked_for_in_normal_form(const char *normalizer)
{
    static const char small[] = SMALL, normalized[] = "\"normalized\": false", none[] = "\"normalizer\": null";
    const char *const a = strstr(small, normalized), *const b = strstr(small, none);
    char json[4096];
    snprintf(json, sizeof json, "%.*s\"normalized\": true%.*s\"normalizer\": %s%s", (int)(a - small), small,
             (int)(b - a - (long)strlen(normalized)), a + strlen(normalized), normalizer, b + strlen(none));
    return parse_tokenizer(json);
}

/* Where the text has a normal form, such a token is recognised in pieces that lie in a range whole. */
TEST(special_tokens_in_ranges_of_normal_form)
{
    const struct deq_range all = {0, 8}, begin = {0, 3};
    for (int i = 0; i < 2; i++) {
        struct deq_tokenizer *tok = looked_for_in_normal_form(i ? "{\"type\": \"NFC\"}" : "null");
        REQUIRE(tok);
        CHECK(ranges_give(tok, "<s>ab<s>", &all, 1, (const uint32_t[]){7, 4, 7}, 3));
        CHECK(ranges_give(tok, "<s>", &begin, 1, (const uint32_t[]){7}, 1));
        CHECK(ranges_give(tok, "<s>ab", &begin, 1, (const uint32_t[]){7, 4}, 2) == !i);
        /* "<" has no symbol of its own there */
        struct deq_tokens t = {0};
        CHECK_EQ(deq_tokenizer_encode_ranges(tok, "<s>ab<s>", 8, &begin, 1, &t, NULL), DEQ_EINVAL);
        deq_tokens_free(&t);
        deq_tokenizer_free(tok);
    }
}
