#include "core/text/corpus.h"

#include <string.h>

bool deq_corpus_next(const char *text, size_t len, size_t *at, const char **ret_doc, size_t *ret_len)
{
    static const char mark[] = DEQ_DOCUMENT_END;
    const size_t n = sizeof mark - 1;
    while (*at < len) {
        const size_t start = *at;
        size_t end = len, next = len;
        for (size_t p = start; p < len;) {
            const char *eol = memchr(text + p, '\n', len - p);
            const size_t stop = eol ? (size_t)(eol - text) : len;
            if (stop - p == n && !memcmp(text + p, mark, n)) {
                end = p > start ? p - 1 : p; /* the line end before the mark */
                next = stop + (eol != NULL);
                break;
            }
            p = stop + (eol != NULL);
        }
        if (next == len && end == len && end > start && text[end - 1] == '\n')
            end--;
        *at = next;
        if (end > start) {
            *ret_doc = text + start;
            *ret_len = end - start;
            return true;
        }
    }
    return false;
}

size_t deq_corpus_split(const char *text, size_t len, float share)
{
    size_t at = len - (size_t)((double)len * (double)share);
    const char *eol = at < len ? memchr(text + at, '\n', len - at) : NULL;
    if (eol && eol + 1 < text + len)
        return (size_t)(eol + 1 - text);
    while (at < len && ((unsigned char)text[at] & 0xc0) == 0x80)
        at++;
    return at;
}

enum deq_rc deq_corpus_encode(const struct deq_tokenizer *tok, int64_t bos, int64_t eos, const char *text, size_t len,
                              struct deq_tokens *out, uint64_t *ret_text_bytes, struct deq_err *err)
{
    size_t at = 0, n;
    uint64_t bytes = 0;
    const char *doc;
    while (deq_corpus_next(text, len, &at, &doc, &n)) {
        bool room = bos < 0 || deq_tokens_push(out, (uint32_t)bos);
        const enum deq_rc rc = room ? deq_tokenizer_encode(tok, doc, n, false, out, err) : DEQ_OK;
        if (rc)
            return rc;
        room = room && (eos < 0 || deq_tokens_push(out, (uint32_t)eos));
        if (!room)
            return deq_fail(err, DEQ_ENOMEM, "no memory for %zu tokens", out->n);
        bytes += n;
    }
    *ret_text_bytes = bytes;
    return DEQ_OK;
}
