/* Files into checked structs: config.json and weights, and both without memory. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/data/config.h"
#include "core/data/safetensors.h"
#include "core/data/weights.h"
#include "core/math/half.h"
#include "core/text/corpus.h"
#include "tests/unit/test.h"

static char dir[256];

static const char *in_dir(const char *name)
{
    static char path[8][512];
    static unsigned next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static bool make_dir(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/deq-data-XXXXXX", base && *base ? base : "/tmp");
    if (mkdtemp(dir))
        return true;
    SKIP("no temporary directory");
    return false;
}

/* Removes the named files; the directory must then be empty: no temporary file was left behind. */
static void drop_dir(const char *a, const char *b)
{
    if (a)
        unlink(in_dir(a));
    if (b)
        unlink(in_dir(b));
    CHECK(!rmdir(dir));
}

/* --- config.json --- */

static const struct key {
    const char *name, *good;
    bool required;
    const char *bad[6];
} keys[] = {
    {"model_type", "\"deq_transformer\"", true, {"\"gpt2\"", "3", "null"}},
    {"format_version", "1", false, {"2", "0", "\"1\"", "1.0"}},
    {"vocab_size", "100", true, {"1", "4194305", "-1", "100.0", "\"100\"", "9223372036854775807"}},
    {"hidden_size", "32", true, {"0", "16386", "33", "-32", "true"}},
    {"num_attention_heads", "4", true, {"0", "1025", "4294967300", "[]"}},
    {"head_dim", "8", true, {"0", "1025", "8.5"}},
    {"intermediate_size", "64", true, {"0", "262145", "null"}},
    {"num_blocks", "1", false, {"0", "17", "{}"}},
    {"attention_window", "96", true, {"0", "65537", "-1"}},
    {"predictor_hidden_size", "0", false, {"65537", "-1", "false"}},
    {"eos_token_id", "99", false, {"100", "-1", "4294967295", "\"</s>\"", "null"}},
    {"norm", "\"pre\"", true, {"\"rms\"", "\"\"", "1"}},
    {"norm_affine", "true", false, {"1", "\"true\"", "null"}},
    {"inject_residual", "false", false, {"0", "\"no\""}},
    {"final_norm", "true", false, {"2", "[]"}},
    {"tie_word_embeddings", "true", false, {"null", "1"}},
    {"embedding_size", "32", false, {"0", "16385", "\"32\""}},
    {"div_val", "1", false, {"0", "1025", "null"}},
    {"cutoffs", "[]", false, {"3", "[0]", "[100]", "[1.5]", "[1, 2, 3, 4, 5, 6, 7, 8]"}},
    {"tie_projections", "[true]", false, {"[]", "[1]", "true"}},
    {"head_bias", "false", false, {"0", "null"}},
    {"segment_length", "0", false, {"65537", "-1"}},
    {"segment_memory", "0", false, {"65537", "-1"}},
    {"norm_eps", "1e-05", false, {"0", "-1e-5", "0.2", "\"1e-5\"", "true"}},
    {"deq", "{}", false, {"[]", "3", "null"}},
    {"training", "{\"steps\": 5}", false, {NULL}},
    {"deq.solver", "\"anderson\"", false, {"\"newton\"", "1"}},
    {"deq.stop_mode", "\"rel\"", false, {"\"both\"", "null"}},
    {"deq.warm_start", "\"zero\"", false, {"\"cold\"", "0", "\"predictor\""}}, /* there is no predictor */
    {"deq.max_iter", "32", false, {"0", "100001", "3.5"}},
    {"deq.min_iter", "1", false, {"-1", "100001", "33"}},
    {"deq.memory", "3", false, {"0", "17", "\"3\""}},
    {"deq.window", "8", false, {"0", "65", "[8]"}},
    {"deq.tol", "0.01", false, {"-0.1", "10.5", "\"0\"", "null"}},
    {"deq.beta", "1", false, {"0", "1.01", "-1", "true"}},
    {"deq.reg", "0.0001", false, {"-1", "1.5", "\"\""}},
};

