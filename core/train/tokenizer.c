#include "core/train/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/text/bpe_train.h"
#include "core/text/corpus.h"
#include "core/train/dataset.h"

static enum deq_rc train(const struct deq_recipe *r, const char *data_dir, struct deq_buf *json, struct deq_err *err)
{
    struct deq_buf text;
    deq_buf_init(&text, DEQ_DATASET_TEXT_MAX);
    enum deq_rc rc = DEQ_OK;
    char path[4096], *data;
    size_t len;
    for (const char *f = r->train_files; *f && !rc;) {
        if ((rc = deq_dataset_path(data_dir, &f, path, err)) ||
            (rc = deq_dataset_read(path, deq_recipe_held_back(r), false, &data, &len, err)))
            break;
        if (!deq_buf_add(&text, data, len) || !deq_buf_str(&text, "\n" DEQ_DOCUMENT_END "\n"))
            rc = deq_fail(err, DEQ_ENOMEM, "no memory for the training text");
        deq_free(data);
    }
    const struct deq_bpe_train_opts opts = {.vocab_size = r->vocab_size};
    if (!rc)
        rc = deq_bpe_train(text.data, text.len, &opts, json, err);
    deq_buf_free(&text);
    return rc;
}

static enum deq_rc read_file(const char *path, struct deq_buf *out, struct deq_err *err)
{
    char *data;
    size_t len;
    enum deq_rc rc = deq_io_read(path, DEQ_TOKENIZER_MAX_FILE_BYTES, &data, &len, err);
    if (rc)
        return rc;
    if (!deq_buf_add(out, data, len))
        rc = deq_fail(err, DEQ_ENOMEM, "%s: no memory to read it", path);
    deq_free(data);
    return rc;
}

/* A tokenizer that is there is used only where it is the one that was asked for. */
static enum deq_rc check_size(const struct deq_recipe *r, const char *path, const struct deq_tokenizer *tok,
                              bool removable, struct deq_err *err)
{
    const uint32_t n = deq_tokenizer_vocab_size(tok);
    if (n == r->vocab_size || (r->of_model && n < r->vocab_size)) /* a model may have rows that are no token's */
        return DEQ_OK;
    return deq_fail(err, DEQ_EINVAL,
                    "%s has %u tokens, but the recipe's data.vocab_size is %u: --set data.vocab_size=%u to use it%s",
                    path, n, r->vocab_size, n, removable ? ", or remove it to train another" : "");
}

/* in_out: MODEL_DIR/tokenizer.json, which is there. from: that of --init, or NULL. */
static enum deq_rc use(const struct deq_recipe *r, const struct deq_train_opts *o, const char *in_out, const char *from,
                       struct deq_tokenizer **ret, struct deq_err *err)
{
    enum deq_rc rc = deq_tokenizer_load(in_out, ret, err);
    if (rc)
        return rc;
    /* the checkpoint was trained with it, and its shapes say whether they fit; a text can give fewer
     * tokens than were asked for */
    if (o->resume)
        return deq_tokenizer_vocab_size(*ret) <= r->vocab_size ? DEQ_OK : check_size(r, in_out, *ret, false, err);
    struct deq_buf here, there;
    deq_buf_init(&here, DEQ_TOKENIZER_MAX_FILE_BYTES);
    deq_buf_init(&there, DEQ_TOKENIZER_MAX_FILE_BYTES);
    rc = check_size(r, in_out, *ret, true, err);
    if (!rc && from && !(rc = read_file(in_out, &here, err)) && !(rc = read_file(from, &there, err)) &&
        (here.len != there.len || memcmp(here.data, there.data, here.len)))
        rc = deq_fail(err, DEQ_EINVAL,
                      "%s is not %s, with which the weights to start from were trained: remove it, or give another "
                      "--out",
                      in_out, from);
    deq_buf_free(&here);
    deq_buf_free(&there);
    return rc;
}

enum deq_rc deq_train_tokenizer(const struct deq_recipe *r, const struct deq_train_opts *o,
                                void (*note)(void *ctx, const char *text), void *ctx, struct deq_tokenizer **ret,
                                struct deq_buf *ret_new, struct deq_err *err)
{
    char path[4096], from[4096], text[4200];
    enum deq_rc rc;
    if (!deq_io_join(path, sizeof path, o->out_dir, "tokenizer.json") ||
        (o->init && !deq_io_join(from, sizeof from, o->init, "tokenizer.json")))
        return deq_fail(err, DEQ_EINVAL, "%s: path too long", o->out_dir);
    if (deq_io_exists(path)) {
        rc = use(r, o, path, o->init ? from : NULL, ret, err);
        snprintf(text, sizeof text, "using %s, %u tokens", path, rc ? 0 : deq_tokenizer_vocab_size(*ret));
        if (!rc)
            note(ctx, text);
        return rc;
    }
    if (o->resume)
        return deq_fail(err, DEQ_ENOTFOUND, "%s: missing; a run goes on with the tokenizer it began with", path);
    if (o->init) {
        snprintf(text, sizeof text, "using %s", from);
        note(ctx, text);
        rc = read_file(from, ret_new, err);
    } else {
        note(ctx, "training the tokenizer");
        rc = train(r, o->data_dir, ret_new, err);
    }
    if (!rc)
        rc = deq_tokenizer_parse(ret_new->data, ret_new->len, o->init ? from : path, ret, err);
    if (!rc && o->init)
        return check_size(r, from, *ret, false, err);
    const uint32_t n = rc ? 0 : deq_tokenizer_vocab_size(*ret);
    snprintf(text, sizeof text, "the training text gives %u tokens, not the %u of data.vocab_size", n, r->vocab_size);
    if (!rc && n != r->vocab_size)
        note(ctx, text);
    return rc;
}
