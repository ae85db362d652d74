/* Forms that answers fit: choices, regular expressions, GBNF grammars, JSON Schemas, and what they allow.
 *
 * Input: a letter for the kind, the form, a zero byte, and bytes that a walk through it is chosen by. Wherever the walk
 * comes, what is allowed are exactly the tokens behind which something is left, the end exactly where the text is
 * whole, and there is always one or the other; a whole text is JSON, or one of the choices. */
#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/json.h"
#include "core/form/form.h"
#include "tests/fuzz/mutate.h"

enum { STEPS_MAX = 40, BYTES = 256 };

static const char *const words[] = {"{\"",  "\":",  "\": ", "\",\"",   " \"",     "true", "null", "12",
                                    " the", "abc", "\xc3\xa9", "\xe2\x82", "\"}", "]}",   "\r\n"};
enum { EOS = BYTES + DEQ_COUNT(words), VOCAB };

/* All bytes, some words, and the end, which has no text. */
static const char *spell(const void *ctx, uint32_t id, size_t *ret_len)
{
    static char bytes[BYTES];
    (void)ctx;
    if (id >= EOS)
        return NULL;
    if (id >= BYTES) {
        *ret_len = strlen(words[id - BYTES]);
        return words[id - BYTES];
    }
    bytes[id] = (char)id;
    *ret_len = 1;
    return &bytes[id];
}

static void check_mask(struct deq_form *f, const struct deq_readings *r, const uint32_t *allowed)
{
    struct deq_readings to;
    bool any = false;
    for (uint32_t t = 0; t < EOS; t++) {
        deq_form_advance(f, r, t, &to);
        FUZZ_HOLDS(deq_form_allows(allowed, t) == (to.n > 0));
        any = any || to.n;
    }
    FUZZ_HOLDS(deq_form_allows(allowed, EOS) == deq_form_whole(f, r));
    FUZZ_HOLDS(any || deq_form_whole(f, r));
    FUZZ_HOLDS(deq_form_ended(f, r) == !any);
}

static uint32_t pick(const uint32_t *allowed, uint64_t *seed)
{
    uint32_t n = 0, which;
    for (uint32_t t = 0; t < VOCAB; t++)
        n += deq_form_allows(allowed, t);
    which = (uint32_t)(fuzz_next(seed) % n);
    for (uint32_t t = 0;; t++)
        if (deq_form_allows(allowed, t) && !which--)
            return t;
}

static void check_whole(enum deq_form_kind kind, const char *form, size_t n, const struct deq_buf *text)
{
    json_error_t where;
    json_t *root = NULL, *list = NULL;
    if (kind == DEQ_FORM_SCHEMA) {
        FUZZ_HOLDS(!deq_json_parse_clamped(text->data, text->len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &root, &where));
        json_decref(root);
    } else if (kind == DEQ_FORM_CHOICE) {
        bool found = false;
        FUZZ_HOLDS(!deq_json_parse(form, n, JSON_ALLOW_NUL, &list, &where));
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *one = json_array_get(list, i);
            found = found || (json_string_length(one) == text->len &&
                              !memcmp(json_string_value(one), text->data, text->len));
        }
        FUZZ_HOLDS(found);
        json_decref(list);
    }
}

static void walk(struct deq_form *f, enum deq_form_kind kind, const char *form, size_t n, uint64_t seed)
{
    uint32_t allowed[(VOCAB + 31) / 32];
    struct deq_readings r, to;
    struct deq_buf text;
    deq_buf_init(&text, 1 << 16);
    deq_form_begin(f, &r);
    for (unsigned step = 0; step < STEPS_MAX; step++) {
        memset(allowed, 0, sizeof allowed);
        deq_form_mask(f, &r, allowed);
        check_mask(f, &r, allowed);
        const uint32_t t = pick(allowed, &seed);
        if (deq_form_allows(allowed, EOS) && text.len)
            check_whole(kind, form, n, &text);
        if (t == EOS)
            break;
        size_t len = 0;
        const char *bytes = spell(NULL, t, &len);
        deq_buf_add(&text, bytes, len);
        deq_form_advance(f, &r, t, &to);
        r = to;
    }
    deq_buf_free(&text);
}

FUZZ(form)
{
    static struct deq_spelling *spelling;
    const enum deq_form_kind kind = (enum deq_form_kind)fuzz_letter(&data, &n, DEQ_FORM_COUNT);
    const uint8_t *choices;
    size_t n_choices;
    const size_t front = fuzz_split(data, n, &choices, &n_choices);
    struct deq_forms *forms;
    struct deq_form *f;
    struct deq_err err;
    if (!spelling)
        FUZZ_HOLDS(!deq_spelling_new(VOCAB, spell, NULL, &spelling, &err));
    FUZZ_HOLDS(!deq_forms_new(spelling, EOS, &forms, &err)); /* none are kept from one input to the next */
    char *form = fuzz_copy(data, front);
    const enum deq_rc rc = deq_forms_get(forms, kind, form, front, &f, &err);
    if (rc) {
        FUZZ_HOLDS(rc == DEQ_EINVAL);
        fuzz_check_err(rc, &err);
    } else {
        const struct deq_hash seed = deq_siphash(&(struct deq_hash){{0, 0}}, choices, n_choices);
        walk(f, kind, form, front, seed.h[0]);
        deq_form_free(f);
    }
    deq_forms_free(forms);
    free(form);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
FUZZ_MUTATOR
{
    const bool json = n && ((data[0] - (unsigned)'A') % DEQ_FORM_COUNT == DEQ_FORM_SCHEMA ||
                            (data[0] - (unsigned)'A') % DEQ_FORM_COUNT == DEQ_FORM_CHOICE);
    return json ? fuzz_mutate_json_in(data, n, max, seed, 1) : LLVMFuzzerMutate(data, n, max);
}
#endif
