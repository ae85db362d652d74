/* The smallest harness that does the job: CHECK counts, a failure prints place and values, main prints one closing line. */
#ifndef DEQ_TEST_H
#define DEQ_TEST_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

extern int test_passed, test_failed, test_skipped;

#define CHECK(cond)                                                          \
    do {                                                                     \
        if (cond) {                                                          \
            test_passed++;                                                   \
        } else {                                                             \
            test_failed++;                                                   \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #cond);        \
        }                                                                    \
    } while (0)

#define CHECK_MSG(cond, ...)                                                 \
    do {                                                                     \
        if (cond) {                                                          \
            test_passed++;                                                   \
        } else {                                                             \
            test_failed++;                                                   \
            printf("%s:%d: failed: %s: ", __FILE__, __LINE__, #cond);        \
            printf(__VA_ARGS__);                                             \
            printf("\n");                                                    \
        }                                                                    \
    } while (0)

/* The larger of a largest error so far and the next; NaN is the largest of all. */
static inline double worse(double so_far, double error)
{
    return error <= so_far ? so_far : isnan(error) ? INFINITY : error;
}

#define SKIP(...)                                                            \
    do {                                                                     \
        test_skipped++;                                                      \
        printf("skipped: ");                                                 \
        printf(__VA_ARGS__);                                                 \
        printf("\n");                                                        \
    } while (0)

/* One test file defines tests as TEST(name) { ... }; they register themselves and run in order of registration. */
struct test_case {
    const char *name;
    void (*fn)(void);
    struct test_case *next;
};
void test_register(struct test_case *t);

#define TEST(id)                                                             \
    static void test_##id(void);                                             \
    __attribute__((constructor)) static void register_##id(void)             \
    {                                                                        \
        static struct test_case t = {#id, test_##id, NULL};                  \
        test_register(&t);                                                   \
    }                                                                        \
    static void test_##id(void)

#endif
