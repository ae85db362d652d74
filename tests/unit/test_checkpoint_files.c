/* core/import/checkpoint_files.c: a directory's usual names, shards, and what is wrong with them, by name. */
#include "core/import/checkpoint_files.h"

#include <string.h>

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define SHARDS "tests/golden/authors/huginn-zero"

static void refused(const char *path, enum deq_rc rc, const char *says)
{
    struct deq_err err = {0};
    struct deq_checkpoint *c = NULL;
    CHECK_EQ(deq_checkpoint_open(path, &c, &err), rc);
    CHECK_MSG(strstr(err.text, says), "%s", err.text);
}

TEST(checkpoint_files_of_a_directory)
{
    static const struct {
        const char *dir, *file;
        size_t tensors;
        const char *tensor;
        uint64_t rows;
    } cases[] = {
        {"tests/golden/authors/attractor-small", "model.pt", 32, "transformer.wte.weight", 80},
        {"tests/golden/authors/parcae-diagonal", "pytorch_model.bin", 65, "value_embeds.1.weight", 40},
        {SHARDS, "model.safetensors.index.json", 0, "lm_head.weight", 48},
    };
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        struct deq_err err = {0};
        struct deq_checkpoint *c;
        CHECK_MSG(!deq_checkpoint_open(cases[i].dir, &c, &err), "%s", err.text);
        CHECK(strstr(deq_checkpoint_path(c), cases[i].file));
        const struct deq_checkpoint_tensor *t = deq_checkpoint_find(c, cases[i].tensor);
        CHECK(t && t->n_dims == 2 && t->shape[0] == cases[i].rows && t->dtype == DEQ_F32);
        CHECK(!deq_checkpoint_find(c, "transformer.nobody"));
        deq_checkpoint_close(c);
    }
}

TEST(checkpoint_files_that_are_wrong)
{
    CHECK(scratch_begin());
    const char *const index = scratch_path("model.safetensors.index.json");
    refused(scratch_dir(), DEQ_ENOTFOUND, "no weights there, expected model.safetensors");
    scratch_put("step2.pth", "x");
    scratch_put("step1.pth", "x");
    refused(scratch_dir(), DEQ_ENOTFOUND, "or model.pt; there is step1.pth: name that file, and --config FILE");
    scratch_put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"x.safetensors\"}}");
    refused(index, DEQ_ENOTFOUND, "x.safetensors: missing, though ");
    refused(scratch_dir(), DEQ_ENOTFOUND, "says that it holds a");
    scratch_put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"../x.safetensors\"}}");
    refused(index, DEQ_EFORMAT, "weight_map.a: expected the name of a file beside it");
    scratch_put("model.safetensors.index.json", "{\"weight_map\": {\"a\": 3}}");
    refused(index, DEQ_EFORMAT, "weight_map.a: expected the name");
    scratch_put("model.safetensors.index.json", "{\"metadata\": {}}");
    refused(index, DEQ_EFORMAT, "weight_map: expected an object");
    scratch_put("model.safetensors.index.json", "{");
    refused(index, DEQ_EFORMAT, "line 1");
    scratch_put("x.safetensors", "short");
    scratch_put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"x.safetensors\"}}");
    refused(index, DEQ_EFORMAT, "x.safetensors: not a PyTorch checkpoint");
    scratch_end("model.safetensors.index.json", "x.safetensors", "step1.pth", "step2.pth", NULL);
}