/* The good configuration with one key replaced (value) or left out (value NULL), and text added inside the root or deq object. */
static size_t config_text(char *out, size_t cap, const char *key, const char *value, const char *root_extra, const char *deq_extra)
{
    struct deq_buf b;
    deq_buf_init(&b, cap - 1);
    deq_buf_str(&b, "{");
    const char *comma = "";
    bool whole_deq = key && !strcmp(key, "deq");
    for (size_t i = 0; i < DEQ_COUNT(keys); i++) {
        const char *v = key && !strcmp(key, keys[i].name) ? value : keys[i].good;
        if (!v || !strncmp(keys[i].name, "deq.", 4) || (!strcmp(keys[i].name, "deq") && !whole_deq))
            continue;
        deq_buf_fmt(&b, "%s\"%s\": %s", comma, keys[i].name, v);
        comma = ", ";
    }
    if (!whole_deq) {
        deq_buf_str(&b, ", \"deq\": {");
        comma = "";
        for (size_t i = 0; i < DEQ_COUNT(keys); i++) {
            const char *v = key && !strcmp(key, keys[i].name) ? value : keys[i].good;
            if (!v || strncmp(keys[i].name, "deq.", 4))
                continue;
            deq_buf_fmt(&b, "%s\"%s\": %s", comma, keys[i].name + 4, v);
            comma = ", ";
        }
        deq_buf_fmt(&b, "%s}", deq_extra);
    }
    deq_buf_fmt(&b, "%s}", root_extra);
    CHECK(!b.failed);
    const size_t n = b.len;
    memcpy(out, b.data, n + 1);
    deq_buf_free(&b);
    return n;
}

static enum deq_rc parse_with(const char *key, const char *value, struct deq_arch *a, struct deq_err *e)
{
    char text[4096];
    size_t n = config_text(text, sizeof text, key, value, "", "");
    memset(e, 0, sizeof *e);
    return deq_config_parse(text, n, "config.json", a, e);
}

TEST(config_keys)
{
    struct deq_arch a = {0};
    struct deq_err e;
    CHECK_MSG(!parse_with(NULL, NULL, &a, &e), "%s", e.text);
    CHECK(a.vocab.size == 100 && a.vocab.d_model == 32 && a.n_head == 4 && a.d_head == 8 && a.d_inner == 64 && a.n_block == 1 && a.attn_window == 96 &&
          a.norm == DEQ_NORM_PRE && a.norm_affine && !a.inject_residual && a.final_norm && a.norm_eps == 1e-5f && a.vocab.eos_id == 99 &&
          a.predictor_hidden == 0 && a.serving.row_window == 8 && a.serving.warm == DEQ_WARM_ZERO && a.serving.solver.method == DEQ_ANDERSON &&
          a.serving.solver.stop == DEQ_STOP_REL && a.serving.solver.memory == 3 && a.serving.solver.max_iter == 32 && a.serving.solver.min_iter == 1 &&
          a.serving.solver.tol == 0.01f && a.serving.solver.beta == 1 && a.serving.solver.reg == 1e-4f);
    CHECK(deq_inject_dim(&a) == 96);
    a.inject_residual = true;
    CHECK(deq_inject_dim(&a) == 128);

    for (size_t i = 0; i < DEQ_COUNT(keys); i++) {
        const struct key *k = &keys[i];
        struct deq_arch before = {.vocab.size = 7}, got = before;
        char want[80];
        enum deq_rc rc = parse_with(k->name, NULL, &got, &e);
        snprintf(want, sizeof want, "config.json: %s: missing", k->name);
        CHECK_MSG(k->required ? rc == DEQ_EFORMAT && !strcmp(e.text, want) && got.vocab.size == 7 : !rc, "without %s: %s", k->name, e.text);
        for (size_t j = 0; j < DEQ_COUNT(k->bad) && k->bad[j]; j++) {
            got = before;
            rc = parse_with(k->name, k->bad[j], &got, &e);
            const char *leaf = strncmp(k->name, "deq.", 4) ? k->name : k->name + 4;
            CHECK_MSG(rc < 0 && e.code == rc && got.vocab.size == 7, "%s: %s", k->name, k->bad[j]);
            CHECK_MSG(strstr(e.text, "config.json: ") && strstr(e.text, leaf), "%s: %s: \"%s\"", k->name, k->bad[j], e.text);
        }
    }
    /* the ends of every range, as the messages print them */
    static const struct {
        const char *key, *value;
    } edge[] = {{"vocab_size", "4194304"}, {"hidden_size", "16384"}, {"hidden_size", "2"}, {"num_attention_heads", "1024"}, {"head_dim", "1024"},
                {"head_dim", "1"}, {"intermediate_size", "262144"}, {"num_blocks", "16"}, {"attention_window", "65536"},
                {"attention_window", "1"}, {"predictor_hidden_size", "65536"}, {"eos_token_id", "0"}, {"norm_eps", "1e-12"}, {"norm_eps", "0.1"},
                {"norm", "\"post\""}, {"norm", "\"pre_sub\""}, {"deq.max_iter", "100000"}, {"deq.max_iter", "1"}, {"deq.min_iter", "0"},
                {"deq.memory", "16"}, {"deq.memory", "1"}, {"deq.window", "64"}, {"deq.window", "1"}, {"deq.tol", "10"},
                {"deq.beta", "0.001"}, {"deq.reg", "0"}, {"deq.reg", "1"}, {"deq.solver", "\"picard\""}, {"deq.solver", "\"broyden\""},
                {"deq.stop_mode", "\"abs\""}, {"deq.warm_start", "\"previous\""}, {"deq", "{}"}};
    for (size_t i = 0; i < DEQ_COUNT(edge); i++)
        CHECK_MSG(!parse_with(edge[i].key, edge[i].value, &a, &e), "%s = %s: %s", edge[i].key, edge[i].value, e.text);
    /* a fixed number of steps is taken from zero, one row at a time */
    CHECK(parse_with("deq.tol", "0", &a, &e) == DEQ_EFORMAT && strstr(e.text, "deq.window"));
    a.serving.solver.tol = 0;
    a.serving.row_window = 1;
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_OK);
    a.serving.warm = DEQ_WARM_PREVIOUS;
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_EFORMAT);
}

