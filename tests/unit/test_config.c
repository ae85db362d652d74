/* config.json into a checked architecture and back: every key, its range, what it is refused for, and by what name. */
#include "core/cell/config.h"

#include <stdlib.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/cell/transformer.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

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
    {"num_blocks", "1", false, {"0", "129", "{}"}},
    {"attention_window", "96", true, {"0", "65537", "-1"}},
    {"predictor_hidden_size", "0", false, {"65537", "-1", "false"}},
    {"bos_token_id", "98", false, {"100", "-1", "\"<s>\"", "null"}},
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
    {"deq.prefill_window", "0", false, {"-1", "65", "null"}},
    {"deq.tol", "0.01", false, {"-0.1", "10.5", "\"0\"", "null"}},
    {"deq.beta", "1", false, {"0", "1.01", "-1", "true"}},
    {"deq.reg", "0.0001", false, {"-1", "1.5", "\"\""}},
};

/* The good configuration with one key replaced (value) or left out (value NULL), and text added
 * inside the root or deq object. */
static size_t config_text(char *out, size_t cap, const char *key, const char *value, const char *root_extra,
                          const char *deq_extra)
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

static enum deq_rc parse_with(const char *key, const char *value, struct deq_arch **ret, struct deq_err *e)
{
    char text[4096];
    size_t n = config_text(text, sizeof text, key, value, "", "");
    memset(e, 0, sizeof *e);
    return deq_config_parse(text, n, "config.json", ret, e);
}

TEST(config_of_every_key)
{
    struct deq_arch *a = NULL;
    struct deq_err e;
    CHECK_MSG(!parse_with(NULL, NULL, &a, &e), "%s", e.text);
    REQUIRE(a != NULL);
    struct deq_transformer_arch t = *deq_transformer_arch(a);
    const struct deq_solver_opts *s = &a->serving.solver;
    CHECK(a->kind == &deq_transformer_kind && a->vocab.size == 100 && a->vocab.d_model == 32 && a->vocab.eos_id == 99 &&
          a->predictor_hidden == 0);
    CHECK(t.n_head == 4 && t.d_head == 8 && t.d_inner == 64 && t.n_block == 1 && t.attn_window == 96 &&
          t.norm == DEQ_NORM_PRE && t.norm_affine && !t.inject_residual && t.final_norm && t.norm_eps == 1e-5f);
    CHECK(a->serving.row_window == 8 && a->serving.warm == DEQ_WARM_ZERO && s->method == DEQ_ANDERSON &&
          s->stop == DEQ_STOP_REL && s->memory == 3 && s->max_iter == 32 && s->min_iter == 1 && s->tol == 0.01f &&
          s->beta == 1 && s->reg == 1e-4f);
    CHECK_EQ(deq_inject_dim(&t), 96u);
    t.inject_residual = true;
    CHECK_EQ(deq_inject_dim(&t), 128u);
    deq_free(a);
}

TEST(config_refuses_by_key)
{
    struct deq_err e;
    for (size_t i = 0; i < DEQ_COUNT(keys); i++) {
        const struct key *k = &keys[i];
        struct deq_arch *got = NULL;
        char want[80];
        enum deq_rc rc = parse_with(k->name, NULL, &got, &e);
        snprintf(want, sizeof want, "config.json: %s: missing", k->name);
        CHECK_MSG(k->required ? rc == DEQ_EFORMAT && !strncmp(e.text, want, strlen(want)) && !got : !rc,
                  "without %s: %s", k->name, e.text);
        deq_free(got);
        for (size_t j = 0; j < DEQ_COUNT(k->bad) && k->bad[j]; j++) {
            got = NULL;
            rc = parse_with(k->name, k->bad[j], &got, &e);
            const char *leaf = strncmp(k->name, "deq.", 4) ? k->name : k->name + 4;
            CHECK_MSG(rc < 0 && e.code == rc && !got, "%s: %s", k->name, k->bad[j]);
            CHECK_MSG(strstr(e.text, "config.json: ") && strstr(e.text, leaf), "%s: %s: \"%s\"", k->name, k->bad[j],
                      e.text);
            deq_free(got);
        }
    }
}

