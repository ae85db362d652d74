/* auth.keys_file: a file that is taken has keys, gives nothing to a key that is not in it, and reads the same again. */
#include "server/auth.h"
#include "tests/fuzz/fuzz.h"

FUZZ(keys)
{
    struct auth *a;
    struct caller who = {0}, again = {0};
    struct deq_err err;
    const enum deq_rc rc = auth_new(fuzz_file(data, n), &a, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    FUZZ_HOLDS(auth_has_keys(a) && n > 64);
    FUZZ_HOLDS(!auth_check(a, "", 0, &who) && !auth_check(a, "not a key", 9, &who));
    const bool found = auth_check(a, "secret", 6, &who);
    FUZZ_HOLDS(!found || (who.known && who.weight >= 1 && who.weight <= AUTH_WEIGHT_MAX));
    FUZZ_HOLDS(!auth_reload(a, &err) && auth_check(a, "secret", 6, &again) == found);
    FUZZ_HOLDS(!found || (who.id == again.id && who.admin == again.admin && who.weight == again.weight));
    auth_free(a);
}