TEST(config_of_another_kind_of_model)
{
    static const char llama[] = "{\"model_type\": \"llama\", \"vocab_size\": 7}";
    struct deq_arch a;
    struct deq_err e;
    CHECK(deq_config_parse(llama, sizeof llama - 1, "config.json", &a, &e) == DEQ_EFORMAT && strstr(e.text, "model_type: ") &&
          strstr(e.text, "\"llama\"") && strstr(e.text, "only deep equilibrium models are served") && strstr(e.text, "deq import"));
}

TEST(config_structure)
{
    static const struct {
        const char *root, *deq, *says;
    } t[] = {
        {", \"hidden_sise\": 3", "", "hidden_sise: unknown key"},
        {"", ", \"momentum\": 3", "deq.momentum: unknown key"},
        {", \"tol\": 0.1", "", "tol: unknown key"},
        {", \"vocab_size\": 100", "", "config.json: line 1"}, /* a second time */
        {"", ", \"tol\": 0.1", "config.json: line 1"},
        {", \"a\\nb\": 3", "", "a?b: unknown key"},
        {", \"chat\": []", "", "chat: expected an object"},
        {", \"chat\": {\"reply\": \"\"}", "", "chat.message: missing"},
        {", \"chat\": {\"message\": \"{role}\"}", "", "chat.message: must hold {content}"},
        {", \"chat\": {\"message\": \"{content}\", \"stop\": 1}", "", "chat.stop: expected a string"},
        {", \"chat\": {\"message\": \"{content}\", \"tail\": \"\"}", "", "chat.tail: unknown key"},
        {", \"chat\": {\"message\": \"{content}\", \"stop\": "
         "\"0123456789012345678901234567890123456789012345678901234567890123\"}",
         "", "of at most 63 bytes"},
    };
    struct deq_arch a = {.vocab.size = 7};
    struct deq_err e;
    char text[4096];
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        size_t n = config_text(text, sizeof text, NULL, NULL, t[i].root, t[i].deq);
        CHECK(deq_config_parse(text, n, "config.json", &a, &e) == DEQ_EFORMAT && a.vocab.size == 7);
        CHECK_MSG(strstr(e.text, t[i].says), "\"%s\" lacks \"%s\"", e.text, t[i].says);
    }
    static const char *const broken[] = {"", "[]", "3", "{", "{} x", "\xff", "{\"vocab_size\": 01}", "null"};
    for (size_t i = 0; i < DEQ_COUNT(broken); i++)
        CHECK_MSG(deq_config_parse(broken[i], strlen(broken[i]), "config.json", &a, &e) == DEQ_EFORMAT && strstr(e.text, "config.json: "), "%s",
                  broken[i]);
    size_t n = config_text(text, sizeof text, NULL, NULL, "", "");
    for (size_t cut = 0; cut < n; cut += 7) {
        char *copy = malloc(cut ? cut : 1); /* of exactly that size, for the sanitizer */
        memcpy(copy, text, cut);
        CHECK(deq_config_parse(copy, cut, "config.json", &a, &e) == DEQ_EFORMAT);
        free(copy);
    }
    CHECK(deq_config_load("/nonexistent/config.json", &a, &e) == DEQ_ENOTFOUND && a.vocab.size == 7);
    for (int i = 0; i < 3; i++) {
        enum deq_warm warm = DEQ_WARM_ZERO;
        CHECK(deq_warm_by_name(deq_warm_name((enum deq_warm)i), &warm) && (int)warm == i);
        CHECK(!deq_warm_by_name("", &warm) && (int)warm == i);
    }
}

