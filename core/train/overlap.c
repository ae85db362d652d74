#include "core/train/overlap.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/text/corpus.h"
#include "core/train/dataset.h"

/* Long lines of the validation text by their hash: open addressing, a power of two of slots of which at most half are
 * taken. */
struct line {
    struct deq_hash hash;
    bool taken, met; /* met: in the training text too */
};

struct lines {
    struct line *slot; /* [n] */
    size_t n;
};

static const struct deq_hash key; /* nobody gains by lines that collide */

/* The slot of a line, or the free one where it would stand. */
static struct line *slot_of(const struct lines *l, const char *text, size_t len)
{
    const struct deq_hash h = deq_siphash(&key, text, len);
    size_t i = (size_t)h.h[0] & (l->n - 1);
    while (l->slot[i].taken && !deq_hash_equal(&l->slot[i].hash, &h))
        i = (i + 1) & (l->n - 1);
    l->slot[i].hash = h;
    return &l->slot[i];
}

/* The next long line of text[*at..len); false at the end. */
static bool next_line(const char *text, size_t len, size_t *at, const char **ret, size_t *ret_len)
{
    while (*at < len) {
        const char *line = text + *at, *eol = memchr(line, '\n', len - *at);
        const size_t n = eol ? (size_t)(eol - line) : len - *at;
        *at += n + (eol != NULL);
        if (n >= DEQ_OVERLAP_LINE_MIN) {
            *ret = line;
            *ret_len = n;
            return true;
        }
    }
    return false;
}

static enum deq_rc take_lines(struct lines *l, const char *text, size_t len, struct deq_err *err)
{
    size_t at = 0, n, count = 0;
    const char *line;
    while (next_line(text, len, &at, &line, &n))
        count++;
    for (l->n = 2; l->n < 2 * count;)
        l->n *= 2;
    if (!(l->slot = DEQ_NEW_ARRAY(struct line, l->n)))
        return deq_fail(err, DEQ_ENOMEM, "no memory to compare the validation text with the training text");
    for (at = 0; next_line(text, len, &at, &line, &n);)
        slot_of(l, line, n)->taken = true;
    return DEQ_OK;
}

static enum deq_rc meet_lines(const struct lines *l, const char *path, struct deq_err *err)
{
    char *text;
    size_t len, at = 0, n;
    const char *line;
    const enum deq_rc rc = deq_dataset_read(path, 0, false, &text, &len, err);
    if (rc)
        return rc;
    while (next_line(text, len, &at, &line, &n))
        slot_of(l, line, n)->met = true; /* of a free slot nobody asks */
    deq_free(text);
    return DEQ_OK;
}

static struct deq_overlap count_documents(const struct lines *l, const char *text, size_t len)
{
    struct deq_overlap found = {0};
    size_t at = 0, n, counted = 0, line_no = 1; /* lines before text[counted] are counted */
    const char *doc;
    while (deq_corpus_next(text, len, &at, &doc, &n)) {
        size_t in = 0, m, all = 0, met = 0;
        const char *line;
        while (next_line(doc, n, &in, &line, &m)) {
            all += m;
            met += slot_of(l, line, m)->met ? m : 0;
        }
        found.documents += all > 0;
        if (!all || 2 * met < all)
            continue;
        for (; text + counted < doc; counted++)
            line_no += text[counted] == '\n';
        found.line = found.shared++ ? found.line : line_no;
    }
    return found;
}

enum deq_rc deq_overlap_find(const char *dir, const char *valid, const char *train, struct deq_overlap *ret,
                             struct deq_err *err)
{
    struct lines lines = {0};
    char path[4096], *text = NULL;
    size_t len = 0;
    enum deq_rc rc = deq_dataset_path(dir, &valid, path, err);
    if (!rc)
        rc = deq_dataset_read(path, 0, false, &text, &len, err);
    if (!rc)
        rc = take_lines(&lines, text, len, err);
    while (!rc && *train)
        if (!(rc = deq_dataset_path(dir, &train, path, err)))
            rc = meet_lines(&lines, path, err);
    if (!rc)
        *ret = count_documents(&lines, text, len);
    deq_free(lines.slot);
    deq_free(text);
    return rc;
}
