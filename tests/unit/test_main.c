/* Runs every registered test, or those whose name contains argv[1]. */
#include "tests/unit/test.h"

int test_passed, test_failed, test_skipped;
static struct test_case *first, **last = &first;

void test_register(struct test_case *t)
{
    *last = t;
    last = &t->next;
}

int main(int argc, char **argv)
{
    for (struct test_case *t = first; t; t = t->next) {
        if (argc > 1 && !strstr(t->name, argv[1]))
            continue;
        int before = test_failed;
        t->fn();
        if (test_failed != before || argc > 1)
            printf("%s: %s\n", t->name, test_failed != before ? "FAILED" : "ok");
        fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", test_passed, test_failed, test_skipped);
    return test_failed != 0;
}
