/* A template's text as a list: what is shown, and what is in braces; white space around blocks goes. */
#include "core/import/jinja.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/base/utf8.h"

/* Lines end in "\n", and the last end is none of the template. False: it has other control characters. */
static bool clean(const char *from, size_t len, char *to, size_t *ret_len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)from[i];
        if ((c < ' ' && c != '\n' && c != '\r' && c != '\t') || c == 0x7f)
            return false;
        if (c == '\r' && i + 1 < len && from[i + 1] == '\n')
            continue;
        to[n++] = c == '\r' ? '\n' : (char)c;
    }
    n -= n && to[n - 1] == '\n';
    to[n] = 0;
    *ret_len = n;
    return true;
}

/* Where the next brace of a tag, an output or a comment is; len: there is none. */
static size_t next_open(const char *s, size_t at, size_t len)
{
    for (; at + 1 < len; at++)
        if (s[at] == '{' && (s[at + 1] == '{' || s[at + 1] == '%' || s[at + 1] == '#'))
            return at;
    return len;
}

/* Where what was opened by `kind` is closed, from `at`: at its first byte, sign included. Quotes hold what looks like
 * an end, but in comments. len: nowhere. */
static size_t next_close(const char *s, size_t at, size_t len, char kind)
{
    const char end = kind == '{' ? '}' : kind;
    char quote = 0;
    for (; at + 1 < len; at++) {
        if (quote && s[at] == '\\') {
            at++;
        } else if (quote) {
            quote = s[at] == quote ? 0 : quote;
        } else if (kind != '#' && (s[at] == '\'' || s[at] == '"')) {
            quote = s[at];
        } else {
            const size_t sign = s[at] == '-' || (s[at] == '+' && kind != '{');
            if (at + sign + 1 < len && s[at + sign] == end && s[at + sign + 1] == '}')
                return at;
        }
    }
    return len;
}

/* How much of the text before a brace is shown. */
static size_t shown_before(const char *s, size_t begin, size_t open, size_t len)
{
    size_t a, b;
    const char kind = s[open + 1], sign = open + 2 < len ? s[open + 2] : 0;
    deq_utf8_strip(s + begin, open - begin, &a, &b);
    b = a == open - begin ? 0 : b; /* nothing but white space */
    if (sign == '-')
        return b;
    if (kind == '{' || sign == '+')
        return open - begin;
    size_t line = open;
    while (line > begin && s[line - 1] != '\n')
        line--;
    if (line == begin && begin && s[begin - 1] != '\n')
        return open - begin; /* something else stands on this line before it */
    return line - begin >= b ? line - begin : open - begin;
}

/* Where the text behind braces begins. */
static size_t behind(const char *s, size_t close, size_t len, char kind)
{
    size_t a, b;
    const bool sign = s[close] == '-' || s[close] == '+';
    const size_t at = close + sign + 2;
    if (s[close] == '-') {
        deq_utf8_strip(s + at, len - at, &a, &b);
        return at + a;
    }
    return at + (!sign && kind != '{' && at < len && s[at] == '\n');
}

static unsigned line_of(const char *s, size_t at)
{
    unsigned line = 1;
    for (size_t i = 0; i < at; i++)
        line += s[i] == '\n';
    return line;
}

static void add_node(struct deq_jinja *t, int kind, size_t at, size_t n)
{
    if (n)
        t->node[t->n++] = (struct deq_jinja_node){kind, line_of(t->text, at), t->text + at, n};
}

static enum deq_rc split(struct deq_jinja *t, size_t len, struct deq_err *err)
{
    const char *const s = t->text;
    for (size_t at = 0; at < len;) {
        const size_t open = next_open(s, at, len);
        if (open == len) {
            add_node(t, DEQ_JINJA_TEXT, at, len - at);
            break;
        }
        const char kind = s[open + 1];
        const size_t signs = open + 2 < len && (s[open + 2] == '-' || (s[open + 2] == '+' && kind != '{'));
        const size_t first = open + 2 + signs, close = next_close(s, first, len, kind);
        if (close == len)
            return deq_fail(err, DEQ_EFORMAT, "line %u: {%c is not closed", line_of(s, open), kind);
        add_node(t, DEQ_JINJA_TEXT, at, shown_before(s, at, open, len));
        if (kind != '#')
            add_node(t, kind == '{' ? DEQ_JINJA_OUTPUT : DEQ_JINJA_TAG, first, close - first);
        at = behind(s, close, len, kind);
    }
    return DEQ_OK;
}

enum deq_rc deq_jinja_parse(const char *text, size_t len, struct deq_jinja *ret, struct deq_err *err)
{
    struct deq_jinja t = {.text = deq_alloc(len + 1), .node = DEQ_NEW_ARRAY(struct deq_jinja_node, len + 1)};
    enum deq_rc rc = DEQ_OK;
    if (!t.text || !t.node)
        rc = deq_fail(err, DEQ_ENOMEM, "no memory for a template of %zu bytes", len);
    else if (len > DEQ_JINJA_MAX_BYTES)
        rc = deq_fail(err, DEQ_EFORMAT, "is longer than %d bytes", DEQ_JINJA_MAX_BYTES);
    else if (!clean(text, len, t.text, &len))
        rc = deq_fail(err, DEQ_EFORMAT, "control characters");
    else
        rc = split(&t, len, err);
    if (rc)
        deq_jinja_free(&t);
    else
        *ret = t;
    return rc;
}

void deq_jinja_free(struct deq_jinja *t)
{
    deq_free(t->text);
    deq_free(t->node);
    *t = (struct deq_jinja){0};
}
