#include "tests/unit/forms.h"

#include "core/base/mem.h"
#include "core/base/rng.h"

/* Words behind the 256 bytes; special ones are NULL. */
static const char *const words[] = {NULL,       "\"",   "\",",    "\":",      "\": ",     "{\"",   "\"}",  "},",
                                    "}, {",     "[{\"", "]}",     "\\\"",     "true",     "false", "null", "tr",
                                    "ue",       "12",   "123",    "0.5",      "-1",       "1e",    ", ",   ", \"",
                                    "the",      " the", "name",   "\"name",   "\"name\"", "e\":",  "\xc3", "\xc3\xa9",
                                    "\xe2\x82", "\xac", "aaaa",   "aaaaaaaa", "2024-",    "-0",    "00:",  "yes",
                                    "no",       "ye",   "es",     "a",        "a",        "abc",   "bc",   "\\u00",
                                    "  ",       "\n",   "\": \"", "\", \"",   "]]",       "[[",    "[]",   "{}",
                                    "\":{\"",   "x1",   "id",     "\"id\"",   "kind"};

static const char *spell(const void *ctx, uint32_t id, size_t *ret_len)
{
    static const char zero[1];
    static char bytes[256][2];
    (void)ctx;
    if (id == FORMS_EOS || id > 256 + DEQ_COUNT(words))
        return NULL;
    if (id <= 256) { /* 1 .. 256 are the bytes */
        bytes[id - 1][0] = (char)(id - 1);
        *ret_len = 1;
        return id == 1 ? zero : bytes[id - 1];
    }
    const char *w = words[id - 257];
    *ret_len = w ? strlen(w) : 0;
    return w;
}

const struct deq_spelling *some_spelling(void)
{
    static struct deq_spelling *s;
    if (!s)
        CHECK_EQ(deq_spelling_new(FORMS_VOCAB, spell, NULL, &s, NULL), DEQ_OK);
    return s;
}

struct deq_forms *some_forms(void)
{
    static struct deq_forms *f;
    if (!f)
        CHECK_EQ(deq_forms_new(some_spelling(), FORMS_EOS, &f, NULL), DEQ_OK);
    return f;
}

struct deq_form *form_of(enum deq_form_kind kind, const char *text, char *ret_message)
{
    struct deq_err err = {0};
    struct deq_form *f = NULL;
    if (deq_forms_get(some_forms(), kind, text, strlen(text), &f, &err) && ret_message)
        snprintf(ret_message, sizeof err.text, "%s", err.text);
    return f;
}

int form_takes(const struct deq_form *f, const char *text)
{
    struct deq_readings r[2];
    deq_form_begin(f, &r[0]);
    size_t i = 0;
    for (; text[i]; i++) {
        deq_form_advance(f, &r[i % 2], 1 + (uint32_t)(unsigned char)text[i], &r[(i + 1) % 2]);
        if (!r[(i + 1) % 2].n)
            return 0;
    }
    return deq_form_whole(f, &r[i % 2]) ? 2 : 1;
}

void check_form(enum deq_form_kind kind, const char *form, const char *const *good, const char *const *bad)
{
    char message[480] = "";
    struct deq_form *f = form_of(kind, form, message);
    CHECK_MSG(f, "%s: %s", form, message);
    for (; f && *good; good++)
        CHECK_MSG(form_takes(f, *good) == 2, "%s takes %s", form, *good);
    for (; f && *bad; bad++)
        CHECK_MSG(form_takes(f, *bad) != 2, "%s does not take %s", form, *bad);
    deq_form_free(f);
}

void check_form_refused(enum deq_form_kind kind, const char *form, const char *words_of_it)
{
    char message[480] = "";
    struct deq_form *f = form_of(kind, form, message);
    CHECK_MSG(!f && strstr(message, words_of_it), "%.60s: \"%s\" does not say \"%s\"", form, message, words_of_it);
    deq_form_free(f);
}

bool random_text(struct deq_form *f, uint64_t seed, uint32_t max, bool slow, char *out, size_t cap)
{
    struct deq_readings r[2], tried;
    uint32_t allowed[(FORMS_VOCAB + 31) / 32];
    size_t len = 0;
    deq_form_begin(f, &r[0]);
    out[0] = 0;
    for (uint32_t i = 0; i < max; i++) {
        uint32_t n = 0, pick = UINT32_MAX;
        deq_form_mask(f, &r[i % 2], allowed);
        for (uint32_t id = 0; id < FORMS_VOCAB; id++)
            n += deq_form_allows(allowed, id);
        CHECK_MSG(n, "something may follow \"%s\"", out);
        uint32_t nth = n ? (uint32_t)(deq_rng_uniform(seed, 0, i) * n) : 0;
        for (uint32_t id = 0; id < FORMS_VOCAB; id++) {
            const bool may = deq_form_allows(allowed, id);
            if (slow) {
                deq_form_advance(f, &r[i % 2], id, &tried);
                CHECK_EQ(may, id == FORMS_EOS ? deq_form_whole(f, &r[i % 2]) : tried.n > 0);
            }
            if (may && !nth--)
                pick = id;
        }
        if (pick == FORMS_EOS || pick == UINT32_MAX)
            return pick == FORMS_EOS;
        const struct deq_token_text *t = &some_spelling()->text[pick];
        if (len + t->len + 1 > cap)
            return false;
        memcpy(out + len, t->bytes, t->len);
        out[len += t->len] = 0;
        deq_form_advance(f, &r[i % 2], pick, &r[(i + 1) % 2]);
        if (deq_form_ended(f, &r[(i + 1) % 2]))
            return deq_form_whole(f, &r[(i + 1) % 2]);
    }
    return false;
}
