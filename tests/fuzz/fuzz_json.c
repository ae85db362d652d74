/* JSON texts by the three doors of core/base/json.h: what the strict one takes the others take as the same value, and
 * what is taken and printed is read as the same again. */
#include "core/base/json.h"
#include "core/base/mem.h"
#include "tests/fuzz/mutate.h"

static void check_printed(const json_t *v, size_t flags)
{
    json_error_t where;
    json_t *again = NULL;
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    FUZZ_HOLDS(text && !deq_json_parse(text, strlen(text), flags | JSON_DECODE_ANY, &again, &where));
    FUZZ_HOLDS(json_equal(v, again));
    json_decref(again);
    free(text);
}

FUZZ(json)
{
    json_error_t where;
    json_t *strict = NULL, *clamped = NULL, *loose = NULL;
    char *text = fuzz_copy(data, n);
    const enum deq_rc rc = deq_json_parse(text, n, JSON_ALLOW_NUL, &strict, &where);
    const enum deq_rc rc_clamped = deq_json_parse_clamped(text, n, JSON_ALLOW_NUL, &clamped, &where);
    const enum deq_rc rc_loose = deq_json_parse_loose(text, n, &loose);
    FUZZ_HOLDS(!rc == !!strict && !rc_clamped == !!clamped && !rc_loose == !!loose);
    FUZZ_HOLDS(rc || (!rc_clamped && json_equal(strict, clamped)));
    FUZZ_HOLDS(rc_clamped || !rc_loose);
    if (clamped)
        check_printed(clamped, JSON_ALLOW_NUL);
    if (loose)
        check_printed(loose, 0);
    FUZZ_HOLDS(!deq_json_failed());
    json_decref(strict);
    json_decref(clamped);
    json_decref(loose);
    free(text);
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
FUZZ_MUTATOR
{
    return fuzz_mutate_json(data, n, max, seed);
}
#endif
