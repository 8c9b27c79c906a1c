/* SPDX-License-Identifier: Apache-2.0 */
#include "jepa_link.h"

#include <string.h>

enum {
  CRC_SIZE = 4,
  HEADER_SIZE = 16,
  FLAG_SIZE = 36,
  STATUS_SIZE = 76,
  TYPE_FLAG = 1,
  TYPE_STATUS = 2
};

/* Unsigned before the shift: where int has 16 bits a byte above 127 does not fit beside its sign.
 */
static uint16_t read_u16(const uint8_t* at) {
  return (uint16_t)(at[0] | (uint16_t)((uint16_t)at[1] << 8));
}

static uint32_t read_u32(const uint8_t* at) {
  return (uint32_t)read_u16(at) | (uint32_t)read_u16(at + 2) << 16;
}

static float read_f32(const uint8_t* at) {
  const uint32_t bits = read_u32(at);
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Whether a is less than b, on a clock that wraps. */
static bool before(uint32_t a, uint32_t b) { return (uint32_t)(a - b) > UINT32_C(0x7FFFFFFF); }

/* CRC-32 as in zlib and Ethernet. Half a byte at a time: a table of 64 bytes. */
static uint32_t crc32_of(const uint8_t* data, uint8_t size) {
  static const uint32_t table[16] = {
      UINT32_C(0x00000000), UINT32_C(0x1DB71064), UINT32_C(0x3B6E20C8), UINT32_C(0x26D930AC),
      UINT32_C(0x76DC4190), UINT32_C(0x6B6B51F4), UINT32_C(0x4DB26158), UINT32_C(0x5005713C),
      UINT32_C(0xEDB88320), UINT32_C(0xF00F9344), UINT32_C(0xD6D6A3E8), UINT32_C(0xCB61B38C),
      UINT32_C(0x9B64C2B0), UINT32_C(0x86D3D2D4), UINT32_C(0xA00AE278), UINT32_C(0xBDBDF21C)};
  uint32_t crc = UINT32_C(0xFFFFFFFF);
  uint8_t i;
  for (i = 0; i < size; ++i) {
    crc ^= data[i];
    crc = (crc >> 4) ^ table[crc & 15U];
    crc = (crc >> 4) ^ table[crc & 15U];
  }
  return ~crc;
}

/* How much longer than the fastest of late a frame was under way. The smallest difference of
 * arrival and sending stands for no delay; it may rise by what the clocks drift apart. When it
 * falls by more than that, or frames take longer before it is settled, a backlog is being read. */
static uint32_t delay_ms(jepa_link* link, uint32_t sent_ms, uint32_t now_ms) {
  const uint32_t measured = now_ms - sent_ms;
  uint32_t drift, delay, tolerance;
  if (!link->has_clock || now_ms - link->clock_last_ms > JEPA_LINK_FORGET_MS) {
    link->has_clock = true;
    link->settled = false;
    link->clock_offset = link->clock_anchor = measured;
    link->clock_anchored_ms = link->clock_drifted_ms = link->clock_last_ms = now_ms;
    return 0;
  }
  link->clock_last_ms = now_ms;
  drift = (now_ms - link->clock_drifted_ms) / JEPA_LINK_DRIFT_MS;
  link->clock_drifted_ms += drift * JEPA_LINK_DRIFT_MS;
  link->clock_offset += drift;
  link->clock_anchor -= drift;
  if (before(measured, link->clock_offset)) link->clock_offset = measured;
  if (before(link->clock_anchor, link->clock_offset)) link->clock_anchor = link->clock_offset;
  delay = measured - link->clock_offset;
  tolerance = link->settled ? JEPA_LINK_BACKLOG_MS : JEPA_LINK_SETTLE_TOLERANCE_MS;
  if (link->clock_anchor - link->clock_offset > tolerance) {
    link->clock_anchor = link->clock_offset;
    link->clock_anchored_ms = now_ms;
    link->settled = false;
  } else if (!link->settled && delay > JEPA_LINK_BACKLOG_MS) {
    link->clock_anchored_ms = now_ms;
  } else if (now_ms - link->clock_anchored_ms >= JEPA_LINK_SETTLE_MS) {
    link->settled = true;
  }
  return delay;
}

/* Whether the frame is newer than the last. */
static bool take_turn(jepa_link* link, uint32_t session, uint32_t seq) {
  if (!link->has_session || session != link->session) {
    if (link->has_session) ++link->restarts;
    link->has_session = true;
    link->session = session;
    link->has_clock = link->settled = false;
    link->remaining_ms = 0;
  } else if (seq == link->seq || before(seq, link->seq)) {
    ++link->repeated;
    return false;
  } else {
    link->lost += seq - link->seq - 1;
  }
  link->seq = seq;
  return true;
}

static void take_flag(jepa_link* link, uint32_t delay, uint32_t now_ms) {
  const uint8_t* at = link->payload;
  jepa_link_flag* flag = &link->flag;
  uint16_t valid_ms;
  flag->level = at[2] <= JEPA_LINK_REJECT ? at[2] : (uint8_t)JEPA_LINK_REJECT;
  flag->latched = (at[3] & 1U) != 0;
  flag->expired = (at[3] & 2U) != 0;
  flag->seq = read_u32(at + 8);
  flag->time_ms = read_u32(at + 12);
  flag->reasons = read_u32(at + 16);
  flag->confidence = read_f32(at + 20);
  flag->flag_seq = read_u32(at + 24);
  flag->valid_for_ms = read_u16(at + 28);
  link->received_ms = now_ms;
  valid_ms = flag->expired ? 0 : flag->valid_for_ms;
  link->remaining_ms = delay < valid_ms ? valid_ms - delay : 0;
  ++link->flags;
  if (valid_ms > 0 && link->remaining_ms == 0) ++link->late;
}

static void take_status(jepa_link* link) {
  const uint8_t* at = link->payload;
  jepa_link_status* status = &link->status;
  status->armed = (at[2] & 1U) != 0;
  status->calibrated = (at[2] & 2U) != 0;
  status->period_ms = read_u16(at + 16);
  status->alpha = read_f32(at + 20);
  memcpy(status->model, at + 24, 8);
  memcpy(status->calibration, at + 32, 8);
  memcpy(status->variant, at + 40, 16);
  memcpy(status->software, at + 56, 16);
  status->variant[16] = status->software[16] = '\0';
  ++link->statuses;
}

static jepa_link_event take_payload(jepa_link* link, uint32_t now_ms) {
  const uint8_t* at = link->payload;
  const uint8_t length = link->length;
  uint32_t delay;
  if (link->damaged || link->block_left > 0 || length < HEADER_SIZE + CRC_SIZE ||
      crc32_of(at, (uint8_t)(length - CRC_SIZE)) != read_u32(at + length - CRC_SIZE)) {
    ++link->corrupt;
    return JEPA_LINK_CORRUPT;
  }
  if (at[0] != JEPA_LINK_VERSION) {
    ++link->other_version;
    return JEPA_LINK_OTHER_VERSION;
  }
  if (!(at[1] == TYPE_FLAG && length == FLAG_SIZE) &&
      !(at[1] == TYPE_STATUS && length == STATUS_SIZE)) {
    ++link->unknown_type;
    return JEPA_LINK_UNKNOWN_TYPE;
  }
  if (!take_turn(link, read_u32(at + 4), read_u32(at + 8))) return JEPA_LINK_REPEATED;
  delay = delay_ms(link, read_u32(at + 12), now_ms);
  if (at[1] == TYPE_STATUS) {
    take_status(link);
    return JEPA_LINK_STATUS_FRAME;
  }
  take_flag(link, delay, now_ms);
  return JEPA_LINK_FLAG_FRAME;
}

/* Append a byte of the payload; longer payloads are no frame of any type. */
static void append(jepa_link* link, uint8_t byte) {
  if (link->length < JEPA_LINK_MAX_PAYLOAD) {
    link->payload[link->length++] = byte;
  } else {
    link->damaged = true;
  }
}

void jepa_link_init(jepa_link* link) { memset(link, 0, sizeof *link); }

jepa_link_event jepa_link_push(jepa_link* link, uint8_t byte, uint32_t now_ms) {
  if (byte == 0) { /* a delimiter: whatever came before, the next frame starts here */
    const jepa_link_event event = link->started ? take_payload(link, now_ms) : JEPA_LINK_NONE;
    link->length = link->block_left = 0;
    link->started = link->zero_due = link->damaged = false;
    return event;
  }
  link->started = true;
  if (link->damaged) return JEPA_LINK_NONE;
  if (link->block_left > 0) {
    append(link, byte);
    --link->block_left;
  } else { /* COBS: so many bytes until the next zero, which is not sent */
    if (link->zero_due) append(link, 0);
    link->zero_due = true; /* a block of 254 without a zero is longer than any payload */
    link->block_left = (uint8_t)(byte - 1);
  }
  return JEPA_LINK_NONE;
}

uint8_t jepa_link_level(jepa_link* link, uint32_t now_ms) {
  if (now_ms - link->received_ms >= link->remaining_ms) link->remaining_ms = 0;
  return link->settled && link->remaining_ms > 0 ? link->flag.level : (uint8_t)JEPA_LINK_UNKNOWN;
}
