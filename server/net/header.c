#include "server/net/header.h"

#include <string.h>
#include <strings.h>

static size_t blanks(const char *s)
{
    return strspn(s, " \t");
}

static size_t trimmed(const char *s, size_t n)
{
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t'))
        n--;
    return n;
}

/* Bytes before the next `stop` that stands in no quoted string, at most `most`: no byte behind them is looked at, so
 * that a list's items together cost what it is long. */
static size_t before(const char *s, size_t most, char stop)
{
    size_t n = 0;
    for (bool quoted = false; n < most && s[n] && (quoted || s[n] != stop); n++) {
        if (s[n] == '"')
            quoted = !quoted;
        else if (quoted && s[n] == '\\' && n + 1 < most && s[n + 1])
            n++;
    }
    return n;
}

static bool is(const char *s, size_t n, const char *word)
{
    return n == strlen(word) && !strncasecmp(s, word, n);
}

bool header_type_is(const char *value, const char *type)
{
    value += blanks(value);
    return is(value, trimmed(value, before(value, SIZE_MAX, ';')), type);
}

bool header_is_identity(const char *value)
{
    for (;;) {
        value += blanks(value);
        const size_t n = before(value, SIZE_MAX, ',');
        if (trimmed(value, n) && !is(value, trimmed(value, n), "identity"))
            return false;
        if (!value[n])
            return true;
        value += n + 1;
    }
}

bool header_has_tag(const char *value, const char *tag)
{
    for (;;) {
        value += blanks(value);
        const size_t n = before(value, SIZE_MAX, ','), len = trimmed(value, n);
        const size_t weak = len > 2 && !strncmp(value, "W/", 2) ? 2 : 0;
        if (is(value, len, "*") || (len - weak == strlen(tag) && !memcmp(value + weak, tag, len - weak)))
            return true;
        if (!value[n])
            return false;
        value += n + 1;
    }
}

/* "0", "0.5", "1.000": at most three digits behind the point, at most one in all. False for anything else. */
static bool parse_q(const char *s, size_t n, unsigned *ret)
{
    if (!n || n > 5 || (s[0] != '0' && s[0] != '1') || (n > 1 && s[1] != '.'))
        return false;
    unsigned q = (unsigned)(s[0] - '0') * 1000, unit = 100;
    for (size_t i = 2; i < n; i++, unit /= 10) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        q += (unsigned)(s[i] - '0') * unit;
    }
    *ret = q;
    return q <= 1000;
}

static unsigned covers(const char *range, size_t n, const char *type)
{
    const size_t slash = strcspn(type, "/") + 1;
    if (is(range, n, type))
        return 3;
    if (n == slash + 1 && !strncasecmp(range, type, slash) && range[slash] == '*')
        return 2;
    return is(range, n, "*/*") ? 1 : 0;
}

/* One range with its parameters. */
static void take_range(const char *s, size_t n, const char *type, struct header_weight *w)
{
    size_t part = before(s, n, ';');
    const unsigned specific = covers(s, trimmed(s, part), type);
    unsigned q = 1000;
    for (size_t at = part; at < n; at += part) {
        at++;
        at += DEQ_MIN(blanks(s + at), n - at);
        part = before(s + at, n - at, ';');
        if (part >= 2 && (s[at] == 'q' || s[at] == 'Q') && s[at + 1] == '=' &&
            !parse_q(s + at + 2, trimmed(s + at + 2, part - 2), &q))
            return;
    }
    if (specific > w->specific || (specific && specific == w->specific && q > w->q))
        *w = (struct header_weight){specific, q};
}

void header_accept(const char *value, const char *type, struct header_weight *w)
{
    for (;;) {
        value += blanks(value);
        const size_t n = before(value, SIZE_MAX, ',');
        take_range(value, n, type, w);
        if (!value[n])
            return;
        value += n + 1;
    }
}
