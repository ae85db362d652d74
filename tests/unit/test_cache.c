/* server/work/cache.c: the prefix cache is saved while the daemon goes on, but that of an engine whose place another
 * has taken. Restarts, and directories that cannot be used: tests/e2e/states.py. */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/inside.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

static struct outcome o;

/* A prompt of a block and more, unlike the others. Returns whether some of it was cached. */
static bool ask_for(char letter)
{
    char body[700] = "{\"max_tokens\": 1, \"prompt\": \"";
    size_t n = strlen(body);
    for (size_t i = 0; i < 400; i++)
        body[n++] = i % 7 ? (char)('a' + i % 5) : letter;
    snprintf(body + n, sizeof body - n, "\"}");
    inside_ask("POST", "/v1/completions", body, &o);
    CHECK_MSG(o.status == 200, "%d %s", o.status, o.text);
    return !strstr(o.text, "\"cached_tokens\":0");
}

static uint64_t saves(void)
{
    return atomic_load(&inside.metrics.state_writes[1]);
}

static bool waits_for(uint64_t n)
{
    for (int tries = 0; tries < 60000 && saves() < n; tries++) /* so long that it hangs */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return saves() >= n;
}

TEST(cache_is_saved_meanwhile)
{
    char set[600];
    REQUIRE(scratch_begin());
    snprintf(set, sizeof set, "engine.cache_dir=%s", scratch_path("d"));
    const char *const settings[] = {set, "engine.cache_save_ms=1", NULL};
    REQUIRE(inside_begin(settings));
    CHECK(!ask_for('x') && waits_for(1) && !access(scratch_path("d/prefix.safetensors"), R_OK));
    struct served *m = store_acquire(inside.service.store);
    sched_retire(m->sched);
    CHECK(!ask_for('z') && ask_for('z'));
    store_release(m);
    inside_end(); /* as behind kill -9: nothing is saved at the end */
    REQUIRE(inside_begin(settings));
    CHECK(atomic_load(&inside.metrics.restored_blocks) > 0 && ask_for('x') && !ask_for('z'));
    inside_end();
    scratch_end("d/prefix.safetensors", "d", NULL);
}