/* The ends of every range, as the messages print them. */
TEST(config_takes_whole_ranges)
{
    static const struct {
        const char *key, *value;
    } edge[] = {
        {"vocab_size", "4194304"}, {"hidden_size", "16384"}, {"hidden_size", "2"}, {"num_attention_heads", "1024"},
        {"head_dim", "1024"}, {"head_dim", "1"}, {"intermediate_size", "262144"}, {"num_blocks", "128"},
        {"attention_window", "65536"}, {"attention_window", "1"}, {"predictor_hidden_size", "65536"},
        {"eos_token_id", "0"}, {"norm_eps", "1e-12"}, {"norm_eps", "0.1"}, {"norm", "\"post\""},
        {"norm", "\"pre_sub\""}, {"deq.max_iter", "100000"}, {"deq.max_iter", "1"}, {"deq.min_iter", "0"},
        {"deq.memory", "16"}, {"deq.memory", "1"}, {"deq.window", "64"}, {"deq.window", "1"}, {"deq.tol", "10"},
        {"deq.beta", "0.001"}, {"deq.reg", "0"}, {"deq.reg", "1"}, {"deq.solver", "\"picard\""},
        {"deq.solver", "\"broyden\""}, {"deq.stop_mode", "\"abs\""}, {"deq.warm_start", "\"previous\""}, {"deq", "{}"},
    };
    struct deq_err e;
    for (size_t i = 0; i < DEQ_COUNT(edge); i++) {
        struct deq_arch *a = NULL;
        CHECK_MSG(!parse_with(edge[i].key, edge[i].value, &a, &e), "%s = %s: %s", edge[i].key, edge[i].value, e.text);
        deq_free(a);
    }
}

/* A fixed number of steps is taken from zero, one row at a time. */
TEST(config_of_fixed_steps)
{
    struct deq_arch *a = NULL;
    struct deq_err e;
    CHECK(parse_with("deq.tol", "0", &a, &e) == DEQ_EFORMAT && strstr(e.text, "deq.window"));
    REQUIRE(!parse_with(NULL, NULL, &a, &e));
    a->serving.solver.tol = 0;
    a->serving.row_window = 1;
    CHECK(deq_arch_check(a, "c", &e) == DEQ_OK);
    a->serving.warm = DEQ_WARM_PREVIOUS;
    CHECK(deq_arch_check(a, "c", &e) == DEQ_EFORMAT);
    deq_free(a);
}

/* What is no DEQ model is told so, and which kinds there are. */
TEST(config_of_another_kind_of_model)
{
    static const char llama[] = "{\"model_type\": \"llama\", \"vocab_size\": 7}";
    struct deq_arch *a = NULL;
    struct deq_err e;
    char known[256];
    deq_kind_list(known, sizeof known, false);
    CHECK(strstr(known, "deq_transformer"));
    CHECK(deq_config_parse(llama, sizeof llama - 1, "config.json", &a, &e) == DEQ_EFORMAT && !a);
    CHECK_MSG(strstr(e.text, "model_type: \"llama\" is not one of ") && strstr(e.text, known) &&
                  strstr(e.text, "only deep equilibrium models are served") && strstr(e.text, "deq import"),
              "%s", e.text);
    CHECK(parse_with("model_type", NULL, &a, &e) == DEQ_EFORMAT && strstr(e.text, known));
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
        {", \"chat\": {\"message\": \"{role}\"}", "", "chat.message: must hold {content} or {content_trimmed}"},
        {", \"chat\": {\"message\": \"{content}\", \"stop\": 1}", "", "chat.stop: expected a string"},
        {", \"chat\": {\"message\": \"{content}\", \"tail\": \"\"}", "", "chat.tail: unknown key"},
        {", \"chat\": {\"message\": \"{content}\", \"stop\": "
         "\"0123456789012345678901234567890123456789012345678901234567890123\"}",
         "", "of at most 63 bytes"},
    };
    struct deq_arch *a = NULL;
    struct deq_err e;
    char text[4096];
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        size_t n = config_text(text, sizeof text, NULL, NULL, t[i].root, t[i].deq);
        CHECK(deq_config_parse(text, n, "config.json", &a, &e) == DEQ_EFORMAT && !a);
        CHECK_MSG(strstr(e.text, t[i].says), "\"%s\" lacks \"%s\"", e.text, t[i].says);
    }
    static const char *const broken[] = {"", "[]", "3", "{", "{} x", "\xff", "{\"vocab_size\": 01}", "null"};
    for (size_t i = 0; i < DEQ_COUNT(broken); i++)
        CHECK_MSG(deq_config_parse(broken[i], strlen(broken[i]), "config.json", &a, &e) == DEQ_EFORMAT &&
                      strstr(e.text, "config.json: "),
                  "%s", broken[i]);
    size_t n = config_text(text, sizeof text, NULL, NULL, "", "");
    for (size_t cut = 0; cut < n; cut += 7) {
        char *copy = malloc(cut ? cut : 1); /* of exactly that size, for the sanitizer */
        memcpy(copy, text, cut);
        CHECK(deq_config_parse(copy, cut, "config.json", &a, &e) == DEQ_EFORMAT);
        free(copy);
    }
    CHECK(deq_config_load("/nonexistent/config.json", &a, &e) == DEQ_ENOTFOUND && !a);
    for (int i = 0; i < 3; i++) {
        enum deq_warm warm = DEQ_WARM_ZERO;
        CHECK(deq_warm_by_name(deq_warm_name((enum deq_warm)i), &warm) && (int)warm == i);
        CHECK(!deq_warm_by_name("", &warm) && (int)warm == i);
    }
}

