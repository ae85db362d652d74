/* Every loader and every text path: eight times the input may take no more than eight times the time and
 * the memory, times a logarithm.
 *
 * Inputs are made before the clock starts, and must be accepted: what is refused early would prove nothing. Time is a
 * ratio of this thread's processor time within one run (test_growth). Memory is counted by the allocator: what all
 * allocations asked for together, and the most that was held. A buffer that doubles may come to twice as much for the
 * larger input: 16, where a product of two sizes would come to 64. Tokenizers: test_tokenizer_linear.c. */
#include <stdlib.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/base/yaml.h"
#include "core/cell/config.h"
#include "core/data/pickle.h"
#include "core/data/safetensors.h"
#include "core/data/torch_state.h"
#include "core/text/corpus.h"
#include "core/text/tokenizer.h"
#include "core/text/wordlevel.h"
#include "models/cli/bench/sse.h"
#include "server/api/reply.h"
#include "server/api/request.h"
#include "server/auth.h"
#include "tests/unit/test.h"

enum { BYTES_BOUND = 16, BYTES_SLACK = 64 << 10 };

struct path {
    const char *what;
    size_t n; /* of the smaller input */
    void (*build)(struct deq_buf *b, size_t n);
    bool (*run)(const char *bytes, size_t len);
};

struct inputs {
    const struct path *path;
    struct deq_buf input[2]; /* n, 8 n */
    bool ok;
    uint64_t asked[2], held[2];
};

static void work(void *ctx, size_t n)
{
    struct inputs *in = ctx;
    const int big = n > in->path->n;
    const uint64_t asked = deq_mem_bytes(), live = deq_mem_live();
    deq_mem_peak_restart();
    in->ok = in->path->run(in->input[big].data, in->input[big].len) && in->ok;
    in->asked[big] = deq_mem_bytes() - asked;
    in->held[big] = deq_mem_peak() - live;
}

static void check_paths(const struct path *paths, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct inputs in = {.path = &paths[i], .ok = true};
        for (int big = 0; big < 2; big++) {
            deq_buf_init(&in.input[big], 256 << 20);
            deq_buf_str(&in.input[big], "");
            paths[i].build(&in.input[big], paths[i].n * (big ? 8 : 1));
        }
        CHECK_LINEAR(work, &in, paths[i].n, "%s", paths[i].what);
        CHECK_MSG(in.ok, "%s: refused", paths[i].what);
        CHECK_MSG(in.asked[1] <= BYTES_BOUND * in.asked[0] + BYTES_SLACK &&
                      in.held[1] <= BYTES_BOUND * in.held[0] + BYTES_SLACK,
                  "%s: %llu and %llu bytes asked for, %llu and %llu held", paths[i].what,
                  (unsigned long long)in.asked[0], (unsigned long long)in.asked[1], (unsigned long long)in.held[0],
                  (unsigned long long)in.held[1]);
        deq_buf_free(&in.input[0]);
        deq_buf_free(&in.input[1]);
    }
}

static void repeat(struct deq_buf *b, const char *unit, size_t n)
{
    for (size_t i = 0; i < n; i++)
        deq_buf_str(b, unit);
}

/* ---- files ---- */

static void many_tensors(struct deq_buf *b, size_t n)
{
    struct deq_buf head;
    deq_buf_init(&head, 64 << 20);
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(&head, "%s\"layer.%zu.weight\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [%zu, %zu]}",
                    i ? ", " : "{", i, 4 * (n - 1 - i), 4 * (n - i));
    deq_buf_str(&head, "}");
    const uint64_t len = head.len;
    deq_buf_add(b, &len, 8);
    deq_buf_add(b, head.data, head.len);
    for (size_t i = 0; i < n; i++)
        deq_buf_add(b, "\0\0\0\0", 4);
    deq_buf_free(&head);
}

static bool read_tensors(const char *s, size_t len)
{
    struct deq_safetensors *f;
    if (deq_safetensors_parse(s, len, "x", &f, NULL))
        return false;
    bool found = true;
    for (size_t i = 0; i < deq_safetensors_count(f); i++)
        found = deq_safetensors_find(f, deq_safetensors_at(f, i)->name) && found;
    deq_safetensors_close(f);
    return found;
}