static struct deq_arch tiny(enum deq_norm norm, bool affine)
{
    return (struct deq_arch){.vocab.size = 37, .vocab.d_model = 12, .n_head = 3, .d_head = 5, .d_inner = 20, .n_block = 2, .attn_window = 40,
                             .norm = norm, .norm_affine = affine, .inject_residual = !affine, .final_norm = affine, .norm_eps = 1e-5f,
                             .vocab.eos_id = 0, .predictor_hidden = affine ? 9 : 0, .serving.solver = deq_solver_defaults(), .serving.row_window = 4};
}

static bool same_arch(const struct deq_arch *a, const struct deq_arch *b)
{
    const struct deq_solver_opts *s = &a->serving.solver, *t = &b->serving.solver;
    return a->vocab.size == b->vocab.size && a->vocab.d_model == b->vocab.d_model && a->n_head == b->n_head && a->d_head == b->d_head &&
           a->d_inner == b->d_inner && a->n_block == b->n_block && a->attn_window == b->attn_window && a->norm == b->norm &&
           a->norm_affine == b->norm_affine && a->inject_residual == b->inject_residual && a->final_norm == b->final_norm &&
           a->norm_eps == b->norm_eps && a->vocab.eos_id == b->vocab.eos_id && a->predictor_hidden == b->predictor_hidden &&
           !strcmp(a->chat_message, b->chat_message) && !strcmp(a->chat_reply, b->chat_reply) &&
           !strcmp(a->chat_stop, b->chat_stop) &&
           a->serving.row_window == b->serving.row_window && a->serving.warm == b->serving.warm && s->method == t->method && s->stop == t->stop && s->memory == t->memory &&
           s->max_iter == t->max_iter && s->min_iter == t->min_iter && s->tol == t->tol && s->beta == t->beta && s->reg == t->reg;
}

TEST(config_round_trip)
{
    if (!make_dir())
        return;
    struct deq_err e = {0};
    for (unsigned i = 0; i < 24; i++) {
        struct deq_arch a = tiny((enum deq_norm)(i % 3), i & 1), b = {0};
        a.serving.solver = (struct deq_solver_opts){.method = (enum deq_solver_method)(i / 3 % 3), .stop = i & 2 ? DEQ_STOP_ABS : DEQ_STOP_REL,
                                            .memory = 1 + i % 16, .max_iter = 20 + i, .min_iter = i, .tol = 1.25e-4f * (float)(i + 1),
                                            .beta = 1.0f / (float)(1 + i), .reg = i & 4 ? 0 : 1e-6f};
        a.serving.warm = a.predictor_hidden ? (enum deq_warm)(i / 2 % 3) : DEQ_WARM_ZERO;
        a.vocab.eos_id = (int64_t)i % 5 - 1;
        a.norm_eps = i & 1 ? 1e-5f : 1e-12f;
        a.serving.row_window = 1 + i * 2;
        if (i & 2) {
            strcpy(a.chat_message, "<{role}> {content}\n");
            strcpy(a.chat_reply, i & 4 ? "<assistant>" : "");
            strcpy(a.chat_stop, i & 8 ? "\n<" : "");
        }
        /* the file keeps seven digits so that 0.01 reads 0.01; numbers that people write have fewer */
        char digits[32];
        snprintf(digits, sizeof digits, "%.6g", (double)a.serving.solver.beta);
        a.serving.solver.beta = strtof(digits, NULL);
        snprintf(digits, sizeof digits, "%.6g", (double)a.serving.solver.tol);
        a.serving.solver.tol = strtof(digits, NULL);
        CHECK_MSG(!deq_config_save(in_dir("c"), &a, i & 1 ? "{\"data\": \"x\", \"steps\": 12}" : NULL, &e), "%s", e.text);
        CHECK_MSG(!deq_config_load(in_dir("c"), &b, &e), "case %u: %s", i, e.text);
        CHECK_MSG(same_arch(&a, &b), "case %u", i);
        char *text;
        size_t n;
        CHECK(!deq_io_read(in_dir("c"), 1 << 20, &text, &n, &e));
        CHECK(!(i & 1) == !strstr(text, "\"steps\": 12"));
        deq_free(text);
    }
    drop_dir("c", NULL);
}

