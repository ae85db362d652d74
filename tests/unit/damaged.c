#include "tests/unit/damaged.h"

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/text/tokenizer.h"
#include "tests/unit/test.h"

char *text_with(const char *json, const char *from, const char *to)
{
    const char *at = strstr(json, from);
    if (!at)
        return NULL;
    struct deq_buf b;
    deq_buf_init(&b, 64 << 20);
    deq_buf_add(&b, json, (size_t)(at - json));
    deq_buf_str(&b, to);
    deq_buf_str(&b, at + strlen(from));
    return b.data;
}

void check_damaged(const char *json, const struct damage *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char *changed = text_with(json, cases[i].from, cases[i].to);
        struct deq_tokenizer *tok = NULL;
        struct deq_err err = {0};
        CHECK_MSG(changed != NULL, "case %zu does not apply", i);
        if (!changed)
            continue;
        enum deq_rc rc = deq_tokenizer_parse(changed, strlen(changed), "some.json", &tok, &err);
        CHECK_MSG(rc == DEQ_EFORMAT && !tok, "case %zu: %s", i, cases[i].to);
        CHECK_MSG(!strncmp(err.text, "some.json: ", 11) && strstr(err.text, cases[i].message),
                  "case %zu: \"%s\" lacks \"%s\"", i, err.text, cases[i].message);
        deq_tokenizer_free(tok);
        deq_free(changed);
    }
}
