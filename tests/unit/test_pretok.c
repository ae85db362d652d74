/* core/text/pretok.c: words as the reference cuts them, on the golden file. */
#include "core/text/pretok.h"

#include <stdlib.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/tokenizers.h"

TEST(pretok_golden)
{
    size_t len = 0;
    char *data = read_golden(GOLDEN "pretok.txt", &len), text[4096];
    size_t lines = 0;
    for (char *line = data, *nl; line && (nl = strchr(line, '\n')); line = nl + 1, lines++) {
        enum deq_pretok kind = line[0] == 'c' ? DEQ_PRETOK_CL100K : DEQ_PRETOK_QWEN2;
        size_t want[512], n_want = 0, n = 0, at = 0, k = 0;
        for (char *p = strchr(line, ' '); p && p < nl; n_want++) {
            char *end = ++p;
            while (*end != ' ' && *end != '\n')
                end++;
            want[n_want] = hex_text(p, (size_t)(end - p), text + n);
            n += want[n_want];
            p = end;
        }
        for (; at < n && k < n_want; k++) {
            size_t got = deq_pretok_next(kind, text + at, n - at);
            if (got != want[k])
                break;
            at += got;
        }
        CHECK_MSG(at == n && k == n_want, "line %zu, piece %zu", lines + 1, k + 1);
    }
    CHECK(lines == 1400);
    deq_free(data);
}