static const char config_head[] =
    "{\"model_type\": \"deq_transformer\", \"vocab_size\": 10, \"hidden_size\": 4, \"num_attention_heads\": 1, "
    "\"head_dim\": 4, \"intermediate_size\": 4, \"attention_window\": 4, \"norm\": \"pre\", \"training\": {\"a\": [";

static void config_keys(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, config_head);
    deq_buf_str(b, "0]");
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(b, ", \"key%zu\": %zu", i, i);
    deq_buf_str(b, "}}");
}

static void config_items(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, config_head);
    repeat(b, "1.5, ", n);
    deq_buf_str(b, "0]}}");
}

static bool read_config(const char *s, size_t len)
{
    struct deq_arch *a;
    if (deq_config_parse(s, len, "x", &a, NULL))
        return false;
    deq_free(a);
    return true;
}

static enum deq_rc on_item(void *ctx, const struct deq_yaml_item *item, struct deq_err *err)
{
    (void)err;
    *(size_t *)ctx += item->line;
    return DEQ_OK;
}

static bool read_yaml(const char *s, size_t len)
{
    size_t lines = 0;
    return !deq_yaml_walk(s, len, "x", on_item, &lines, NULL) && lines;
}

static void yaml_keys(struct deq_buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(b, "a_rather_long_key_with_a_common_beginning_%zu: %zu\n", i, i);
}

static void yaml_items(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, "a:\n");
    repeat(b, "- bc\n", n);
}

static void yaml_flow(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, "a: [");
    repeat(b, "b, ", n);
    deq_buf_str(b, "c]\n");
}

static void yaml_scalar(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, "a: \"");
    repeat(b, "b\\n ", n);
    deq_buf_str(b, "\"\n");
}

static void yaml_comments(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, "a: 1\n");
    repeat(b, "#\n\n", n);
}

static void yaml_brackets(struct deq_buf *b, size_t n)
{
    repeat(b, "[", n);
}

/* Refused, but by libyaml only after a time that grows with the square of the depth. */
static bool refuse_yaml(const char *s, size_t len)
{
    size_t lines = 0;
    return deq_yaml_walk(s, len, "x", on_item, &lines, NULL) == DEQ_EFORMAT;
}

static void keys_file(struct deq_buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(b, "name%zu %064zx weight=3\n", i, i * 7919);
}

static bool read_keys(const char *s, size_t len)
{
    char path[] = "/tmp/deq-linear-XXXXXX";
    const int fd = mkstemp(path);
    struct auth *a = NULL;
    const bool ok = fd >= 0 && write(fd, s, len) == (ssize_t)len && !auth_new(path, &a, NULL);
    auth_free(a);
    if (fd >= 0)
        close(fd);
    unlink(path);
    return ok;
}

static void pickle_entries(struct deq_buf *b, size_t n)
{
    deq_buf_add(b, "\x80\x02}(", 4);
    for (size_t i = 0; i < n; i++) {
        deq_buf_add(b, "X\x08\0\0\0", 5);
        deq_buf_fmt(b, "%08zu", i);
        deq_buf_add(b, "r", 1);
        deq_buf_add(b, &(uint32_t){(uint32_t)i}, 4); /* into the memo */
        deq_buf_add(b, "K\x01", 2);
    }
    deq_buf_str(b, "u.");
}

/* n lists, each of which grows by an item now and then */
static void pickle_appends(struct deq_buf *b, size_t n)
{
    deq_buf_add(b, "\x80\x02]r\0\0\0\0", 8);
    for (size_t i = 0; i < n; i++)
        deq_buf_add(b, "]K\x01" "aa", 5);
    deq_buf_str(b, ".");
}

static bool read_pickle(const char *s, size_t len)
{
    struct deq_pickle *p;
    if (deq_pickle_parse(s, len, "x", NULL, 0, &p, NULL))
        return false;
    deq_pickle_free(p);
    return true;
}

