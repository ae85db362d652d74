/* Pages in browsers. A page of any site can make a browser send requests here, also to a daemon on loopback; the
 * browser says whose page it was (Origin, Sec-Fetch-Site), and here is decided whether it may. And a name that its
 * owner has lead to this machine's loopback (DNS rebinding) makes a page of his look like one of ours: such names are
 * told by the Host header. Pure functions. Lists: items separated by '\n'. */
#ifndef DEQ_SERVER_ORIGIN_H
#define DEQ_SERVER_ORIGIN_H

#include "core/base/base.h"
#include "core/base/err.h"

/* What a request's head says. Strings may be NULL: no such header. */
struct origin_head {
    const char *method;
    const char *host;   /* of the target where that has one, else the Host header: NAME[:PORT] */
    const char *origin; /* Origin */
    unsigned n_origins; /* how often it is there */
    const char *site, *mode; /* Sec-Fetch-Site, Sec-Fetch-Mode */
};

enum origin_verdict {
    ORIGIN_NONE,    /* no page, or one that this daemon sent itself */
    ORIGIN_ALLOWED, /* a page of a site that is on the list: answers are for it to read */
    ORIGIN_FOREIGN, /* refused */
};

/* list: origins, exactly (SCHEME://HOST[:PORT], or "null"), or "*". */
enum origin_verdict origin_judge(const char *list, const struct origin_head *h);
/* Whether a request for this host may be served. Addresses, localhost and names without a dot cannot be somebody
 * else's; other names must be on the list of names (without a port), or the list be "*". host NULL or "": true. */
bool origin_host_allowed(const char *list, const char *host);
/* Checks lists of the configuration. */
enum deq_rc origin_check_origins(const char *option, const char *list, struct deq_err *err);
enum deq_rc origin_check_hosts(const char *option, const char *list, struct deq_err *err);

#endif
