/* Bodies that say something: members by the tables that the parsers go by (server/api/fields.h), of their kind and
 * about their ranges, which random changes of JSON seldom make. */
#ifndef DEQ_FUZZ_MEMBERS_H
#define DEQ_FUZZ_MEMBERS_H

#include "server/api/fields.h"

/* Some members of a body, or of an object in it, are set, or go. random: fuzz_next's. */
size_t fuzz_mutate_members(uint8_t *body, size_t n, size_t max, const struct fields *f, uint64_t *random);

#endif
