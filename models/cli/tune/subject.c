/* What is tuned: a model directory, and the text by which its settings are compared. */
#include <jansson.h>
#include <stdlib.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/json_fields.h"
#include "core/base/mem.h"
#include "core/base/text.h"
#include "core/cell/config.h"
#include "core/text/corpus.h"
#include "models/cli/tune/tune.h"

enum { CONFIG_MAX_BYTES = 1 << 20 };

enum deq_rc tune_open(const char *dir, size_t limit, unsigned threads, struct tune_subject **ret, struct deq_err *err)
{
    struct tune_subject *s = DEQ_NEW(struct tune_subject);
    if (!s)
        return deq_fail(err, DEQ_ENOMEM, "no memory to tune");
    s->threads = threads;
    s->limit = limit;
    enum deq_rc rc = DEQ_OK;
    if (!deq_io_is_dir(dir))
        rc = deq_fail(err, DEQ_ENOTFOUND, "%s: not a directory", *dir ? dir : "\"\"");
    else if (!deq_io_join(s->weights_path, sizeof s->weights_path, dir, "model.safetensors"))
        rc = deq_fail(err, DEQ_EINVAL, "%s: path too long", dir);
    if (!rc) {
        deq_io_join(s->config_path, sizeof s->config_path, dir, "config.json"); /* shorter than the name above */
        rc = deq_config_load(s->config_path, &s->arch, err);
    }
    if (!rc && !(s->arch->serving.solver.tol > 0))
        rc = deq_fail(err, DEQ_EINVAL, "%s: deq.tol is 0, a fixed number of steps: there is nothing to choose",
                      s->config_path);
    const uint32_t positions = rc ? 0 : s->arch->kind->shape(s->arch, 0, 0, 1).max_positions; /* 0: any number */
    if (positions && positions < TUNE_PIECE)
        rc = deq_fail(err, DEQ_EINVAL, "%s: of %u positions a text has at most there is not room for the %d that "
                      "generation is timed on", s->config_path, positions, TUNE_PIECE);
    if (!rc)
        rc = deq_tokenizer_load(dir, &s->tokenizer, err);
    if (rc)
        tune_close(s);
    else
        *ret = s;
    return rc;
}

enum deq_rc tune_add_text(struct tune_subject *s, const char *text, size_t len, struct deq_err *err)
{
    const int64_t bos = deq_vocab_bos(&s->arch->vocab), eos = s->arch->vocab.eos_id;
    uint64_t bytes;
    /* as behind the end of another */
    if (!s->tokens.n && bos < 0 && eos >= 0 && !deq_tokens_push(&s->tokens, (uint32_t)eos))
        return deq_fail(err, DEQ_ENOMEM, "no memory for the tokens");
    return s->tokens.n < s->limit ? deq_corpus_encode(s->tokenizer, bos, eos, text, len, &s->tokens, &bytes, err)
                                  : DEQ_OK;
}

enum deq_rc tune_prepare(struct tune_subject *s, struct deq_err *err)
{
    s->tokens.n = DEQ_MIN(s->tokens.n, s->limit);
    if (s->tokens.n < TUNE_TOKENS_MIN)
        return deq_fail(err, DEQ_EINVAL, "%zu tokens are too few to compare settings by: at least %d are needed",
                        s->tokens.n, TUNE_TOKENS_MIN);
    s->n_blocks = (s->tokens.n - 1) / TUNE_BLOCK;
    s->n_portions = DEQ_ROUND_UP(s->n_blocks * TUNE_BLOCK, (size_t)TUNE_PORTION) / TUNE_PORTION;
    s->block = DEQ_NEW_ARRAY(double, s->n_blocks);
    s->exact_block = DEQ_NEW_ARRAY(double, s->n_blocks);
    return s->block && s->exact_block ? DEQ_OK
                                      : deq_fail(err, DEQ_ENOMEM, "no memory for %zu tokens", s->tokens.n);
}

void tune_close(struct tune_subject *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < DEQ_CLASS_COUNT; i++)
        deq_weights_free(s->weights[i]);
    deq_tokenizer_free(s->tokenizer);
    deq_tokens_free(&s->tokens);
    deq_free(s->block);
    deq_free(s->exact_block);
    deq_free(s->arch);
    deq_free(s);
}

/* The text of "training" in a config.json, or NULL; free() */
static enum deq_rc read_training(const char *path, char **ret, struct deq_err *err)
{
    char *text;
    size_t len;
    json_t *root = NULL;
    enum deq_rc rc = deq_text_read(path, CONFIG_MAX_BYTES, &text, &len, err);
    if (rc)
        return rc;
    rc = deq_fields_parse(text, len, path, &root, err);
    deq_free(text);
    if (rc)
        return rc;
    const json_t *training = json_object_get(root, "training");
    *ret = deq_json_text(training, 0);
    if (training && !*ret)
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", path);
    json_decref(root);
    return rc;
}

enum deq_rc tune_save(const struct tune_subject *s, const struct deq_serving *set, struct deq_err *err)
{
    char *training = NULL;
    enum deq_rc rc = read_training(s->config_path, &training, err);
    struct deq_arch *a = rc ? NULL : deq_arch_copy(s->arch);
    if (!rc && !a)
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to write it", s->config_path);
    if (!rc) {
        a->serving = *set;
        rc = deq_config_save(s->config_path, a, training, err);
    }
    deq_free(a);
    free(training); /* jansson's */
    return rc;
}
