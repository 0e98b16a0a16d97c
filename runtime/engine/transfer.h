/* transfer.h - saving and loading a session in pieces, between the steps of others: a submitted request whose work is bytes, not rows. While it
 * runs the session is submitted, so nobody changes it; a cancel is looked at between pieces, until a load has begun to take pages. */
#ifndef KVI_TRANSFER_H
#define KVI_TRANSFER_H
#include "snapshot.h"

#define KVI_TRANSFER_TURN_US 1000u /* that pieces may take before the next step of the others */

typedef struct kvi_transfer {
    uint64_t request;
    bool loads;
    uint32_t flags;
    kvi_saving saving;
    kvi_os_writer writer;
    kvi_loading loading;
    kvi_os_reader reader;
    uint8_t *bytes; /* (reader.n) of the file */
    uint64_t n_read;
    bool begun; /* loading: the file is read, and looked at */
} kvi_transfer;

/* Whether the pieces of any of the engine's submitted requests wait. */
bool kvi_transfers_wait(const kvi_engine *engine);
/* Pieces until the clock of the pace says `until`, one at least if `must`. `still`: no step is under way, so that pages may move. Sessions whose
 * transfer is over are submitted no longer. False: nothing could be done. */
bool kvi_transfers_go(kvi_engine *engine, uint64_t until, bool must, bool still);
/* They wait for room in the event queue. */
bool kvi_transfers_gagged(kvi_engine *engine);
/* The device is lost: they fail. */
void kvi_transfers_lose(kvi_engine *engine);
/* The session is closed, or its transfer is over: what it holds is freed, a file that is not whole removed. */
void kvi_transfer_free(kvi_session *session);

#endif