static struct deq_transformer_arch tiny(enum deq_norm norm, bool affine)
{
    return (struct deq_transformer_arch){
        .base = {.kind = &deq_transformer_kind, .vocab = {.size = 37, .d_model = 12, .eos_id = 0},
                 .predictor_hidden = affine ? 9 : 0, .serving = {.solver = deq_solver_defaults(), .row_window = 4}},
        .n_head = 3, .d_head = 5, .d_inner = 20, .n_block = 2, .attn_window = 40,
        .norm = norm, .norm_affine = affine, .inject_residual = !affine, .final_norm = affine, .norm_eps = 1e-5f};
}

static bool same_serving(const struct deq_serving *a, const struct deq_serving *b)
{
    const struct deq_solver_opts *s = &a->solver, *t = &b->solver;
    return a->row_window == b->row_window && a->warm == b->warm && s->method == t->method && s->stop == t->stop &&
           s->memory == t->memory && s->max_iter == t->max_iter && s->min_iter == t->min_iter && s->tol == t->tol &&
           s->beta == t->beta && s->reg == t->reg;
}

static bool same_arch(const struct deq_arch *x, const struct deq_arch *y)
{
    const struct deq_transformer_arch *a = deq_transformer_arch(x), *b = deq_transformer_arch(y);
    return x->kind == y->kind && x->vocab.size == y->vocab.size && x->vocab.d_model == y->vocab.d_model &&
           x->vocab.eos_id == y->vocab.eos_id && x->predictor_hidden == y->predictor_hidden &&
           !strcmp(x->chat.begin, y->chat.begin) && !strcmp(x->chat.message, y->chat.message) &&
           !strcmp(x->chat.reply, y->chat.reply) &&
           !strcmp(x->chat.stop, y->chat.stop) && same_serving(&x->serving, &y->serving) && a->n_head == b->n_head &&
           a->d_head == b->d_head && a->d_inner == b->d_inner && a->n_block == b->n_block &&
           a->attn_window == b->attn_window && a->norm == b->norm && a->norm_affine == b->norm_affine &&
           a->inject_residual == b->inject_residual && a->final_norm == b->final_norm && a->norm_eps == b->norm_eps;
}

/* The file keeps seven digits so that 0.01 reads 0.01; numbers that people write have fewer. */
static float as_written(float x)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%.6g", (double)x);
    return strtof(digits, NULL);
}

static struct deq_transformer_arch numbered(unsigned i)
{
    struct deq_transformer_arch t = tiny((enum deq_norm)(i % 4), i & 1);
    struct deq_arch *a = &t.base;
    a->serving.solver = (struct deq_solver_opts){.method = (enum deq_solver_method)(i / 3 % 3),
                                                 .stop = i & 2 ? DEQ_STOP_ABS : DEQ_STOP_REL,
                                                 .memory = 1 + i % 16,
                                                 .max_iter = 20 + i,
                                                 .min_iter = i,
                                                 .tol = as_written(1.25e-4f * (float)(i + 1)),
                                                 .beta = as_written(1.0f / (float)(1 + i)),
                                                 .reg = i & 4 ? 0 : 1e-6f};
    a->serving.warm = a->predictor_hidden ? (enum deq_warm)(i / 2 % 3) : DEQ_WARM_ZERO;
    a->serving.row_window = 1 + i * 2;
    a->vocab.eos_id = (int64_t)i % 5 - 1;
    t.norm_eps = i & 1 ? 1e-5f : 1e-12f;
    if (i & 2)
        strcpy(a->chat.message, i & 4 ? "{content_trimmed}\n" : "<{role}> {content}\n");
    if (i & 2 && i & 4)
        strcpy(a->chat.reply, "<assistant>");
    if (i & 2 && i & 1)
        strcpy(a->chat.begin, "<s>\n");
    if (i & 2 && i & 8)
        strcpy(a->chat.stop, "\n<");
    return t;
}

TEST(config_round_trip)
{
    REQUIRE(scratch_begin());
    struct deq_err e = {0};
    for (unsigned i = 0; i < 24; i++) {
        const struct deq_transformer_arch a = numbered(i);
        struct deq_arch *b = NULL;
        const char *path = scratch_path("c");
        CHECK_MSG(!deq_config_save(path, &a.base, i & 1 ? "{\"data\": \"x\", \"steps\": 12}" : NULL, &e), "%s", e.text);
        CHECK_MSG(!deq_config_load(path, &b, &e), "case %u: %s", i, e.text);
        CHECK_MSG(b && same_arch(&a.base, b), "case %u", i);
        deq_free(b);
        char *text;
        size_t n;
        REQUIRE(!deq_io_read(path, 1 << 20, &text, &n, &e));
        CHECK(!(i & 1) == !strstr(text, "\"steps\": 12"));
        deq_free(text);
    }
    scratch_end("c", NULL);
}

