/* server/patience.c: the class of the calling thread, as the system has it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "server/patience.h"
#include "tests/unit/test.h"

TEST(patience_ends)
{
    const uint64_t now = 1000000000, hold = PATIENCE_MS * 1000000ull;
    struct patience p = {0};
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
    patience_after(&p, false, now);
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
    patience_after(&p, true, now);
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
    patience_after(&p, true, now + hold);
    patience_after(&p, false, now + 2 * hold);
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH); /* since the last refusal */
    patience_after(&p, false, now + 2 * hold + 1);
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
    patience_after(&p, true, now + 3 * hold);
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
    patience_after(&p, false, now + 5 * hold);
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
}

static void *no_patience(void *ret)
{
    ((int *)ret)[0] = sched_getscheduler(0);
    patience_none();
    ((int *)ret)[1] = sched_getscheduler(0);
    return NULL;
}

TEST(patience_is_not_inherited)
{
    struct patience p = {0};
    pthread_t t;
    int classes[2];
    patience_after(&p, true, 1);
    CHECK(!pthread_create(&t, NULL, no_patience, classes) && !pthread_join(t, NULL));
    CHECK_EQ(classes[0], SCHED_BATCH);
    CHECK_EQ(classes[1], SCHED_OTHER);
    patience_after(&p, false, 2 + PATIENCE_MS * 1000000ull);
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
}

TEST(patience_leaves_other_classes)
{
    struct patience p = {0};
    CHECK(!sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0})); /* by whoever started the program */
    CHECK(!patience_for_good());
    patience_after(&p, true, 1);
    patience_after(&p, false, 1 + 2 * PATIENCE_MS * 1000000ull);
    CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
    CHECK(!sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0}));
    CHECK(patience_for_good() && sched_getscheduler(0) == SCHED_BATCH);
    CHECK(!sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0}));
}