TEST(config_smallest_beta_can_be_given_and_reloaded)
{
    if (!make_dir())
        return;
    struct deq_err e = {0};
    struct deq_arch a = tiny(DEQ_NORM_PRE, false), b;
    a.serving.solver.beta = 1e-3f; /* the smallest value that the message allows */
    CHECK(!deq_config_save(in_dir("c"), &a, NULL, &e));
    CHECK_MSG(!deq_config_load(in_dir("c"), &b, &e), "%s", e.text);
    drop_dir("c", NULL);
}

TEST(config_arch_check)
{
    struct deq_err e;
    struct deq_arch good = tiny(DEQ_NORM_PRE, true), a;
    CHECK(!deq_arch_check(&good, "here", &e));
#define BAD(change, word)                                                                                                     \
    do {                                                                                                                      \
        a = good;                                                                                                             \
        change;                                                                                                               \
        memset(&e, 0, sizeof e);                                                                                              \
        CHECK_MSG(deq_arch_check(&a, "here", &e) < 0 && strstr(e.text, "here: ") && strstr(e.text, word), "%s: %s", word, e.text); \
    } while (0)
    BAD(a.vocab.size = 1, "vocab_size");
    BAD(a.vocab.d_model = 0, "hidden_size");
    BAD(a.vocab.d_model = 7, "hidden_size");
    BAD(a.n_head = 0, "num_attention_heads");
    BAD(a.d_head = 2000, "head_dim");
    BAD(a.d_inner = 0, "intermediate_size");
    BAD(a.n_block = 17, "num_blocks");
    BAD(a.attn_window = 0, "attention_window");
    BAD(a.predictor_hidden = 1 << 17, "predictor_hidden_size");
    BAD(a.serving.row_window = 0, "deq.window");
    BAD(a.serving.row_window = DEQ_ROW_WINDOW_MAX + 1, "deq.window");
    BAD(a.vocab.eos_id = 37, "eos_token_id");
    BAD((a.serving.warm = DEQ_WARM_PREDICTOR, a.predictor_hidden = 0), "warm_start");
    BAD(a.serving.solver.memory = 0, "memory");
#undef BAD
}

TEST(config_clusters)
{
    if (!make_dir())
        return;
    struct deq_arch a = tiny(DEQ_NORM_POST, false), b = {0};
    struct deq_err e = {0};
    a.vocab.n_cutoffs = 2;
    a.vocab.cutoffs[0] = 10;
    a.vocab.cutoffs[1] = 30;
    a.vocab.d_embed = 16;
    a.vocab.div_val = 4;
    a.vocab.head_bias = a.vocab.head_untied = true;
    a.vocab.proj_untied[1] = true;
    a.segment_len = 150;
    a.segment_memory = 480;
    CHECK_MSG(!deq_config_save(in_dir("c"), &a, NULL, &e) && !deq_config_load(in_dir("c"), &b, &e), "%s", e.text);
    CHECK(b.vocab.n_cutoffs == 2 && b.vocab.cutoffs[0] == 10 && b.vocab.cutoffs[1] == 30 && b.vocab.d_embed == 16 && b.vocab.div_val == 4 && b.vocab.head_bias && b.vocab.head_untied &&
          !b.vocab.proj_untied[0] && b.vocab.proj_untied[1] && !b.vocab.proj_untied[2] && b.segment_len == 150 && b.segment_memory == 480);
    CHECK(deq_clusters(&b.vocab) == 3 && deq_cluster_begin(&b.vocab, 2) == 30 && deq_cluster_size(&b.vocab, 2) == 7 && deq_cluster_embed(&b.vocab, 2) == 1 && deq_projects(&b.vocab));
    CHECK(deq_cluster_of(&b.vocab, 0) == 0 && deq_cluster_of(&b.vocab, 9) == 0 && deq_cluster_of(&b.vocab, 10) == 1 && deq_cluster_of(&b.vocab, 36) == 2);
    a.vocab.div_val = 5; /* 16 / 25 */
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_EFORMAT && strstr(e.text, "cluster 2"));
    a.vocab.div_val = 4;
    a.vocab.cutoffs[1] = 10; /* not above the one before */
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_EFORMAT && strstr(e.text, "cutoffs: 10"));
    drop_dir("c", NULL);
}

