/* Grammars in GBNF, llama.cpp's notation (its grammars/README.md):
 *
 *     root ::= "yes" | [a-z]+ "," item{1,3} (" " item)?   # a comment
 *     item ::= [^,\x00-\x1f] | .
 *
 * Literals and classes are of characters (Unicode), rules may recur, `root` is where it begins. A rule goes on until
 * the next one begins, over as many lines as it likes. Refused by name: left recursion, tokens (<...>), rules that are
 * not there. */
#ifndef DEQ_FORM_GBNF_H
#define DEQ_FORM_GBNF_H

#include "core/form/expr.h"

enum deq_rc deq_gbnf_read(struct deq_exprs *x, const char *text, size_t len, uint32_t *ret_root, struct deq_err *err);

#endif
