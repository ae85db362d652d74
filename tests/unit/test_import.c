/* core/import/import.c: sources by their model_type, a constructor's arguments, a directory that appears whole or not
 * at all. */
#include "core/import/import.h"

#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define TRANSFORMER "tests/golden/authors/locuslab-postln-adaptive/"
#define TRELLIS "tests/golden/authors/trellis-plain/"

static bool said(const struct deq_err *err, const char *what)
{
    if (!strstr(err->text, what))
        printf("  it says: %s\n", err->text);
    return strstr(err->text, what);
}

TEST(import_list)
{
    char known[256], little[12];
    deq_import_list(known, sizeof known);
    CHECK_EQ(known, "locuslab-deq-transformer, torchdeq-seq, torchdeq-lm, locuslab-deq-trellisnet, "
                    "locuslab-trellisnet, attractor, parcae, huginn_raven");
    deq_import_list(little, sizeof little);
    CHECK_EQ(little, "locuslab-de");
}

/* Of a configuration alone: it is read before the checkpoint is. */
TEST(import_refuses_arguments)
{
    static const struct {
        const char *config, *says;
    } cases[] = {
        {"{}", "model_type: missing, expected one of locuslab-deq-transformer, torchdeq-seq"},
        {"{\"model_type\": 3}", "model_type: not a string, expected one of "},
        {"{\"model_type\": \"gpt2\"}", "model_type: gpt2, expected one of "},
        {"{\"model_type\": \"locuslab-trellisnet\"}", "ntoken: missing, expected the constructor's argument"},
        {"{\"model_type\": \"torchdeq-lm\", \"n_token\": null}", "n_token: missing, expected the constructor's"},
        {"{\"model_type\": \"torchdeq-lm\", \"n_token\": 10, \"d_model\": 8, \"n_head\": 2, \"d_head\": 4, "
         "\"d_inner\": 8, \"d_modle\": 8}", "d_modle: 8: not an argument of the constructor that is known here"},
        {"{\"model_type\": \"locuslab-deq-transformer\", \"n_token\": 10, \"d_model\": 8, \"n_head\": 3, "
         "\"d_head\": 4, \"d_inner\": 8}", "n_head: 3 heads of d_head 4 are not d_model 8"},
        {"{\"model_type\": \"torchdeq-seq\", \"n_token\": 10, \"d_model\": 8, \"n_head\": 2, \"d_head\": 4, "
         "\"d_inner\": 8, \"norm\": \"spectral_norm\"}", "norm: \"spectral_norm\" is not supported"},
        {"{\"model_type\": \"locuslab-deq-trellisnet\", \"n_token\": 10, \"ninp\": 4, \"nhid\": 4, \"nout\": 5}",
         "nout: 5 is not ninp 4, which tie_weights needs"},
        {"{\"model_type\": \"locuslab-deq-trellisnet\", \"n_token\": 10, \"ninp\": 4, \"nhid\": 4, \"nout\": 4, "
         "\"n_experts\": 2}", "n_experts: 2: a mixture of softmaxes is not supported"},
        {"{\"model_type\": \"locuslab-trellisnet\", \"ntoken\": 10, \"ninp\": 4, \"nhid\": 4, \"nout\": 4, "
         "\"nlevels\": 3, \"dilation\": [1, 1, 4]}", "dilation[2]: 4 is not supported"},
        {"{", "line 1"},
    };
    CHECK(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_err err = {0};
        struct deq_import_report r;
        scratch_put("args.json", cases[i].config);
        const struct deq_import_opts o = {.checkpoint = "/nowhere.pth", .config = scratch_path("args.json"),
                                          .out_dir = scratch_path("model")};
        CHECK_EQ(deq_import(&o, &r, &err), DEQ_EFORMAT);
        CHECK(said(&err, "args.json: ") && said(&err, cases[i].says));
        CHECK(!deq_io_exists(scratch_path("model")));
    }
    scratch_end("args.json", NULL);
}

static void remove_model(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                                        "README.md"};
    char path[512];
    for (size_t i = 0; i < DEQ_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", scratch_path("model"), names[i]);
        CHECK(!unlink(path));
    }
}

TEST(import_writes_a_directory)
{
    static const struct {
        const char *checkpoint, *config, *variant, *card;
        size_t tensors;
        uint64_t parameters;
    } cases[] = {
        {TRANSFORMER "checkpoint.pth", TRANSFORMER "config.json", "locuslab/deq, post-norm",
         "A deep equilibrium transformer, imported from `checkpoint.pth` (locuslab/deq, post-norm).", 35, 19450},
        {TRELLIS "checkpoint.pth", TRELLIS "config.json", "locuslab/deq, DEQ-TrellisNet",
         "| cell | state_size 36, kernel_size 2, dilation 1, embed_scale false, levels false |", 15, 16488},
    };
    CHECK(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_err err = {0};
        struct deq_import_report r;
        char *card = NULL, path[512];
        size_t len;
        const struct deq_import_opts o = {.checkpoint = cases[i].checkpoint, .config = cases[i].config,
                                          .out_dir = scratch_path("model")};
        CHECK_MSG(deq_import(&o, &r, &err) == DEQ_OK, "%s", err.text);
        CHECK_EQ(r.variant, cases[i].variant);
        CHECK(r.tensors == cases[i].tensors && !r.ignored && r.parameters == cases[i].parameters);
        CHECK_EQ(deq_import(&o, &r, &err), DEQ_EINVAL);
        CHECK(said(&err, "exists already"));
        snprintf(path, sizeof path, "%s/README.md", scratch_path("model"));
        CHECK(!deq_io_read(path, 1 << 16, &card, &len, &err) && strstr(card, cases[i].card));
        deq_free(card);
        remove_model();
        CHECK(!rmdir(scratch_path("model")));
    }
    CHECK(!rmdir(scratch_dir()));
}
