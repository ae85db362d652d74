#include "core/base/text.h"

#include <string.h>

#include "core/base/io.h"
#include "core/base/mem.h"

/* By its mark, or without one by its zeros: most second bytes of Latin text, and none of the others. */
static bool is_utf16(const char *text, size_t len)
{
    enum { LOOK = 256, LEAST = 8 };
    size_t zeros[2] = {0};
    if (len >= 2 && (!memcmp(text, "\xff\xfe", 2) || !memcmp(text, "\xfe\xff", 2)))
        return true;
    if (len >= 4 && !memcmp(text, "\0\0\xfe\xff", 4))
        return true;
    const size_t n = DEQ_MIN(len, (size_t)LOOK) & ~(size_t)1;
    for (size_t i = 0; i < n; i++)
        zeros[i & 1] += !text[i];
    return n >= LEAST && ((!zeros[0] && zeros[1] >= n * 3 / 8) || (!zeros[1] && zeros[0] >= n * 3 / 8));
}

enum deq_rc deq_text_clean(const char *name, char *text, size_t *len, struct deq_err *err)
{
    if (is_utf16(text, *len))
        return deq_fail(err, DEQ_EFORMAT, "%s: UTF-16 or UTF-32, expected UTF-8 (iconv -f UTF-16 -t UTF-8)", name);
    const char *from = text, *const end = text + *len;
    char *to = text;
    if (*len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        from += 3;
    while (from < end) {
        const char *cr = memchr(from, '\r', (size_t)(end - from)), *stop = cr ? cr : end;
        memmove(to, from, (size_t)(stop - from));
        to += stop - from;
        from = stop;
        if (cr && (++from == end || *from != '\n'))
            *to++ = '\r';
    }
    *to = 0; /* readers end what they give with a zero byte */
    *len = (size_t)(to - text);
    return DEQ_OK;
}

enum deq_rc deq_text_read(const char *path, size_t max_bytes, char **ret_text, size_t *ret_len, struct deq_err *err)
{
    char *text;
    size_t len;
    enum deq_rc rc = deq_io_read(path, max_bytes, &text, &len, err);
    if (rc)
        return rc;
    if ((rc = deq_text_clean(path, text, &len, err))) {
        deq_free(text);
        return rc;
    }
    *ret_text = text;
    *ret_len = len;
    return DEQ_OK;
}