/* --- weights --- */

static struct deq_weights *random_weights(const struct deq_arch *a, uint64_t seed)
{
    struct deq_weights *w = NULL;
    CHECK(!deq_weights_new(a, &w, NULL));
    for (size_t i = 0; w && i < w->n_params; i++)
        for (size_t j = 0; j < w->params[i].count; j++)
            w->data[w->params[i].offset + j] = (float)deq_rng_normal(seed, i, j);
    return w;
}

TEST(weights_layout)
{
    for (unsigned c = 0; c < 6; c++) {
        struct deq_arch a = tiny((enum deq_norm)(c % 3), c < 3);
        struct deq_weights *w = random_weights(&a, 1);
        if (!w)
            return;
        size_t at = 0, total = 0;
        for (size_t i = 0; i < w->n_params; i++) {
            const struct deq_param *p = &w->params[i];
            CHECK(p->offset == at && p->offset % 16 == 0 && p->count == (p->rows ? p->rows : 1) * p->cols);
            at = DEQ_ROUND_UP(p->offset + p->count, (size_t)16);
            total += p->count;
            for (size_t j = 0; j < i; j++)
                CHECK(strcmp(w->params[j].name, p->name));
        }
        CHECK(w->n == at && (uintptr_t)w->data % 64 == 0);
        /* V D + L (U D + U + 3 H Dh D + H Dh D + 2 H Dh + D H Dh + D + F D + F + D F + D + norms) + final norm + predictor */
        const size_t V = 37, D = 12, HD = 15, F = 20, U = 3 * HD + (c < 3 ? 0 : D), norms = c < 3 ? 4 * D + (c % 3 == 2 ? 2 * HD : 0) : 0;
        CHECK(total == V * D + 2 * (U * D + U + 4 * HD * D + 2 * HD + D * HD + D + F * D + F + D * F + D + norms) +
                           (c < 3 ? 2 * D + 9 * D + 9 * D + 9 + D * 9 + D : 0));
        CHECK((c < 3) == (w->final_norm_g != NULL) && (c < 3) == (w->pred_b != NULL) && (c < 3) == (w->block[1].ffn_norm_b != NULL));
        CHECK((c == 2) == (w->block[0].sub_norm_g != NULL) && w->embed[0] == w->data);
        CHECK(c < 3 ? w->pred_tok_w == w->data + w->n_main : w->n_main == w->n);
        deq_weights_free(w);
    }
    deq_weights_free(NULL);
}

TEST(weights_round_trip)
{
    if (!make_dir())
        return;
    struct deq_err e = {0};
    for (unsigned c = 0; c < 6; c++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            struct deq_arch a = tiny((enum deq_norm)(c % 3), c < 3);
            struct deq_weights *w = random_weights(&a, 2 + c), *r = NULL;
            bool was_bf16 = !bf16;
            if (!w)
                return;
            CHECK_MSG(!deq_weights_save(in_dir("w"), w, bf16, &e), "%s", e.text);
            CHECK_MSG(!deq_weights_load(in_dir("w"), &a, &r, &was_bf16, &e), "%s", e.text);
            CHECK(was_bf16 == bf16);
            bool same = r && r->n == w->n;
            for (size_t i = 0; same && i < w->n; i++)
                same = r->data[i] == (bf16 ? deq_bf16_to_f32(deq_f32_to_bf16(w->data[i])) : w->data[i]);
            CHECK_MSG(same, "case %u bf16=%d", c, bf16);
            deq_weights_free(r);
            r = NULL;
            CHECK(!deq_weights_load(in_dir("w"), &a, &r, NULL, &e));
            deq_weights_free(r);
            deq_weights_free(w);
        }
    drop_dir("w", NULL);
}

