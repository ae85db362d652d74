/* What mhd.c (threads, connections) and mhd_exchange.c (requests and responses) share of the HTTP library that the
 * simulation is in libmicrohttpd's place. */
#ifndef DEQ_SIM_MHD_H
#define DEQ_SIM_MHD_H

#include <netinet/in.h>

#include "server/net/http_impl.h"
#include "tests/sim/sim.h"

enum { HEADERS = 32, WORKERS = 8 };

struct MHD_Response {
    unsigned refs;
    const char *data;
    uint64_t size, block;
    MHD_ContentReaderCallback reader;
    MHD_ContentReaderFreeCallback done;
    void *ctx;
    bool close;
    unsigned retry_ms;
};

struct MHD_Connection {
    bool used;
    struct MHD_Daemon *daemon;
    unsigned worker;
    struct socket *socket;
    enum { IN_HEAD, IN_BODY, TO_ANSWER, ANSWERING } state;
    bool suspended, resuming, asked;
    uint64_t claimed_ns; /* somebody has said that he will resume it */
    uint64_t active_ns;
    uint64_t head_ns; /* since then it has no whole head */
    unsigned timeout_s;
    void *socket_context, *request;
    struct sockaddr_in address;
    char *head; /* of the request, cut; zeros behind it */
    size_t head_bytes, looked_at;
    const char *method, *url, *version;
    struct {
        const char *key, *value;
    } header[HEADERS];
    size_t n_headers;
    uint64_t body_left;
    struct MHD_Response *response;
    unsigned status;
    bool head_sent;
    uint64_t at; /* bytes that the reader gave */
    char *piece; /* [piece_sent .. n_piece) wait for room */
    size_t n_piece, piece_sent;
};

struct MHD_Daemon {
    MHD_AccessHandlerCallback handler;
    MHD_RequestCompletedCallback completed;
    MHD_NotifyConnectionCallback connection;
    void *(*uri)(void *cls, const char *uri, struct MHD_Connection *c);
    void *cls, *completed_cls, *connection_cls;
    unsigned workers, timeout_s;
    bool stop, quiesced;
    pthread_t thread[WORKERS];
    unsigned next_worker;
};

/* Has the connection what libmicrohttpd would do for it at once? Then that is done, some of it. */
bool exchange_can_go(const struct MHD_Connection *c);
void exchange_go(struct MHD_Connection *c);
/* Its request, if there is one, and the connection have ended. */
void exchange_close(struct MHD_Connection *c, enum MHD_RequestTerminationCode code);

#endif
