/* Addresses to listen on: 127.0.0.1:8080, [::1]:8080, localhost:8080, unix:/run/deqd.sock or unix:/run/deqd.sock,mode=0660. */
#ifndef DEQ_SERVER_LISTEN_H
#define DEQ_SERVER_LISTEN_H

#include <sys/socket.h>

#include "core/base/base.h"
#include "core/base/err.h"

struct listen_address {
    struct sockaddr_storage addr;
    socklen_t len;
    unsigned mode; /* of a unix socket's file */
};

/* option stands in messages ("server.listen"). */
enum deq_rc listen_parse(const char *option, const char *text, struct listen_address *ret, struct deq_err *err);
/* A listening, non-blocking socket. The address in use (port 0 resolved) goes to ret_text [160]. A file that a dead daemon left at a unix address is
 * replaced; one that answers is not. */
enum deq_rc listen_open(const char *option, const char *text, int *ret_fd, char ret_text[160], struct deq_err *err);
/* Removes the file of a unix address. */
void listen_cleanup(const char *text);

#endif
