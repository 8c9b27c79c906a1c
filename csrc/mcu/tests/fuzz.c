/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever bytes come: the decoder accepts a frame if and only if a second, slow and plain decoder
 * here does, the frame after any delimiter is accepted again, and a level other than UNKNOWN is
 * that of the last flag accepted, whose time is not over, of a sender heard for long enough.
 *
 * With libFuzzer:  clang -fsanitize=fuzzer,address,undefined fuzz.c ../jepa_link.c
 * Without:         cc -DJEPA_LINK_FUZZ_MAIN -fsanitize=address,undefined fuzz.c ../jepa_link.c
 *                  ./a.out SECONDS SEED */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../jepa_link.h"

#define REQUIRE(condition)                                                  \
  do {                                                                      \
    if (!(condition)) {                                                     \
      fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #condition); \
      abort();                                                              \
    }                                                                       \
  } while (0)

enum { MOST = 1024 };

/* The plain decoder: a CRC bit by bit, and COBS on a whole buffer. */
static uint32_t plain_crc(const uint8_t* data, size_t size) {
  uint32_t crc = UINT32_C(0xFFFFFFFF);
  size_t i;
  int bit;
  for (i = 0; i < size; ++i) {
    crc ^= data[i];
    for (bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (UINT32_C(0xEDB88320) & (0U - (crc & 1U)));
  }
  return ~crc;
}

/* Returns the payload's size, or -1 when the stuffing is wrong. */
static int plain_unstuff(const uint8_t* in, size_t size, uint8_t* out) {
  size_t at = 0;
  int length = 0;
  while (at < size) {
    const size_t code = in[at++];
    if (at + code - 1 > size) return -1;
    memcpy(out + length, in + at, code - 1);
    length += (int)code - 1;
    at += code - 1;
    if (code < 255 && at < size) out[length++] = 0;
  }
  return length;
}

static uint32_t word(const uint8_t* at) {
  return at[0] + 256U * (at[1] + 256U * (at[2] + 256U * (uint32_t)at[3]));
}

static jepa_link_event plain_verdict(const uint8_t* stuffed, size_t size, uint8_t* payload) {
  const int length = plain_unstuff(stuffed, size, payload);
  if (length < 20 || length > JEPA_LINK_MAX_PAYLOAD) return JEPA_LINK_CORRUPT;
  if (plain_crc(payload, (size_t)length - 4) != word(payload + length - 4))
    return JEPA_LINK_CORRUPT;
  if (payload[0] != 1) return JEPA_LINK_OTHER_VERSION;
  if (payload[1] == 1 && length == 36) return JEPA_LINK_FLAG_FRAME;
  if (payload[1] == 2 && length == 76) return JEPA_LINK_STATUS_FRAME;
  return JEPA_LINK_UNKNOWN_TYPE;
}

static size_t stuff(const uint8_t* payload, size_t size, uint8_t* out) {
  size_t code_at = 0, at = 1, i;
  uint8_t code = 1;
  for (i = 0; i < size; ++i) {
    if (payload[i] != 0) {
      out[at++] = payload[i];
      ++code;
    }
    if (payload[i] == 0 || code == 255) {
      out[code_at] = code;
      code_at = at++;
      code = 1;
    }
  }
  out[code_at] = code;
  return at;
}

/* The line, seen from outside: what lies between delimiters goes to the plain decoder too. */
typedef struct {
  jepa_link link;
  uint8_t stuffed[4 * MOST];
  size_t size;
  uint32_t now_ms, seq;
  /* Of the frames accepted: the session, since when it is heard without a long silence, the last
   * frame, and the last flag. */
  uint32_t session, heard_since_ms, heard_ms, flag_ms, valid_for_ms;
  uint8_t level;
  bool heard;
} line;

static void remember(line* on, const uint8_t* payload, bool is_flag) {
  const uint32_t session = word(payload + 4);
  if (!on->heard || session != on->session || on->now_ms - on->heard_ms > JEPA_LINK_FORGET_MS)
    on->heard_since_ms = on->now_ms;
  if (session != on->session) on->valid_for_ms = 0;
  on->heard = true;
  on->session = session;
  on->heard_ms = on->now_ms;
  if (!is_flag) return;
  on->flag_ms = on->now_ms;
  on->level = payload[2] < 3 ? payload[2] : 3;
  on->valid_for_ms = (payload[3] & 2) != 0 ? 0 : payload[28] + 256U * payload[29];
}

static void check_level(line* on) {
  const uint8_t level = jepa_link_level(&on->link, on->now_ms);
  if (level == JEPA_LINK_UNKNOWN) return;
  REQUIRE(on->heard && level == on->level);
  REQUIRE(on->now_ms - on->flag_ms < on->valid_for_ms);
  REQUIRE(on->heard_ms - on->heard_since_ms >= JEPA_LINK_SETTLE_MS);
}

static void feed(line* on, uint8_t byte) {
  const jepa_link before = on->link;
  const jepa_link_event event = jepa_link_push(&on->link, byte, on->now_ms);
  if (byte != 0) {
    REQUIRE(event == JEPA_LINK_NONE);
    if (on->size < sizeof on->stuffed) on->stuffed[on->size++] = byte;
    return;
  }
  if (on->size == 0) {
    REQUIRE(event == JEPA_LINK_NONE);
  } else {
    static uint8_t payload[8 * MOST];
    const jepa_link_event expected = plain_verdict(on->stuffed, on->size, payload);
    const bool accepted = expected == JEPA_LINK_FLAG_FRAME || expected == JEPA_LINK_STATUS_FRAME;
    REQUIRE(event == expected || (accepted && event == JEPA_LINK_REPEATED));
    REQUIRE(event != JEPA_LINK_REPEATED || before.has_session);
    if (event != JEPA_LINK_FLAG_FRAME) {
      REQUIRE(memcmp(&before.flag, &on->link.flag, sizeof before.flag) == 0);
    }
    if (accepted && event == expected) remember(on, payload, event == JEPA_LINK_FLAG_FRAME);
  }
  on->size = 0;
}

static void put(uint8_t* at, uint32_t number) {
  int i;
  for (i = 0; i < 4; ++i) at[i] = (uint8_t)(number >> 8 * i);
}

/* Raw bytes, or a body with the right CRC and stuffing, or one with a byte of it damaged. Half of
 * the bodies are the next frame of one session, up to 31 ms old. */
static void play(line* on, const uint8_t* data, size_t size) {
  static uint8_t payload[MOST], stuffed[2 * MOST];
  while (size >= 3) {
    const uint8_t kind = data[0];
    const size_t wanted = data[1], length = wanted < size - 3 ? wanted : size - 3;
    size_t count, i;
    on->now_ms += data[2];
    data += 3, size -= 3;
    if (kind % 4 == 0) {
      for (i = 0; i < length; ++i) feed(on, data[i]);
    } else {
      uint32_t crc;
      memcpy(payload, data, length);
      if (kind % 4 >= 2 && length >= 2) { /* a frame that belongs to a type */
        const size_t body = kind % 8 < 4 ? 32 : 72;
        memset(payload + length, 0, MOST - length);
        payload[0] = 1;
        payload[1] = body == 32 ? 1 : 2;
        if (kind & 0x20) {
          put(payload + 4, 7);
          put(payload + 8, ++on->seq);
          put(payload + 12, on->now_ms - payload[12] % 32);
        }
        count = body;
      } else {
        count = length;
      }
      crc = plain_crc(payload, count);
      put(payload + count, crc);
      count = stuff(payload, count + 4, stuffed);
      if (kind % 4 == 3) stuffed[(kind + on->now_ms) % count] ^= (uint8_t)(kind | 1U);
      for (i = 0; i < count; ++i) feed(on, stuffed[i]);
      if (kind < 0x80) feed(on, 0);
    }
    data += length, size -= length;
    check_level(on);
  }
}

/* A flag of a session that is new, so that no earlier seq stands in its way. */
static void recover(line* on) {
  uint8_t payload[36] = {1, 1, JEPA_LINK_NOMINAL}, stuffed[40];
  size_t count, i;
  feed(on, 0);
  put(payload + 4, on->link.session + 1);
  payload[28] = 200;
  put(payload + 32, plain_crc(payload, 32));
  count = stuff(payload, sizeof payload, stuffed);
  for (i = 0; i < count; ++i) feed(on, stuffed[i]);
  on->size = 0;
  REQUIRE(jepa_link_push(&on->link, 0, on->now_ms) == JEPA_LINK_FLAG_FRAME);
  REQUIRE(on->link.flag.level == JEPA_LINK_NOMINAL && on->link.flag.valid_for_ms == 200);
  REQUIRE(jepa_link_level(&on->link, on->now_ms) == JEPA_LINK_UNKNOWN); /* not settled yet */
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static line on;
  if (size > MOST) return 0;
  memset(&on, 0, sizeof on);
  jepa_link_init(&on.link);
  play(&on, data, size);
  recover(&on);
  return 0;
}

#ifdef JEPA_LINK_FUZZ_MAIN
static uint32_t draw(uint32_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

int main(int count, char** arguments) {
  static uint8_t data[MOST];
  const double seconds = count > 1 ? atof(arguments[1]) : 1.0;
  uint32_t state = count > 2 ? (uint32_t)atol(arguments[2]) | 1U : 1U;
  unsigned long runs = 0;
  const clock_t end = clock() + (clock_t)(seconds * (double)CLOCKS_PER_SEC);
  while (clock() < end) {
    const size_t size = draw(&state) % MOST;
    size_t i;
    for (i = 0; i < size; ++i) {
      const uint32_t word_drawn = draw(&state);
      /* Zeros, small and large numbers are worth more than the rest. */
      data[i] = (uint8_t)(word_drawn % 3 == 0 ? word_drawn >> 30 : word_drawn >> 8);
      if (word_drawn % 17 == 0) data[i] = 0xFF;
    }
    LLVMFuzzerTestOneInput(data, size);
    ++runs;
  }
  printf("%lu inputs\n", runs);
  return 0;
}
#endif
