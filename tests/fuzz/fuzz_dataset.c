/* Texts to train on: files, which are cut into documents, held back in part and encoded. Input: letters for the share
 * that is held back, a sequence's length and the ends of documents, one file up to a zero byte, another.
 *
 * What is held back and what is not, cut at a line or a character, are all of a file; documents are its lines but for
 * those that separate them; tokens are those of the documents, and batches are of them, the next ones as targets. */
#include "core/train/dataset.h"

#include "core/base/mem.h"
#include "core/text/corpus.h"
#include "tests/fuzz/fuzz.h"

enum { SHARES = 4, LENGTHS = 8, ENDS = 4, FILES = 2, BATCH = 3, STEPS = 4, MARK = sizeof DEQ_DOCUMENT_END - 1 };

static const float shares[SHARES] = {0, 0.1f, 0.5f, 0.99f};

static const struct deq_tokenizer *tokenizer(void)
{
    static struct deq_tokenizer *tok;
    struct deq_err err;
    FUZZ_HOLDS(tok || !deq_tokenizer_load("tests/golden/tiny", &tok, &err));
    return tok;
}

static bool is_mark(const char *line, size_t n)
{
    return n == MARK && !memcmp(line, DEQ_DOCUMENT_END, MARK);
}

/* What lies between documents, or at an end: marks, and line ends beside them. */
static void check_between(const char *text, size_t begin, size_t end)
{
    for (size_t at = begin; at < end;) {
        const char *eol = memchr(text + at, '\n', end - at);
        const size_t n = eol ? (size_t)(eol - (text + at)) : end - at;
        FUZZ_HOLDS(!n || is_mark(text + at, n));
        at += n + (eol != NULL);
    }
}

/* The documents one behind the other. */
static void check_documents(const char *text, size_t len, struct deq_buf *all)
{
    const char *doc;
    size_t at = 0, n, behind = 0;
    while (deq_corpus_next(text, len, &at, &doc, &n)) {
        const size_t begin = (size_t)(doc - text);
        FUZZ_HOLDS(n && begin >= behind && begin + n <= at && at <= len);
        check_between(text, behind, begin);
        FUZZ_HOLDS(begin + n == len || doc[n] == '\n');
        for (size_t k = 0, line; k < n; k += line + 1) {
            const char *eol = memchr(doc + k, '\n', n - k);
            line = eol ? (size_t)(eol - (doc + k)) : n - k;
            FUZZ_HOLDS(!is_mark(doc + k, line));
        }
        behind = begin + n;
        deq_buf_add(all, doc, n);
    }
    check_between(text, behind, len);
}

/* Without the mark in front, and with line ends of one byte. */
static void check_cleaned(const uint8_t *raw, size_t n, const char *text, size_t len)
{
    size_t at = n >= 3 && !memcmp(raw, "\xef\xbb\xbf", 3) ? 3 : 0, k = 0;
    for (; at < n; at++)
        if (raw[at] != '\r' || at + 1 == n || raw[at + 1] != '\n')
            FUZZ_HOLDS(k < len && (uint8_t)text[k++] == raw[at]);
    FUZZ_HOLDS(k == len && !text[len]);
}

/* What of a file is trained on goes to `all`. False: it is no text, or empty. */
static bool check_file(const char *path, const uint8_t *raw, size_t n_raw, float share, struct deq_buf *all)
{
    struct deq_err err;
    char *whole, *head, *tail;
    size_t n, n_head, n_tail;
    const size_t before = all->len;
    const enum deq_rc rc = deq_dataset_read(path, 0, false, &whole, &n, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return false;
    }
    check_cleaned(raw, n_raw, whole, n);
    FUZZ_HOLDS(!deq_dataset_read(path, share, false, &head, &n_head, &err) &&
               !deq_dataset_read(path, share, true, &tail, &n_tail, &err));
    FUZZ_HOLDS(n_head + n_tail == n && !memcmp(whole, head, n_head) && !memcmp(whole + n_head, tail, n_tail));
    FUZZ_HOLDS(!n_head || !n_tail || head[n_head - 1] == '\n' || ((unsigned char)*tail & 0xc0) != 0x80);
    check_documents(head, n_head, all);
    deq_free(whole);
    deq_free(head);
    deq_free(tail);
    return all->len > before;
}

static void check_tokens(const struct deq_dataset *d, int64_t bos, int64_t eos, const struct deq_buf *all)
{
    struct deq_tokens t = {0};
    struct deq_buf text;
    struct deq_err err;
    for (size_t i = 0; i < d->tokens.n; i++) {
        const int64_t id = d->tokens.ids[i];
        FUZZ_HOLDS(id < deq_tokenizer_vocab_size(tokenizer()));
        if (id != bos && id != eos)
            FUZZ_HOLDS(deq_tokens_push(&t, (uint32_t)id));
    }
    deq_buf_init(&text, 1 << 24);
    FUZZ_HOLDS(!deq_tokenizer_decode(tokenizer(), t.ids, t.n, false, &text, &err));
    FUZZ_HOLDS(text.len == all->len && !memcmp(text.data, all->data, all->len) && d->text_bytes == all->len);
    deq_buf_free(&text);
    deq_tokens_free(&t);
}

static void check_batches(struct deq_dataset *d)
{
    uint32_t x[BATCH * LENGTHS], y[BATCH * LENGTHS], again[BATCH * LENGTHS];
    const size_t T = d->seq_len;
    FUZZ_HOLDS(d->n_seq && (d->n_seq + 1) * T < d->tokens.n);
    for (uint64_t step = 0; step < STEPS; step++) {
        deq_dataset_batch(d, step * d->n_seq, BATCH, x, y);
        for (size_t i = 0; i < BATCH * T; i++)
            FUZZ_HOLDS((i + 1) % T == 0 || x[i + 1] == y[i]);
        deq_dataset_batch(d, step * d->n_seq, BATCH, again, y);
        FUZZ_HOLDS(!memcmp(x, again, BATCH * T * sizeof *x));
    }
}

FUZZ(dataset)
{
    const float share = shares[fuzz_letter(&data, &n, SHARES)];
    const size_t seq_len = 1 + fuzz_letter(&data, &n, LENGTHS);
    const unsigned ends = fuzz_letter(&data, &n, ENDS);
    const int64_t bos = ends & 1 ? 0 : -1, eos = ends & 2 ? 0 : -1; /* the one special token there is */
    const uint8_t *part[FILES] = {data};
    size_t len[FILES];
    char path[128];
    struct deq_buf all;
    struct deq_dataset *d;
    struct deq_err err;
    bool sound = true;
    deq_buf_init(&all, 1 << 24);
    len[0] = fuzz_split(data, n, &part[1], &len[1]);
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%d.txt", i);
        fuzz_put("dataset", path, part[i], len[i]);
        snprintf(path, sizeof path, "%s/%d.txt", fuzz_dir("dataset"), i);
        sound = check_file(path, part[i], len[i], share, &all) && sound;
    }
    const enum deq_rc rc =
        deq_dataset_load(tokenizer(), bos, eos, fuzz_dir("dataset"), "0.txt\n1.txt", share, seq_len, 7, &d, &err);
    FUZZ_HOLDS(sound || rc);
    FUZZ_HOLDS(!all.failed);
    if (rc) {
        fuzz_check_err(rc, &err);
    } else {
        check_tokens(d, bos, eos, &all);
        check_batches(d);
        deq_dataset_free(d);
    }
    deq_buf_free(&all);
}
