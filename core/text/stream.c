#include "core/text/stream.h"

#include <string.h>

#include "core/base/base.h"
#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"

/* The rule: show the longest beginning of what is pending that (a) ends on a character and (b) has no end that is
 * the beginning of a stop string. So what is shown never has to be taken back, and its concatenation does not
 * depend on how the bytes arrived.
 *
 * Each stop string is looked for by Knuth, Morris and Pratt's automaton: a byte costs the same however long the
 * strings are and whatever came before. Its state is the length of the longest end of the text that begins the string,
 * which is what (b) asks for. */
struct deq_text {
    struct deq_buf pending;
    bool skip;    /* nothing but blanks so far, which are not shown */
    size_t n_stops;
    struct stop {
        char *bytes;
        size_t len, matched;
        bool blank; /* of blanks only: not met in those that are skipped */
        uint32_t *back; /* [len] longest proper end of the first k + 1 bytes that begins the string */
    } *stops;
    int stopped; /* index of the stop string that was met, or -1 */
};

enum { PENDING_MAX = 1 << 24 };

/* The state after one more byte; s->len: the string is whole. */
static size_t step(const struct stop *s, size_t matched, char c)
{
    while (matched && s->bytes[matched] != c)
        matched = s->back[matched - 1];
    return matched + (s->bytes[matched] == c);
}

static size_t blanks(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && (s[i] == ' ' || s[i] == '\n' || s[i] == '\r' || s[i] == '\t'))
        i++;
    return i;
}

static bool make_stop(struct stop *s, const char *bytes, size_t len)
{
    s->bytes = deq_alloc(len);
    s->back = DEQ_NEW_ARRAY(uint32_t, len);
    if (!s->bytes || !s->back)
        return false;
    memcpy(s->bytes, bytes, len);
    s->len = len;
    s->blank = blanks(bytes, len) == len;
    for (size_t k = 1; k < len; k++)
        s->back[k] = (uint32_t)step(s, s->back[k - 1], bytes[k]);
    return true;
}

enum deq_rc deq_text_new(const char *const *stops, const size_t *lens, size_t n, struct deq_text **ret,
                         struct deq_err *err)
{
    struct deq_text *t = DEQ_NEW(struct deq_text);
    if (!t)
        goto nomem;
    t->stopped = -1;
    deq_buf_init(&t->pending, PENDING_MAX);
    if (!(t->stops = DEQ_NEW_ARRAY(struct stop, n)))
        goto nomem;
    t->n_stops = n;
    for (size_t i = 0; i < n; i++)
        if (!make_stop(&t->stops[i], stops[i], lens[i]))
            goto nomem;
    *ret = t;
    return DEQ_OK;
nomem:
    deq_text_free(t);
    return deq_fail(err, DEQ_ENOMEM, "no memory for %zu stop strings", n);
}

void deq_text_free(struct deq_text *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_stops; i++) {
        deq_free(t->stops[i].bytes);
        deq_free(t->stops[i].back);
    }
    deq_free(t->stops);
    deq_buf_free(&t->pending);
    deq_free(t);
}

/* Blanks in front that are not shown. */
static size_t skipped(const struct deq_text *t)
{
    return t->skip ? blanks(t->pending.data, t->pending.len) : 0;
}

/* Reads the pending bytes from `from` on: the first stop string that ends there, of several that end at one byte the
 * longest; or what must be held because it begins one. */
static bool find_stop(struct deq_text *t, size_t from, size_t *ret_at, int *ret_which, size_t *ret_held)
{
    size_t end = SIZE_MAX;
    *ret_held = 0;
    for (size_t i = 0; i < t->n_stops; i++) {
        struct stop *s = &t->stops[i];
        size_t at = s->blank ? DEQ_MAX(from, skipped(t)) : from;
        while (at < t->pending.len && s->matched < s->len)
            s->matched = step(s, s->matched, t->pending.data[at++]);
        if (s->matched < s->len) {
            *ret_held = DEQ_MAX(*ret_held, s->matched);
        } else if (at < end || (at == end && at - s->len < *ret_at)) {
            *ret_at = at - s->len;
            *ret_which = (int)i;
            end = at;
        }
    }
    return end != SIZE_MAX;
}

/* Shows the first n of the pending bytes. */
static void show(struct deq_text *t, size_t n, struct deq_buf *out)
{
    const size_t from = DEQ_MIN(skipped(t), n);
    if (n > from) /* without bytes there may be no memory either */
        deq_utf8_sanitize(out, t->pending.data + from, n - from);
    t->skip = t->skip && from == n;
}

void deq_text_skip_blanks(struct deq_text *t)
{
    t->skip = true;
}

void deq_text_begin(struct deq_text *t, const char *bytes, size_t n)
{
    deq_buf_add(&t->pending, bytes, n);
}

int deq_text_push(struct deq_text *t, const char *bytes, size_t n, struct deq_buf *out)
{
    size_t at = 0, held;
    const size_t from = t->pending.len;
    if (t->stopped >= 0)
        return t->stopped;
    deq_buf_add(&t->pending, bytes, n);
    if (!deq_buf_carry(out, &t->pending) || !t->pending.len)
        return -1;
    if (find_stop(t, from, &at, &t->stopped, &held)) {
        show(t, at, out);
        deq_buf_reset(&t->pending);
        return t->stopped;
    }
    at = deq_utf8_complete(t->pending.data, t->pending.len - held);
    show(t, at, out);
    deq_buf_drop_front(&t->pending, at);
    return -1;
}

void deq_text_end(struct deq_text *t, struct deq_buf *out)
{
    if (deq_buf_carry(out, &t->pending))
        show(t, t->pending.len, out);
    deq_buf_reset(&t->pending);
}
