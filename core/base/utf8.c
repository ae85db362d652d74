#include "core/base/utf8.h"

#include <string.h>

#include "core/base/buf.h"

int deq_utf8_decode(const char *s, size_t n, uint32_t *ret_cp)
{
    const unsigned char *p = (const unsigned char *)s;
    if (!n)
        return 0;
    if (p[0] < 0x80) {
        *ret_cp = p[0];
        return 1;
    }
    int len = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : -1;
    if (len < 0)
        return -1;
    uint32_t cp = p[0] & (0x7fu >> len);
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n)
            return 0;
        /* the second byte's range excludes overlong forms, surrogates and values past U+10FFFF */
        unsigned lo = 0x80, hi = 0xbf;
        if (i == 1) {
            if (p[0] == 0xe0) lo = 0xa0;
            if (p[0] == 0xed) hi = 0x9f;
            if (p[0] == 0xf0) lo = 0x90;
            if (p[0] == 0xf4) hi = 0x8f;
        }
        if (p[i] < lo || p[i] > hi)
            return -1;
        cp = cp << 6 | (p[i] & 0x3f);
    }
    *ret_cp = cp;
    return len;
}

int deq_utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    int len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)((0xf00 >> len) | cp);
    return len;
}

bool deq_utf8_valid(const char *s, size_t n)
{
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        int k = deq_utf8_decode(s + i, n - i, &cp);
        if (k <= 0)
            return false;
        i += (size_t)k;
    }
    return true;
}

void deq_utf8_line(char *s)
{
    uint32_t cp;
    for (size_t n = strlen(s); n;) {
        const int k = deq_utf8_decode(s, n, &cp);
        if (k == 0) {
            *s = 0;
            return;
        }
        if (k < 0 || cp < 0x20 || cp == 0x7f)
            *s = '?';
        const size_t step = k < 0 ? 1 : (size_t)k;
        s += step;
        n -= step;
    }
}

size_t deq_utf8_complete(const char *s, size_t n)
{
    /* an unfinished code point is at most 3 bytes long */
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint32_t cp;
        unsigned char c = (unsigned char)s[n - back];
        if ((c & 0xc0) == 0x80)
            continue;
        return c >= 0xc0 && deq_utf8_decode(s + n - back, back, &cp) == 0 ? n - back : n;
    }
    return n;
}

size_t deq_utf8_pass(struct deq_utf8_place *p, const char *s, size_t n)
{
    size_t begin = p->chars;
    for (size_t i = 0; i < n; i++) {
        uint32_t cp;
        p->open[p->n_open++] = s[i];
        int k = deq_utf8_decode(p->open, p->n_open, &cp);
        /* what was open will never be a character: one replacement, and this byte starts anew */
        if (k < 0 && p->n_open > 1) {
            p->chars++;
            p->open[0] = s[i];
            p->n_open = 1;
            k = deq_utf8_decode(p->open, 1, &cp);
        }
        if (i == 0)
            begin = p->chars;
        if (k) {
            p->chars++;
            p->n_open = 0;
        }
    }
    return begin;
}

bool deq_utf8_sanitize(struct deq_buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int k = deq_utf8_decode(s + i, n - i, &cp);
        if (k > 0) {
            deq_buf_add(out, s + i, (size_t)k);
            i += (size_t)k;
            continue;
        }
        /* skip the maximal subpart: the longest beginning that could still have become a code point */
        size_t bad = 1;
        while (i + bad < n && bad < 4 && deq_utf8_decode(s + i, bad + 1, &cp) == 0)
            bad++;
        if (deq_utf8_decode(s + i, 1, &cp) < 0)
            bad = 1;
        deq_buf_str(out, "\xef\xbf\xbd");
        i += bad;
    }
    return !out->failed;
}

/* Unicode's White_Space, and the four separators of ASCII. */
static bool is_white(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

void deq_utf8_strip(const char *s, size_t n, size_t *ret_begin, size_t *ret_end)
{
    size_t begin = 0;
    uint32_t cp;
    for (int k; (k = deq_utf8_decode(s + begin, n - begin, &cp)) > 0 && is_white(cp);)
        begin += (size_t)k;
    while (n > begin) {
        size_t k = 1;
        while (k < 4 && k < n - begin && ((unsigned char)s[n - k] & 0xc0) == 0x80)
            k++;
        if (deq_utf8_decode(s + n - k, k, &cp) != (int)k || !is_white(cp))
            break;
        n -= k;
    }
    *ret_begin = begin;
    *ret_end = n;
}