/* The tensors of w as deq_safetensors_write takes them. */
static size_t as_tensors(const struct deq_weights *w, struct deq_tensor_out *out)
{
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        out[i] = (struct deq_tensor_out){.name = p->name, .dtype = DEQ_F32, .n_dims = p->rows ? 2 : 1,
                                         .shape = {p->rows ? p->rows : p->cols, p->cols}, .data = w->data + p->offset};
    }
    return w->n_params;
}

static void refused(const struct deq_tensor_out *t, size_t n, const struct deq_arch *a, const char *name, const char *says)
{
    struct deq_err e = {0};
    struct deq_weights *r = NULL;
    bool bf16 = true;
    CHECK(!deq_safetensors_write(in_dir("w"), t, n, NULL, &e));
    CHECK_MSG(deq_weights_load(in_dir("w"), a, &r, &bf16, &e) == DEQ_EFORMAT && !r && bf16, "%s %s", name, says);
    CHECK_MSG(strstr(e.text, "/w: tensor ") && strstr(e.text, name) && strstr(e.text, says), "\"%s\" lacks \"%s\" or \"%s\"", e.text, name, says);
    deq_weights_free(r);
}

TEST(weights_that_do_not_fit)
{
    if (!make_dir())
        return;
    struct deq_arch a = tiny(DEQ_NORM_PRE_SUB, true);
    struct deq_weights *w = random_weights(&a, 3);
    struct deq_tensor_out t[80], u[80];
    struct deq_err e = {0};
    if (!w)
        return;
    const size_t n = as_tensors(w, t);
    CHECK(n < DEQ_COUNT(t));
    for (size_t i = 0; i < n; i++) {
        char says[100];
        const struct deq_param *p = &w->params[i];
        memcpy(u, t, sizeof t); /* missing */
        u[i] = t[n - 1];
        refused(u, n - 1, &a, t[i].name, "missing");
        memcpy(u, t, sizeof t); /* one column less */
        if (p->rows) {
            u[i].shape[1]--;
            snprintf(says, sizeof says, "expected [%zu, %zu]", p->rows, p->cols);
        } else {
            u[i].shape[0]--;
            snprintf(says, sizeof says, "expected [%zu]", p->cols);
        }
        refused(u, n, &a, t[i].name, says);
        memcpy(u, t, sizeof t); /* the right number of elements in another shape */
        u[i].n_dims = p->rows ? 1 : 2;
        u[i].shape[0] = p->rows ? p->count : 1;
        u[i].shape[1] = p->cols;
        refused(u, n, &a, t[i].name, says);
        memcpy(u, t, sizeof t); /* the right sizes and one dimension more */
        u[i].shape[u[i].n_dims++] = 1;
        refused(u, n, &a, t[i].name, says);
        memcpy(u, t, sizeof t); /* a name that nobody knows */
        u[i].name = "blocks.0.attn.qkv.weights";
        refused(u, n, &a, t[i].name, "missing");
        const size_t last = p->offset + p->count - 1;
        const float was = w->data[last];
        snprintf(says, sizeof says, "element %zu is not finite", p->count - 1);
        w->data[last] = i % 2 ? NAN : -INFINITY;
        refused(t, n, &a, t[i].name, says);
        w->data[last] = was;
    }
    memcpy(u, t, sizeof t);
    u[n] = (struct deq_tensor_out){.name = "lm_head.weight", .dtype = DEQ_F32, .n_dims = 1, .shape = {1}, .data = w->data};
    refused(u, n + 1, &a, "lm_head.weight", "not part of a model");
    u[n].name = "blocks.2.ffn.up.bias"; /* one block too many */
    refused(u, n + 1, &a, "blocks.2.ffn.up.bias", "not part of a model");
    memcpy(u, t, sizeof t);
    int64_t ints[64] = {0};
    for (size_t i = 0; i < n; i++)
        if (!strcmp(u[i].name, "blocks.1.attn_norm.bias")) {
            u[i].dtype = DEQ_I64;
            u[i].data = ints;
        }
    refused(u, n, &a, "blocks.1.attn_norm.bias", "I64");
    /* mixed dtypes are fine, but that is not a bf16 model */
    uint16_t half[64] = {0};
    memcpy(u, t, sizeof t);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(u[i].name, "blocks.1.attn_norm.bias")) {
            u[i].dtype = DEQ_BF16;
            u[i].data = half;
        }
    struct deq_weights *r = NULL;
    bool bf16 = true;
    CHECK(!deq_safetensors_write(in_dir("w"), u, n, NULL, &e) && !deq_weights_load(in_dir("w"), &a, &r, &bf16, &e) && !bf16);
    deq_weights_free(r);
    /* a model without a predictor refuses the file of one that has it, and the other way round */
    struct deq_arch plain = a;
    plain.predictor_hidden = 0;
    refused(t, n, &plain, "predictor.", "not part of a model");
    r = NULL;
    CHECK(deq_weights_load(in_dir("none"), &a, &r, NULL, &e) == DEQ_ENOTFOUND && !r);
    deq_weights_free(w);
    drop_dir("w", NULL);
}

