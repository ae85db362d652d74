#include "core/train/dataset.h"

#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/base/text.h"
#include "core/text/corpus.h"

enum { STREAM_OFFSET = 101, STREAM_ORDER = 102 }; /* streams of the generator, by use */

static void shuffle(struct deq_dataset *d, uint64_t epoch)
{
    d->epoch = epoch;
    for (size_t i = 0; i < d->n_seq; i++)
        d->order[i] = (uint32_t)i;
    for (size_t i = d->n_seq - 1; i > 0; i--) {
        size_t j = (size_t)deq_rng_below(d->seed, STREAM_ORDER + (epoch << 8), i, i + 1);
        uint32_t t = d->order[i];
        d->order[i] = d->order[j];
        d->order[j] = t;
    }
}

enum deq_rc deq_dataset_path(const char *dir, const char **files, char ret_path[4096], struct deq_err *err)
{
    const char *name = *files;
    const size_t n = strcspn(name, "\n");
    *files += n + (name[n] == '\n');
    const int len = name[0] == '/' ? snprintf(ret_path, 4096, "%.*s", (int)n, name)
                                   : snprintf(ret_path, 4096, "%s/%.*s", dir, (int)n, name);
    return len >= 0 && len < 4096 ? DEQ_OK : deq_fail(err, DEQ_EINVAL, "%.*s: path too long", (int)n, name);
}

enum deq_rc deq_dataset_check(const char *dir, const char *files, struct deq_err *err)
{
    char path[4096];
    struct deq_file f = {.fd = -1};
    enum deq_rc rc = DEQ_OK;
    while (*files && !rc) {
        if ((rc = deq_dataset_path(dir, &files, path, err)) || (rc = deq_file_open(path, &f, err)))
            break;
        if (!f.bytes)
            rc = deq_fail(err, DEQ_EINVAL, "%s: no text in it", path);
        deq_file_close(&f);
    }
    return rc;
}

enum deq_rc deq_dataset_read(const char *path, float share, bool tail, char **ret_text, size_t *ret_len,
                             struct deq_err *err)
{
    char *text;
    size_t len;
    enum deq_rc rc = deq_text_read(path, DEQ_DATASET_TEXT_MAX, &text, &len, err);
    if (rc)
        return rc;
    const size_t at = deq_corpus_split(text, len, share);
    if (tail)
        memmove(text, text + at, len - at);
    *ret_text = text;
    *ret_len = tail ? len - at : at;
    return DEQ_OK;
}

enum deq_rc deq_dataset_load(const struct deq_tokenizer *tok, int64_t bos, int64_t eos, const char *dir,
                             const char *files, float held_back, size_t seq_len, uint64_t seed,
                             struct deq_dataset **ret, struct deq_err *err)
{
    struct deq_dataset *d = DEQ_NEW(struct deq_dataset);
    if (!d)
        return deq_fail(err, DEQ_ENOMEM, "no memory for the data set");
    enum deq_rc rc = DEQ_OK;
    /* a stream begins like a document: after an end of text */
    if (eos >= 0 && !deq_tokens_push(&d->tokens, (uint32_t)eos))
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for the data set");
    for (const char *f = files; *f && !rc;) {
        char path[4096], *text;
        size_t len, before = d->tokens.n;
        uint64_t bytes = 0;
        if ((rc = deq_dataset_path(dir, &f, path, err)) ||
            (rc = deq_dataset_read(path, held_back, false, &text, &len, err)))
            break;
        rc = deq_corpus_encode(tok, bos, eos, text, len, &d->tokens, &bytes, err);
        deq_free(text);
        if (!rc && d->tokens.n == before)
            rc = deq_fail(err, DEQ_EINVAL, "%s: no text in it", path);
        d->text_bytes += bytes;
    }
    if (!rc && d->tokens.n < 2 * seq_len + 1)
        rc = deq_fail(err, DEQ_EINVAL,
                      "%s: %zu tokens are too few for sequences of %zu: lower train.seq_len, or take more text", files,
                      d->tokens.n, seq_len);
    if (!rc) {
        d->seq_len = seq_len;
        d->seed = seed;
        d->n_seq = (d->tokens.n - 1 - seq_len) / seq_len;
        d->order = DEQ_NEW_ARRAY(uint32_t, d->n_seq);
        if (!d->order)
            rc = deq_fail(err, DEQ_ENOMEM, "no memory for the data set");
    }
    if (rc) {
        deq_dataset_free(d);
        return rc;
    }
    shuffle(d, 0);
    *ret = d;
    return DEQ_OK;
}

void deq_dataset_free(struct deq_dataset *d)
{
    if (!d)
        return;
    deq_tokens_free(&d->tokens);
    deq_free(d->order);
    deq_free(d);
}

void deq_dataset_batch(struct deq_dataset *d, uint64_t step, size_t batch, uint32_t *tokens, uint32_t *targets)
{
    for (size_t b = 0; b < batch; b++) {
        const uint64_t i = step * batch + b, epoch = i / d->n_seq;
        if (epoch != d->epoch)
            shuffle(d, epoch);
        const size_t offset = (size_t)deq_rng_below(d->seed, STREAM_OFFSET, epoch, d->seq_len);
        const uint32_t *from = d->tokens.ids + offset + (size_t)d->order[i % d->n_seq] * d->seq_len;
        memcpy(tokens + b * d->seq_len, from, d->seq_len * sizeof *from);
        memcpy(targets + b * d->seq_len, from + 1, d->seq_len * sizeof *from);
    }
}
