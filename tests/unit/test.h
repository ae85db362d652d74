/* Tests over cmocka, which runs and reports them (main.c). A CHECK that fails prints its place and values, and the test
 * goes on: what comes behind it says more of the fault, other threads may CHECK too, and a jump out of one, as cmocka's
 * assertions jump, would be the end of the program. At its end the test fails. CHECK_EQ(got, want) prints both values
 * itself; REQUIRE is for what the rest of a function stands on: when it fails, the function returns. What fails in a
 * forked child is the child's to end with: _exit(test_failures != 0), which the parent CHECKs. */
#ifndef DEQ_TEST_H
#define DEQ_TEST_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/base/base.h"

extern unsigned long test_checks, test_failures;
void test_fails(const char *file, int line, const char *what);
void test_fails_with(const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static inline void test_holds(void)
{
    __atomic_fetch_add(&test_checks, 1, __ATOMIC_RELAXED);
}

#define CHECK(cond)                                                          \
    do {                                                                     \
        if (cond)                                                            \
            test_holds();                                                    \
        else                                                                 \
            test_fails(__FILE__, __LINE__, #cond);                           \
    } while (0)

#define CHECK_MSG(cond, ...)                                                 \
    do {                                                                     \
        if (cond)                                                            \
            test_holds();                                                    \
        else                                                                 \
            test_fails_with(__FILE__, __LINE__, #cond, __VA_ARGS__);         \
    } while (0)

#define REQUIRE(cond)                                                        \
    do {                                                                     \
        if (!(cond)) {                                                       \
            test_fails(__FILE__, __LINE__, #cond);                           \
            return;                                                          \
        }                                                                    \
        test_holds();                                                        \
    } while (0)

/* Integers of any width, floating point, or strings, which are equal by what they say (NULL is equal to NULL alone). */
#define CHECK_EQ(got, want)                                                  \
    _Generic((got), char *: test_equal_text, const char *: test_equal_text,  \
        float: test_equal_real, double: test_equal_real,                     \
        unsigned long: test_equal_unsigned, unsigned long long: test_equal_unsigned, default: test_equal_integer) \
        (__FILE__, __LINE__, #got " == " #want, got, want)
void test_equal_text(const char *file, int line, const char *what, const char *got, const char *want);
void test_equal_real(const char *file, int line, const char *what, double got, double want);
void test_equal_unsigned(const char *file, int line, const char *what, uintmax_t got, uintmax_t want);
void test_equal_integer(const char *file, int line, const char *what, intmax_t got, intmax_t want);

/* The larger of a largest error so far and the next; NaN is the largest of all. */
static inline double worse(double so_far, double error)
{
    return error <= so_far ? so_far : isnan(error) ? INFINITY : error;
}

/* How many times as much of this thread's processor time work(ctx, 8 n) takes as work(ctx, n), the best of some tries:
 * other load only ever adds. Linear is 8 times, with a logarithm a little more, quadratic 64; the bound of 32 leaves
 * room for caches that no longer hold everything, and for neighbours that empty them. */
enum { TEST_GROWTH_BOUND = 32 };
double test_growth(void (*work)(void *ctx, size_t n), void *ctx, size_t n);

#define CHECK_LINEAR(work, ctx, n, ...)                                      \
    do {                                                                     \
        const double ratio = test_growth(work, ctx, n);                      \
        CHECK_MSG(ratio <= TEST_GROWTH_BOUND, __VA_ARGS__);                  \
        if (ratio > TEST_GROWTH_BOUND)                                       \
            printf("  eight times the size: %.1f times the time\n", ratio);  \
    } while (0)

/* What this machine cannot run, and why: the test ends here, or goes on with its other parts. */
#define SKIP(...) test_skip(__VA_ARGS__)
void test_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
#define SKIP_PART(...) (printf("skipped in part: "), printf(__VA_ARGS__), printf("\n"))

/* A file defines tests as TEST(name) { ... }; they register themselves and run in order of registration. */
struct test_case {
    const char *name;
    void (*fn)(void);
};
void test_register(struct test_case *t);

#define TEST(id)                                                             \
    static void test_##id(void);                                             \
    __attribute__((constructor)) static void register_##id(void)             \
    {                                                                        \
        static struct test_case t = {__FILE__ ":" #id, test_##id};           \
        test_register(&t);                                                   \
    }                                                                        \
    static void test_##id(void)

#endif
