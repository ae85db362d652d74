/* The door's part of cores.h: how many threads are worth having, and whether each keeps to a core of its own. */
#ifndef DEQ_BASE_PIN_H
#define DEQ_BASE_PIN_H

/* auto: where this process seems to own its cores, by affinity, quotas and what other processes of this library
 * claimed; always: wherever there are enough */
enum deq_pin { DEQ_PIN_AUTO, DEQ_PIN_ALWAYS, DEQ_PIN_NEVER };

/* Threads that this process can run at once, by affinity and its cgroups' quotas: 1 to 256. */
unsigned deq_cores(void);

#endif
