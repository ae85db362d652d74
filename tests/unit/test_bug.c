/* core/base/bug.c: an invariant that does not hold is counted and told, and the program may go on. */
#include "core/base/bug.h"

#include "tests/unit/test.h"

static struct deq_bug told;

static void note(const struct deq_bug *bug)
{
    told = *bug;
}

TEST(bug_is_counted_and_told)
{
#ifdef DEQ_BUG_ENDS
    SKIP("here a bug ends the process");
#endif
    const uint64_t before = deq_bugs();
    unsigned asked = 0;
    deq_bug_teller *const was = deq_bug_tell(note);
    CHECK(!DEQ_BUG_ON(asked++ > 0) && deq_bugs() == before && asked == 1);
    CHECK(DEQ_BUG_ON(asked == 1) && deq_bugs() == before + 1);
    CHECK_EQ(told.condition, "asked == 1");
    CHECK(strstr(told.file, "test_bug.c") && told.line > 0);
    (void)deq_bug_tell(was);
}
