#include "server/auth.h"

#include <gnutls/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/base/text.h"

enum { HASH_BYTES = 32, HASH_DIGITS = 2 * HASH_BYTES, FILE_MAX_BYTES = 1 << 20, KEY_MAX_BYTES = 4096 };

struct key {
    unsigned char hash[HASH_BYTES];
    struct caller caller;
};

struct auth {
    char path[1024];
    pthread_rwlock_t lock; /* the keys */
    struct key *keys;      /* [n] */
    size_t n;
};

static uint64_t id_of(const void *data, size_t n)
{
    static const struct deq_hash fixed = {{1, 2}}; /* ids are no secrets: they group, they do not prove */
    return deq_siphash(&fixed, data, n).h[0];
}

/* Of a digit, which the caller has seen to. */
static int hex_value(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* One line, cut at blanks. The key itself never stands in a message. */
static enum deq_rc parse_line(const char *path, unsigned line, char *text, struct key *ret, bool *ret_any,
                              struct deq_err *err)
{
    char *words[7], *save = NULL; /* one more than a line may have */
    size_t n = 0;
    text[strcspn(text, "#")] = 0;
    for (char *w = strtok_r(text, " \t", &save); w && n < DEQ_COUNT(words); w = strtok_r(NULL, " \t", &save))
        words[n++] = w;
    *ret_any = n > 0;
    if (!n)
        return DEQ_OK;
    if (n < 2 || n == DEQ_COUNT(words) || strlen(words[1]) != HASH_DIGITS ||
        strspn(words[1], "0123456789abcdefABCDEF") != HASH_DIGITS)
        return deq_fail(err, DEQ_EFORMAT,
                        "auth.keys_file: %s: line %u: expected NAME SHA256-IN-HEX [admin] [priority] [weight=N] "
                        "[depth=fixed|elastic]", path, line);
    *ret = (struct key){.caller = {.id = id_of(words[0], strlen(words[0])), .weight = 1, .known = true}};
    for (size_t i = 0; i < HASH_BYTES; i++)
        ret->hash[i] = (unsigned char)(hex_value(words[1][2 * i]) * 16 + hex_value(words[1][2 * i + 1]));
    for (size_t i = 2; i < n; i++) {
        char *end = NULL;
        const bool digits = !strncmp(words[i], "weight=", 7) && words[i][7] >= '0' && words[i][7] <= '9';
        const unsigned long weight = digits ? strtoul(words[i] + 7, &end, 10) : 0;
        if (!strcmp(words[i], "admin"))
            ret->caller.admin = true;
        else if (!strcmp(words[i], "priority"))
            ret->caller.priority = true;
        else if (end && !*end && weight >= 1 && weight <= AUTH_WEIGHT_MAX)
            ret->caller.weight = (uint32_t)weight;
        else if (!strcmp(words[i], "depth=fixed") || !strcmp(words[i], "depth=elastic"))
            ret->caller.depth = words[i][6] == 'f' ? DEPTH_FIXED : DEPTH_ELASTIC;
        else
            return deq_fail(err, DEQ_EFORMAT,
                            "auth.keys_file: %s: line %u: word %zu: expected admin, priority, weight=1..%d, "
                            "depth=fixed or depth=elastic", path, line, i + 1, AUTH_WEIGHT_MAX);
    }
    return DEQ_OK;
}

static enum deq_rc load(const char *path, struct key **ret, size_t *ret_n, struct deq_err *err)
{
    char *text = NULL;
    size_t len = 0, n = 0;
    struct key *keys = DEQ_NEW_ARRAY(struct key, AUTH_KEYS_MAX);
    enum deq_rc rc = keys ? deq_text_read(path, FILE_MAX_BYTES, &text, &len, err)
                          : deq_fail(err, DEQ_ENOMEM, "no memory for API keys");
    if (rc && keys)
        deq_fail_prefix(err, rc, "auth.keys_file");
    if (text && strlen(text) != len)
        rc = deq_fail(err, DEQ_EFORMAT, "auth.keys_file: %s: holds a zero byte", path);
    unsigned line = 0;
    for (char *at = text, *next; !rc && at; at = next) {
        bool any;
        struct key k = {0};
        next = strchr(at, '\n');
        if (next)
            *next++ = 0;
        rc = parse_line(path, ++line, at, &k, &any, err);
        if (rc || !any)
            continue;
        for (size_t i = 0; i < n && !rc; i++)
            if (!memcmp(keys[i].hash, k.hash, HASH_BYTES) || keys[i].caller.id == k.caller.id)
                rc = deq_fail(err, DEQ_EFORMAT, "auth.keys_file: %s: line %u: the name or the key stands in it twice",
                              path, line);
        if (!rc && n == AUTH_KEYS_MAX)
            rc = deq_fail(err, DEQ_EFORMAT, "auth.keys_file: %s: more than %d keys", path, AUTH_KEYS_MAX);
        if (!rc)
            keys[n++] = k;
    }
    if (!rc && !n)
        rc = deq_fail(err, DEQ_EFORMAT, "auth.keys_file: %s: no key in it: nobody could do anything", path);
    deq_free(text);
    if (rc) {
        deq_free(keys);
        return rc;
    }
    *ret = keys;
    *ret_n = n;
    return DEQ_OK;
}

enum deq_rc auth_new(const char *path, struct auth **ret, struct deq_err *err)
{
    struct auth *a = DEQ_NEW(struct auth);
    if (!a)
        return deq_fail(err, DEQ_ENOMEM, "no memory for API keys");
    snprintf(a->path, sizeof a->path, "%s", path);
    const enum deq_rc rc = path[0] ? load(path, &a->keys, &a->n, err) : DEQ_OK;
    if (rc) {
        deq_free(a);
        return rc;
    }
    pthread_rwlock_init(&a->lock, NULL);
    *ret = a;
    return DEQ_OK;
}

enum deq_rc auth_reload(struct auth *a, struct deq_err *err)
{
    struct key *keys;
    size_t n;
    if (!a->path[0])
        return DEQ_OK;
    const enum deq_rc rc = load(a->path, &keys, &n, err);
    if (rc)
        return rc;
    pthread_rwlock_wrlock(&a->lock);
    struct key *old = a->keys;
    a->keys = keys;
    a->n = n;
    pthread_rwlock_unlock(&a->lock);
    deq_free(old);
    return DEQ_OK;
}

void auth_free(struct auth *a)
{
    if (!a)
        return;
    pthread_rwlock_destroy(&a->lock);
    deq_free(a->keys);
    deq_free(a);
}

bool auth_has_keys(const struct auth *a)
{
    return a->path[0] != 0;
}

bool auth_check(struct auth *a, const char *key, size_t n, struct caller *ret)
{
    unsigned char hash[HASH_BYTES];
    bool found = false;
    if (!n || n > KEY_MAX_BYTES || gnutls_hash_fast(GNUTLS_DIG_SHA256, key, n, hash))
        return false;
    pthread_rwlock_rdlock(&a->lock);
    for (size_t i = 0; i < a->n; i++) { /* all of them, each in constant time: the answer's time tells nothing */
        const bool same = gnutls_memcmp(hash, a->keys[i].hash, HASH_BYTES) == 0;
        *ret = same ? a->keys[i].caller : *ret;
        found = found || same;
    }
    pthread_rwlock_unlock(&a->lock);
    return found;
}

struct caller auth_anonymous(const void *address, size_t n)
{
    return (struct caller){.id = id_of(address, n), .weight = 1};
}
