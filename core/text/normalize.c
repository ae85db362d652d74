#include "core/text/normalize.h"

#include <stdlib.h>
#include <string.h>
#include <uninorm.h>

#include "core/base/utf8.h"

bool deq_form_find(const char *name, enum deq_form *ret_form)
{
    static const char *const names[] = {[DEQ_NFC] = "NFC", [DEQ_NFD] = "NFD", [DEQ_NFKC] = "NFKC", [DEQ_NFKD] = "NFKD"};
    _Static_assert(DEQ_COUNT(names) == DEQ_FORM_COUNT, "a name for each form");
    for (size_t i = 0; i < DEQ_COUNT(names); i++)
        if (!strcmp(name, names[i])) {
            *ret_form = (enum deq_form)i;
            return true;
        }
    return false;
}

static uninorm_t table(enum deq_form form)
{
    switch (form) {
    case DEQ_NFC: return UNINORM_NFC;
    case DEQ_NFD: return UNINORM_NFD;
    case DEQ_NFKC: return UNINORM_NFKC;
    case DEQ_NFKD: break;
    }
    return UNINORM_NFKD;
}

/* s is UTF-8. */
static bool add_form(uninorm_t form, const char *s, size_t n, struct deq_buf *out)
{
    uint8_t small[1024];
    size_t len = sizeof small;
    uint8_t *r = u8_normalize(form, (const uint8_t *)s, n, small, &len);
    const bool ok = r && deq_buf_add(out, r, len);
    if (r != small)
        free(r); /* the library's own */
    return ok;
}

bool deq_normalize(enum deq_form form, const char *s, size_t n, struct deq_buf *out)
{
    size_t at = 0;
    while (at < n) {
        /* ASCII is its own form, but for the last before something else, which a mark may join */
        size_t plain = at, end;
        while (plain < n && (uint8_t)s[plain] < 0x80)
            plain++;
        const size_t begin = plain < n && plain > at ? plain - 1 : plain;
        for (end = plain; end < n && (uint8_t)s[end] >= 0x80;) {
            uint32_t cp;
            const int k = deq_utf8_decode(s + end, n - end, &cp);
            if (k <= 0)
                break;
            end += (size_t)k;
        }
        const size_t bad = end < n && (uint8_t)s[end] >= 0x80; /* one byte that is not UTF-8 */
        if (!deq_buf_add(out, s + at, begin - at) ||
            (end > begin && !add_form(table(form), s + begin, end - begin, out)) ||
            (bad && !deq_buf_add(out, s + end, 1)))
            return false;
        at = end + bad;
    }
    return true;
}