static void torch_tensors(struct deq_buf *b, size_t n)
{
    static const char head[] =
        "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
        "X\x01\0\0\0" "0X\x03\0\0\0cpuK\x04tQK\0K\x01\x85K\x01\x85\x89}tR";
    deq_buf_add(b, "\x80\x02}(", 4);
    for (size_t i = 0; i < n; i++) {
        deq_buf_add(b, "X\x08\0\0\0", 5);
        deq_buf_fmt(b, "%08zu", n - i);
        deq_buf_add(b, head, sizeof head - 1);
    }
    deq_buf_str(b, "u.");
}

static bool find_storage(void *ctx, const char *key, size_t key_len, uint64_t *ret_storage, uint64_t *ret_bytes)
{
    (void)ctx;
    (void)key;
    (void)key_len;
    *ret_storage = 0;
    *ret_bytes = 16;
    return true;
}

static bool read_torch(const char *s, size_t len)
{
    struct deq_torch_state state;
    struct deq_err err;
    if (deq_torch_state_parse(s, len, "x", find_storage, NULL, &state, &err)) {
        printf("%s\n", err.text);
        return false;
    }
    deq_torch_state_free(&state);
    return true;
}

TEST(files_are_linear)
{
    static const struct path paths[] = {
        {"safetensors: tensors", 2000, many_tensors, read_tensors},
        {"config.json: keys", 2500, config_keys, read_config},
        {"config.json: items", 10000, config_items, read_config},
        {"YAML: keys", 120, yaml_keys, read_yaml},
        {"YAML: items", 5000, yaml_items, read_yaml},
        {"YAML: items of a flow sequence", 8000, yaml_flow, read_yaml},
        {"YAML: a scalar", 6000, yaml_scalar, read_yaml},
        {"YAML: comments", 8000, yaml_comments, read_yaml},
        {"YAML: brackets", 8000, yaml_brackets, refuse_yaml},
        {"keys file", 128, keys_file, read_keys},
        {"pickle: entries and memo", 8000, pickle_entries, read_pickle},
        {"pickle: appends", 8000, pickle_appends, read_pickle},
        {"pickle: tensors", 4000, torch_tensors, read_torch},
    };
    check_paths(paths, DEQ_COUNT(paths));
}

/* ---- texts ---- */

static void crlf_lines(struct deq_buf *b, size_t n)
{
    repeat(b, "a b\r\n<|endoftext|>\r\n", n);
}

static void only_cr(struct deq_buf *b, size_t n)
{
    repeat(b, "\r", n);
    deq_buf_str(b, "a");
}

/* cleaned, and cut into documents */
static bool read_corpus(const char *s, size_t len)
{
    char *copy = deq_alloc(len + 1);
    const char *doc;
    size_t at = 0, doc_len, n = 0;
    memcpy(copy, s, len);
    const bool ok = !deq_text_clean("x", copy, &len, NULL);
    while (ok && deq_corpus_next(copy, len, &at, &doc, &doc_len))
        n += doc_len + 1;
    deq_free(copy);
    return ok && n;
}

static void same_words(struct deq_buf *b, size_t n)
{
    repeat(b, "word ", n);
}

static void other_words(struct deq_buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        deq_buf_fmt(b, "word%zu%s", i, i % 8 ? " " : "\n");
}

static void one_word(struct deq_buf *b, size_t n)
{
    repeat(b, "a", n);
}

static bool count_words(const char *s, size_t len)
{
    struct deq_wordcount c;
    if (deq_wordcount_init(&c, NULL))
        return false;
    const bool ok = !deq_wordcount_add(&c, "x", s, len, NULL);
    deq_wordcount_free(&c);
    return ok;
}

static void on_event(void *ctx, const char *data, size_t n)
{
    (void)data;
    *(size_t *)ctx += n + 1;
}

/* in pieces of one byte: what a slow server sends */
static bool read_stream(const char *s, size_t len)
{
    struct sse p;
    size_t n = 0;
    sse_init(&p);
    bool ok = true;
    for (size_t i = 0; ok && i < len; i++)
        ok = sse_push(&p, s + i, 1, on_event, &n);
    ok = ok && sse_end(&p, on_event, &n);
    sse_free(&p);
    return ok && n;
}

static void long_event(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, "data: ");
    repeat(b, "abcdefgh", n);
}

static void data_lines(struct deq_buf *b, size_t n)
{
    repeat(b, "data: a\r", n);
}

