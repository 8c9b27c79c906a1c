/* SPDX-License-Identifier: Apache-2.0 */
/* Receives the flags of JEPA Edge on a microcontroller. Copy jepa_link.h and jepa_link.c: C99, no
 * heap, no stdio, no interrupts, 300 bytes of state. The frames are in docs/serial.md.
 *
 *   static jepa_link link;
 *   jepa_link_init(&link);
 *   for (;;) {
 *     while (uart_get(&byte)) jepa_link_push(&link, byte, millis());
 *     switch (jepa_link_level(&link, millis())) {
 *       case JEPA_LINK_NOMINAL: go_on(); break;
 *       case JEPA_LINK_CAUTION: slow_down(); break;
 *       default: recover(); break;  // UNKNOWN and REJECT: do not act on the model
 *     }
 *   }
 *
 * One context calls it: push from the main loop, not from the interrupt that fills the buffer.
 * Times are milliseconds of one steady clock that wraps at 2^32. */
#ifndef JEPA_LINK_H
#define JEPA_LINK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define JEPA_LINK_VERSION 1
#define JEPA_LINK_MAX_PAYLOAD 128

/* For this long the transit delay must not have fallen by more than the tolerance before a level is
 * believed: a backlog that drains shows as a falling delay. */
#ifndef JEPA_LINK_SETTLE_MS
#define JEPA_LINK_SETTLE_MS 500
#endif
#ifndef JEPA_LINK_SETTLE_TOLERANCE_MS
#define JEPA_LINK_SETTLE_TOLERANCE_MS 20
#endif
/* A frame that took so much longer than another before the delay is known, or a delay that falls by
 * so much later, shows a backlog too: that time starts again. Keep it above the time between two
 * turns of your loop. */
#ifndef JEPA_LINK_BACKLOG_MS
#define JEPA_LINK_BACKLOG_MS 100
#endif
/* After a longer silence the sender's clock is learned anew. */
#ifndef JEPA_LINK_FORGET_MS
#define JEPA_LINK_FORGET_MS 2000
#endif
/* The clocks may drift apart by one millisecond in so many: 0.1 %, ten times what two crystals do.
 * A delay that grows more slowly than that is not seen. 100 (1 %) for a clock that is no crystal.
 */
#ifndef JEPA_LINK_DRIFT_MS
#define JEPA_LINK_DRIFT_MS 1000
#endif

/* Zero is never good: memory that was only cleared reads UNKNOWN. */
enum { JEPA_LINK_UNKNOWN = 0, JEPA_LINK_NOMINAL = 1, JEPA_LINK_CAUTION = 2, JEPA_LINK_REJECT = 3 };

/* Bits of reasons; docs/flags.md says what each means. */
#define JEPA_LINK_NON_FINITE UINT32_C(0x0001)
#define JEPA_LINK_STALE UINT32_C(0x0002)
#define JEPA_LINK_CLOCK_JUMP UINT32_C(0x0004)
#define JEPA_LINK_INPUT_MISMATCH UINT32_C(0x0008)
#define JEPA_LINK_OUT_OF_DISTRIBUTION UINT32_C(0x0010)
#define JEPA_LINK_INNOVATION UINT32_C(0x0020)
#define JEPA_LINK_PREDICTED_UNCERTAINTY UINT32_C(0x0040)
#define JEPA_LINK_UNCALIBRATED UINT32_C(0x0080)
#define JEPA_LINK_OVERLOAD UINT32_C(0x0100)
#define JEPA_LINK_WARMING_UP UINT32_C(0x0200)
#define JEPA_LINK_ACTION_MISMATCH UINT32_C(0x0400)
#define JEPA_LINK_DELAY UINT32_C(0x0800)
#define JEPA_LINK_DRIFT UINT32_C(0x1000)
#define JEPA_LINK_OUT_OF_DOMAIN UINT32_C(0x2000)
#define JEPA_LINK_LATCHED UINT32_C(0x4000)
#define JEPA_LINK_NOT_ARMED UINT32_C(0x8000)

/* What a byte completed. */
typedef enum {
  JEPA_LINK_NONE = 0,     /* nothing yet */
  JEPA_LINK_FLAG_FRAME,   /* link->flag is new */
  JEPA_LINK_STATUS_FRAME, /* link->status is new */
  JEPA_LINK_CORRUPT,      /* damaged: refused */
  JEPA_LINK_REPEATED,     /* replay, duplicate or out of order: refused */
  JEPA_LINK_OTHER_VERSION,
  JEPA_LINK_UNKNOWN_TYPE
} jepa_link_event;

/* The last flag as it was received. Act on jepa_link_level, which knows how old it is. */
typedef struct {
  uint32_t seq;     /* frames of the session */
  uint32_t time_ms; /* sender's clock */
  uint32_t reasons;
  uint32_t flag_seq; /* the flag's own number */
  float confidence;  /* conformal p-value, 0 to 1; NaN when there is none */
  uint16_t valid_for_ms;
  uint8_t level;
  bool latched;
  bool expired; /* the sender has no flag, or its time is over */
} jepa_link_flag;

/* Who is speaking. */
typedef struct {
  float alpha; /* share of nominal episodes that may reach CAUTION; NaN without a calibration */
  uint16_t period_ms;
  bool armed;
  bool calibrated;
  uint8_t model[8]; /* first bytes of the SHA-256 of the model's variant; zeros: not known */
  uint8_t calibration[8];
  char variant[17];
  char software[17];
} jepa_link_status;

/* Everything below the first two members is for jepa_link.c, but for the counters, which are yours
 * to read: corrupt frames, lost ones (gaps in seq), late ones (their time was over when they came).
 */
typedef struct {
  jepa_link_flag flag;
  jepa_link_status status;
  uint32_t flags, statuses, corrupt, lost, repeated, late, restarts, other_version, unknown_type;

  uint32_t session, seq;
  uint32_t clock_offset, clock_anchor, clock_anchored_ms, clock_drifted_ms, clock_last_ms;
  uint32_t received_ms, remaining_ms;
  uint8_t payload[JEPA_LINK_MAX_PAYLOAD];
  uint8_t length, block_left;
  bool started, zero_due, damaged;
  bool has_session, has_clock, settled;
} jepa_link;

/* Start with nothing known: the level is UNKNOWN. */
void jepa_link_init(jepa_link* link);

/* Take one byte that came at now_ms. */
jepa_link_event jepa_link_push(jepa_link* link, uint8_t byte, uint32_t now_ms);

/* The level to act on now: UNKNOWN unless a flag whose age is known is still valid. Never with a
 * time before that of the last push. Call it at least once a week: expiry is remembered, so that a
 * wrapping clock cannot revive a flag. */
uint8_t jepa_link_level(jepa_link* link, uint32_t now_ms);

#ifdef __cplusplus
}
#endif

#endif /* JEPA_LINK_H */
