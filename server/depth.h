/* Whether the tolerance that a text is solved to may open while the server is late (server/work/elastic.h): by the
 * request, by its key, by the configuration; the first that says it counts. */
#ifndef DEQ_SERVER_DEPTH_H
#define DEQ_SERVER_DEPTH_H

enum depth_mode { DEPTH_UNSAID, DEPTH_FIXED, DEPTH_ELASTIC };

#endif