static void events(struct deq_buf *b, size_t n)
{
    repeat(b, ":c\nevent: e\ndata: a\n\n", n);
}

/* A text whose every end almost is a stop string: as long as the text, and of period two. Bytes come one at a time. */
static bool stop_texts(const char *s, size_t len)
{
    char *long_one = deq_alloc(len);
    memcpy(long_one, s, len);
    long_one[len - 1] = '!';
    const char *stops[] = {long_one, "ababababababababababababababababababababababababababababababababababac", "!!"};
    const size_t lens[] = {len, strlen(stops[1]), 2};
    struct deq_text *t;
    struct deq_buf out;
    deq_buf_init(&out, 64 << 20);
    if (deq_text_new(stops, lens, 3, &t, NULL))
        return false;
    int met = -1;
    for (size_t i = 0; i < len; i++)
        met = deq_text_push(t, s + i, 1, &out);
    deq_text_end(t, &out);
    const bool same = out.len == len && !memcmp(out.data, s, len);
    deq_text_free(t);
    deq_buf_free(&out);
    deq_free(long_one);
    return met == -1 && same;
}

static void two_letters(struct deq_buf *b, size_t n)
{
    repeat(b, "ab", n);
}

static void to_escape(struct deq_buf *b, size_t n)
{
    repeat(b, "\"\\\n\x01\xc3\xa9\x7f", n);
}

static bool escape(const char *s, size_t len)
{
    struct deq_buf out;
    deq_buf_init(&out, 64 << 20);
    reply_string(&out, s, len);
    const bool ok = !out.failed;
    deq_buf_free(&out);
    return ok;
}

static bool json_text(const char *s, size_t len)
{
    struct deq_buf out;
    deq_buf_init(&out, 64 << 20);
    reply_json(&out, json_pack("{s:o}", "text", reply_text(s, len)));
    const bool ok = !out.failed;
    deq_buf_free(&out);
    return ok;
}

TEST(texts_are_linear)
{
    static const struct path paths[] = {
        {"corpus: lines of CR LF, separators", 4000, crlf_lines, read_corpus},
        {"corpus: carriage returns", 20000, only_cr, read_corpus},
        {"counting: the same words", 10000, same_words, count_words},
        {"counting: other words", 4000, other_words, count_words},
        {"counting: one word", 20000, one_word, count_words},
        {"events: a long one", 10000, long_event, read_stream},
        {"events: data lines", 10000, data_lines, read_stream},
        {"events: many", 4000, events, read_stream},
        {"stop strings", 4000, two_letters, stop_texts},
        {"JSON string", 10000, to_escape, escape},
        {"JSON text", 10000, to_escape, json_text},
    };
    check_paths(paths, DEQ_COUNT(paths));
}

/* ---- bodies of requests ---- */

static struct request_context context;

static bool completion(const char *s, size_t len)
{
    struct completion_request r;
    struct request_error err;
    if (!request_completion(&context, strstr(s, "\"messages\"") != NULL, s, len, &r, &err)) {
        printf("%s\n", err.message);
        return false;
    }
    completion_request_free(&r);
    return true;
}

static void list_body(struct deq_buf *b, const char *head, const char *unit, const char *last, size_t n)
{
    deq_buf_str(b, head);
    repeat(b, unit, n);
    deq_buf_str(b, last);
}

static void prompt_text(struct deq_buf *b, size_t n) { list_body(b, "{\"prompt\": \"", "a b\\u0000", "\"}", n); }
static void prompt_ids(struct deq_buf *b, size_t n) { list_body(b, "{\"prompt\": [", "17, ", "3]}", n); }
static void prompts(struct deq_buf *b, size_t n) { list_body(b, "{\"prompt\": [", "\"a\", ", "\"b\"]}", n - 1); }
static void stop_strings(struct deq_buf *b, size_t n)
{
    list_body(b, "{\"prompt\": \"a\", \"stop\": [", "\"abc\", ", "\"b\"]}", n - 1);
}
static void messages(struct deq_buf *b, size_t n)
{
    list_body(b, "{\"max_tokens\": 1, \"messages\": [", "{\"role\": \"user\", \"content\": \"a\"}, ",
              "{\"role\": \"user\", \"content\": \"b\"}]}", n - 1);
}
static void blanks(struct deq_buf *b, size_t n) { list_body(b, "{\"prompt\": \"a\"", " \n", "}", n); }