TEST(weights_sinusoid)
{
    float p[12], zero[12];
    deq_sinusoid(5, 12, p);
    deq_sinusoid(0, 12, zero);
    for (int i = 0; i < 6; i++) {
        double angle = 5 * exp(-log(10000.0) * i / 6);
        /* rounded once from double; exp/log here and pow there differ by a few 1e-16 of an angle below 5 */
        CHECK(fabs((double)p[i] - sin(angle)) < 1e-7 && fabs((double)p[6 + i] - cos(angle)) < 1e-7);
        CHECK(zero[i] == 0 && zero[6 + i] == 1);
    }
}

/* Loads a model with the nth allocation failing, for every n, until it succeeds. jansson allocates by itself and is not hit. */
static unsigned load_under_faults(void)
{
    for (unsigned n = 1; n < 200; n++) {
        struct deq_arch a = {0};
        struct deq_weights *w = NULL;
        struct deq_err e = {0};
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_config_load(in_dir("c"), &a, &e);
        if (!rc)
            rc = deq_weights_load(in_dir("w"), &a, &w, NULL, &e);
        deq_mem_fault(0, false);
        if (!rc) {
            CHECK(w && a.vocab.d_model == 12);
            deq_weights_free(w);
            return n;
        }
        CHECK_MSG(rc == DEQ_ENOMEM && e.code == rc && e.text[0] && !w, "allocation %u: %s: %s", n, deq_rc_name(rc), e.text);
    }
    return 0;
}

TEST(loading_without_memory)
{
    if (!make_dir())
        return;
    struct deq_arch a = tiny(DEQ_NORM_PRE, true);
    a.vocab.size = 8000; /* the block is then 400 KB: one leaked block stands out */
    struct deq_weights *w = random_weights(&a, 5);
    struct deq_err e = {0};
    if (!w)
        return;
    CHECK(!deq_config_save(in_dir("c"), &a, NULL, &e) && !deq_weights_save(in_dir("w"), w, false, &e));
    unsigned n = load_under_faults();
    CHECK_MSG(n > 5, "%u", n); /* config text; file, path, tensors; weights, block, table */
#if defined(__GLIBC__)
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < 3; i++)
        CHECK(load_under_faults() == n);
    struct mallinfo2 after = mallinfo2();
    /* blocks that free() keeps for reuse count as used, hence not zero; a sanitizer build sees leaks exactly */
    CHECK_MSG(after.uordblks + after.hblkhd <= before.uordblks + before.hblkhd + 32768, "%zu bytes more",
              after.uordblks + after.hblkhd - before.uordblks - before.hblkhd);
#endif
    /* saving: the old file stays */
    for (n = 1; n < 100; n++) {
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_weights_save(in_dir("w"), w, true, &e);
        deq_mem_fault(0, false);
        if (!rc)
            break;
        struct deq_weights *r = NULL;
        bool bf16 = true;
        CHECK(rc == DEQ_ENOMEM && !deq_weights_load(in_dir("w"), &a, &r, &bf16, &e) && !bf16);
        deq_weights_free(r);
    }
    CHECK(n > 2 && n < 100);
    deq_weights_free(w);
    drop_dir("c", "w");
}