TEST(config_smallest_beta_can_be_given_and_reloaded)
{
    REQUIRE(scratch_begin());
    struct deq_err e = {0};
    struct deq_transformer_arch a = tiny(DEQ_NORM_PRE, false);
    struct deq_arch *b = NULL;
    a.base.serving.solver.beta = 1e-3f; /* the smallest value that the message allows */
    CHECK(!deq_config_save(scratch_path("c"), &a.base, NULL, &e));
    CHECK_MSG(!deq_config_load(scratch_path("c"), &b, &e), "%s", e.text);
    deq_free(b);
    scratch_end("c", NULL);
}

TEST(config_arch_check)
{
    struct deq_err e;
    struct deq_transformer_arch good = tiny(DEQ_NORM_PRE, true), a;
    CHECK(!deq_arch_check(&good.base, "here", &e));
#define BAD(change, word)                                                                                      \
    do {                                                                                                       \
        a = good;                                                                                              \
        change;                                                                                                \
        memset(&e, 0, sizeof e);                                                                               \
        CHECK_MSG(deq_arch_check(&a.base, "here", &e) < 0 && strstr(e.text, "here: ") && strstr(e.text, word), \
                  "%s: %s", word, e.text);                                                                     \
    } while (0)
    BAD(a.base.vocab.size = 1, "vocab_size");
    BAD(a.base.vocab.d_model = 0, "hidden_size");
    BAD(a.base.vocab.d_model = 7, "hidden_size");
    BAD(a.n_head = 0, "num_attention_heads");
    BAD(a.d_head = 2000, "head_dim");
    BAD(a.d_inner = 0, "intermediate_size");
    BAD(a.n_block = 129, "num_blocks");
    BAD(a.attn_window = 0, "attention_window");
    BAD(a.base.predictor_hidden = 1 << 17, "predictor_hidden_size");
    BAD(a.base.serving.row_window = 0, "deq.window");
    BAD(a.base.serving.row_window = DEQ_ROW_WINDOW_MAX + 1, "deq.window");
    BAD(a.base.vocab.eos_id = 37, "eos_token_id");
    BAD((a.base.vocab.has_bos = true, a.base.vocab.bos_id = 37), "bos_token_id");
    BAD((a.base.serving.warm = DEQ_WARM_PREDICTOR, a.base.predictor_hidden = 0), "warm_start");
    BAD(a.base.serving.solver.memory = 0, "memory");
#undef BAD
}

TEST(config_clusters)
{
    REQUIRE(scratch_begin());
    struct deq_transformer_arch a = tiny(DEQ_NORM_POST, false);
    struct deq_arch *b = NULL;
    struct deq_err e = {0};
    a.base.vocab = (struct deq_vocab){.size = 37, .d_model = 12, .n_cutoffs = 2, .cutoffs = {10, 30}, .d_embed = 16,
                                      .div_val = 4, .head_bias = true, .head_untied = true, .proj_untied[1] = true};
    a.base.segment_len = 150;
    a.base.segment_memory = 480;
    CHECK_MSG(!deq_config_save(scratch_path("c"), &a.base, NULL, &e) && !deq_config_load(scratch_path("c"), &b, &e),
              "%s", e.text);
    REQUIRE(b != NULL);
    const struct deq_vocab *v = &b->vocab;
    CHECK(v->n_cutoffs == 2 && v->cutoffs[0] == 10 && v->cutoffs[1] == 30 && v->d_embed == 16 && v->div_val == 4 &&
          v->head_bias && v->head_untied && !v->proj_untied[0] && v->proj_untied[1] && !v->proj_untied[2] &&
          b->segment_len == 150 && b->segment_memory == 480);
    CHECK(deq_clusters(v) == 3 && deq_cluster_begin(v, 2) == 30 && deq_cluster_size(v, 2) == 7 &&
          deq_cluster_embed(v, 2) == 1 && deq_projects(v));
    CHECK(deq_cluster_of(v, 0) == 0 && deq_cluster_of(v, 9) == 0 && deq_cluster_of(v, 10) == 1 &&
          deq_cluster_of(v, 36) == 2);
    deq_free(b);
    a.base.vocab.div_val = 5; /* 16 / 25 */
    CHECK(deq_arch_check(&a.base, "c", &e) == DEQ_EFORMAT && strstr(e.text, "cluster 2"));
    a.base.vocab.div_val = 4;
    a.base.vocab.cutoffs[1] = 10; /* not above the one before */
    CHECK(deq_arch_check(&a.base, "c", &e) == DEQ_EFORMAT && strstr(e.text, "cutoffs: 10"));
    scratch_end("c", NULL);
}