static void biases(struct deq_buf *b, size_t n)
{
    deq_buf_str(b, "{\"prompt\": \"a\", \"logit_bias\": {\"0\": 1");
    for (size_t i = 1; i < n; i++)
        deq_buf_fmt(b, ", \"%zu\": 1", i);
    deq_buf_str(b, "}}");
}

TEST(requests_are_linear)
{
    static const struct path paths[] = {
        {"a prompt", 8000, prompt_text, completion},
        {"token ids", 8000, prompt_ids, completion},
        {"prompts", 16, prompts, completion},
        {"stop strings", 8, stop_strings, completion},
        {"messages", 500, messages, completion},
        {"biases", 40, biases, completion},
        {"blanks", 20000, blanks, completion},
    };
    struct deq_model *m = NULL;
    struct conf conf;
    struct deq_err e;
    REQUIRE(deq_model_load("tests/golden/tiny", NULL, &m, &e) == DEQ_OK &&
            deq_opt_defaults(&conf_table, &conf, &e) == DEQ_OK);
    snprintf(conf.chat_message, sizeof conf.chat_message, "{role}: {content}\n");
    conf.max_stop = 64;
    conf.answer_bytes = (uint64_t)1 << 30; /* the answer that so many positions allow is not what is measured */
    context = (struct request_context){.model = m, .conf = &conf, .model_name = "tiny", .max_positions = 1 << 24,
                                       .max_rows = 256};
    if (m)
        check_paths(paths, DEQ_COUNT(paths));
    deq_model_free(m);
}

/* ---- word-level texts ---- */

static struct deq_tokenizer *words;

static bool encode_words(const char *s, size_t len)
{
    struct deq_tokens t = {0};
    struct deq_buf back;
    deq_buf_init(&back, 64 << 20);
    const bool ok = !deq_tokenizer_encode(words, s, len, false, &t, NULL) &&
                    !deq_tokenizer_decode(words, t.ids, t.n, false, &back, NULL);
    deq_buf_free(&back);
    deq_tokens_free(&t);
    return ok;
}

static void white(struct deq_buf *b, size_t n) { repeat(b, " \n\t", n); }
static void combining(struct deq_buf *b, size_t n) { repeat(b, "e\xcc\x81\xcc\x81", n); }
static void faces(struct deq_buf *b, size_t n) { repeat(b, "\xf0\x9f\x98\x80\xe2\x80\x8d", n); }
static void digits(struct deq_buf *b, size_t n) { repeat(b, "1234567890", n); }
static void specials(struct deq_buf *b, size_t n) { repeat(b, "<eos> <|endoftext|> <unk>", n); }

/* Encoding and decoding: of words, and of bytes. */
TEST(encode_and_decode_are_linear)
{
    static const struct path paths[] = {
        {"the same words", 2000, same_words, encode_words}, {"other words", 1000, other_words, encode_words},
        {"a long word", 5000, one_word, encode_words}, {"white space", 2000, white, encode_words},
        {"combining marks", 1500, combining, encode_words}, {"faces", 1500, faces, encode_words},
        {"digits", 1500, digits, encode_words}, {"special tokens", 1000, specials, encode_words},
    };
    char made[] = "/tmp/deq-linear-XXXXXX";
    const int fd = mkstemp(made);
    const char *const models[] = {"tests/golden/tokenizer/gpt2", "tests/golden/tiny", made};
    CHECK(fd >= 0 && !deq_wordlevel_from_vocab("tests/golden/tokenizer/wordlevel/vocab.txt", 0, made, NULL, NULL));
    close(fd);
    for (size_t i = 0; i < DEQ_COUNT(models); i++) {
        struct deq_err err = {0};
        CHECK_MSG(!deq_tokenizer_load(models[i], &words, &err), "%s", err.text);
        if (!err.code)
            check_paths(paths, DEQ_COUNT(paths));
        deq_tokenizer_free(words);
        words = NULL;
    }
    unlink(made);
}
