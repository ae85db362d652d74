/* Does the time of auth_check tell how far a guess is right? Welch's t-test of it (Reparaz, Balasch, Verbauwhede 2017,
 * "Dude, is my code constant time?"): two classes in random order, one whose hash differs from a known key's in the
 * first byte, one whose hash differs in the last alone. Such a key is not to be found, but the file of keys holds
 * hashes, so it is made to fit: the guess's own, with that byte changed.
 *
 *   timing [--trials N]   exit code 1: |t| is 4.5 or more, times tell
 *
 * Times above the class's common 90th percentile are left out: interrupts, which are no news. A comparison that ends at
 * the first difference is measured in the same way, beside it: where that is not seen, the machine is too noisy to say
 * anything, which is exit code 0 and told. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/crypto.h>

#include "core/base/flags.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "server/auth.h"

enum { HASH = 32, GUESS = 40, KEYS = 16 };
static const double T_MAX = 4.5;

struct subject {
    struct auth *auth;
    unsigned char known[HASH]; /* the last byte is not the near guess's */
    char guess[2][GUESS];      /* the first byte is wrong; the last is */
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool as_served(const struct subject *s, const char *guess)
{
    struct caller who;
    return auth_check(s->auth, guess, GUESS, &who);
}

static bool until_different(const struct subject *s, const char *guess)
{
    unsigned char hash[HASH];
    volatile const unsigned char *a = hash, *b = s->known;
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, guess, GUESS, hash))
        return false;
    for (size_t i = 0; i < HASH; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Welch's t of two classes' times, those above `most` left out. */
static double welch(const float *ns, const unsigned char *class, size_t n, float most)
{
    double count[2] = {0}, mean[2] = {0}, m2[2] = {0};
    for (size_t i = 0; i < n; i++) {
        const unsigned k = class[i];
        if (ns[i] > most)
            continue;
        const double d = ns[i] - mean[k];
        mean[k] += d / ++count[k];
        m2[k] += d * (ns[i] - mean[k]);
    }
    printf("  %.0f and %.0f times of %.2f and %.2f ns", count[0], count[1], mean[0], mean[1]);
    return (mean[0] - mean[1]) / sqrt(m2[0] / (count[0] - 1) / count[0] + m2[1] / (count[1] - 1) / count[1]);
}

static double measure(const struct subject *s, bool (*check)(const struct subject *s, const char *guess), size_t n)
{
    float *ns = DEQ_NEW_ARRAY(float, 2 * n), *sorted = ns + n;
    unsigned char *class = DEQ_NEW_ARRAY(unsigned char, n);
    bool any = false;
    for (size_t i = 0; ns && class && i < n; i++) {
        char guess[GUESS]; /* in one place, whichever it is */
        class[i] = deq_mix64(i + 1) >> 63;
        memcpy(guess, s->guess[class[i]], GUESS);
        const uint64_t begin = now_ns();
        any |= check(s, guess);
        sorted[i] = ns[i] = (float)(now_ns() - begin);
    }
    if (!ns || !class || any) {
        printf("no memory, or a guess was right\n");
        exit(2);
    }
    qsort(sorted, n, sizeof *sorted, by_size);
    const double t = welch(ns, class, n, sorted[n - n / 10 - 1]);
    printf(", t = %.2f\n", t);
    deq_free(ns);
    deq_free(class);
    return fabs(t);
}

/* A file of KEYS keys, the known one in the middle. */
static bool prepare(struct subject *s)
{
    char path[] = "/tmp/deqd-timing-XXXXXX";
    unsigned char far[HASH];
    struct deq_err err;
    const int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f)
        return false;
    snprintf(s->guess[1], GUESS, "sk-%035d", 1);
    bool ok = !gnutls_hash_fast(GNUTLS_DIG_SHA256, s->guess[1], GUESS, s->known);
    s->known[HASH - 1] ^= 1;
    for (int i = 2; ok; i++) { /* 255 of 256 do */
        snprintf(s->guess[0], GUESS, "sk-%035d", i);
        ok = !gnutls_hash_fast(GNUTLS_DIG_SHA256, s->guess[0], GUESS, far);
        if (far[0] != s->known[0])
            break;
    }
    for (int k = 0; k < KEYS; k++) {
        fprintf(f, "key-%d ", k);
        for (int i = 0; i < HASH; i++)
            fprintf(f, "%02x", k == KEYS / 2 ? s->known[i] : (unsigned)(deq_mix64((uint64_t)(k * HASH + i)) & 255));
        fprintf(f, "\n");
    }
    ok = !fclose(f) && ok && auth_new(path, &s->auth, &err) == DEQ_OK;
    unlink(path);
    return ok;
}

struct flags {
    uint64_t trials;
};
static const struct deq_opt options[] = {
    {"--trials", DEQ_OPT_U64, offsetof(struct flags, trials), 1000, 1e12, "1000000", NULL, "measured comparisons"},
};
static const struct deq_command command = {
    "timing [options]",
    "Whether the time of comparing API keys tells how far a guess is right (Welch's t-test).",
    {options, DEQ_COUNT(options)},
    0,
    0,
};

int main(int argc, char **argv)
{
    static struct subject s;
    struct flags f = {0};
    struct deq_err err;
    size_t n;
    bool help;
    if (deq_flags_parse(&command, argc, argv, &f, NULL, &n, &help, &err))
        return fprintf(stderr, "timing: %s\n", err.text), 2;
    if (help)
        return deq_flags_help(&command, stdout), 0;
    n = (size_t)f.trials;
    if (!prepare(&s))
        return fprintf(stderr, "timing: no API keys could be prepared\n"), 2;
    printf("timing: %zu trials, classes differ in where a hash is wrong: first byte, last byte\n", n);
    printf(" ended at the first difference (what is to be seen):\n");
    const double leaky = measure(&s, until_different, n);
    printf(" auth_check:\n");
    const double served = measure(&s, as_served, n);
    auth_free(s.auth);
    if (leaky < T_MAX)
        printf("SKIP timing: this machine is too noisy: even an early end was not seen\n");
    else
        printf("timing: |t| = %.2f, %s %.1f\n", served, served < T_MAX ? "below" : "not below", T_MAX);
    return leaky >= T_MAX && served >= T_MAX;
}
