/* Addresses to listen on: 127.0.0.1:8080, [::1]:8080, localhost:8080, unix:/run/deqd.sock or
 * unix:/run/deqd.sock,mode=0660. And sockets that a supervisor opened for us: the protocol of sd_listen_fds(3), which
 * is three variables of the environment. On the main thread, at start and end. */
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
/* Port 0: the system picks one. */
bool listen_takes_free_port(const struct listen_address *a);
/* A listening, non-blocking socket. The address in use (port 0 resolved) goes to ret_text [160]. A file that a dead
 * daemon left at a unix address is replaced; one that answers is not. */
enum deq_rc listen_open(const char *option, const char *text, int *ret_fd, char ret_text[160], struct deq_err *err);
/* Removes the file of a unix address. */
void listen_cleanup(const char *text);

/* Descriptors that take the place of server.listen and server.admin_listen; -1: none. The supervisor holds the same
 * sockets: whoever closes them must not shut them down nor remove their files, so that clients wait there for the
 * daemon that comes next. */
struct listen_inherited {
    int main, admin;
};
/* Takes LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES out of the environment. A socket named "admin" is the admin one,
 * another the main one; without names the first is the main one and the second the admin one. DEQ_EINVAL: more than one
 * of a kind, or a descriptor that is no listening stream socket. */
enum deq_rc listen_inherit(struct listen_inherited *ret, struct deq_err *err);
/* The address of an inherited socket, "unix:/PATH" too. */
void listen_name(int fd, char ret_text[160]);

/* Whether only this machine reaches the socket, by an address that every browser on it can name. */
bool listen_is_loopback(int fd);

#endif
