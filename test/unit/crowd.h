/* crowd.h - sessions with a script each, run alone or driven together over one engine, and everything that the host sees of them. */
#ifndef CROWD_H
#define CROWD_H
#include "../../runtime/engine/drive.h"

enum { CROWD_MOST = 12 };

typedef enum crowd_act { CROWD_NOTHING, CROWD_CANCEL, CROWD_PAUSE, CROWD_STOP } crowd_act;

typedef struct crowd_member {
    /* The script. */
    const char *options[20]; /* of the session: key, value, ..., NULL */
    uint32_t story, n_prompt;
    uint32_t arrives; /* round of the drive in which its request begins */
    crowd_act act;    /* once, in answer to token `act_at` */
    uint32_t act_at;
    /* What the host saw: every field of every event is in the digest, log probabilities to the last bit. */
    kvrt_session handle;
    kvi_session *session;
    kvrt_status status;
    kvrt_result result;
    uint64_t digest;
    uint32_t n_tokens, n_demotions, rounds_paused;
    bool begun;
} crowd_member;

/* Token `pos` of a story of a model whose vocabulary has 92 tokens or more. */
int32_t crowd_token(uint32_t story, uint32_t pos);

/* Creates the member's session and makes it equal to its prompt; the outcome is empty. */
void crowd_join(kvrt_engine engine, crowd_member *m);
/* kvrt_generate to the end, going on after a pause. */
void crowd_alone(crowd_member *m);
/* All of them in one drive of the engine; a paused one goes on three rounds later. Calls `between` (may be NULL) before each round. Returns how many
 * allocations were made within rounds. */
uint64_t crowd_together(kvrt_engine engine, crowd_member *members, uint32_t n,
                        void (*between)(uint32_t round, void *user), void *user);
/* Fails the test unless both saw the same. */
void crowd_same(const crowd_member *alone, const crowd_member *together, const char *what);

#endif
