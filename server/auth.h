/* Who calls: API keys from a file, held as SHA-256 and compared in constant time.
 *
 * The file has one key a line: NAME SHA256-IN-HEX [admin] [priority] [weight=N] [depth=fixed|elastic]; '#' begins a
 * comment. The hash is made
 * by `printf %s KEY | sha256sum`. A key of weight N gets N times the share of the queue; the `priority` of a request
 * counts among the caller's own, that of a key with the word priority among everybody's; depth is that of its requests
 * that do not say themselves; an admin key may do everything, others nothing that is the operator's. Without a file
 * everybody may use everything but that. All functions are safe from any thread. */
#ifndef DEQ_SERVER_AUTH_H
#define DEQ_SERVER_AUTH_H

#include "core/base/base.h"
#include "core/base/err.h"
#include "server/depth.h"

enum { AUTH_KEYS_MAX = 1024, AUTH_WEIGHT_MAX = 1000 };

struct caller {
    uint64_t id;     /* of the key, or of the address of a caller without one; for fairness and logs */
    uint32_t weight;
    bool known, admin;
    bool priority;   /* that of its requests counts against other callers too */
    enum depth_mode depth;
};

/* What a client shows. */
struct credential {
    const char *key; /* [n] */
    size_t n;
};

struct auth;

/* path "": no keys. */
enum deq_rc auth_new(const char *path, struct auth **ret, struct deq_err *err);
/* Reads the file again; on failure the old keys stay. */
enum deq_rc auth_reload(struct auth *a, struct deq_err *err);
void auth_free(struct auth *a);
bool auth_has_keys(const struct auth *a);
/* key [n]: what the client sent. False: no such key. */
bool auth_check(struct auth *a, const char *key, size_t n, struct caller *ret);
/* A caller without a key: known by the address (IPv6: its /64). */
struct caller auth_anonymous(const void *address, size_t n);

#endif
