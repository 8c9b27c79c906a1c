/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the decoder on what tests/serial/test_mcu.py sends: lines "<now_ms> <hex bytes>", and prints
 * every event, then the level and the counters after the line. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../jepa_link.h"

static uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static void print_hex(const uint8_t* bytes, int size) {
  int i;
  for (i = 0; i < size; ++i) printf("%02x", (unsigned)bytes[i]);
}

static void print_event(const jepa_link* link, jepa_link_event event) {
  const jepa_link_flag* flag = &link->flag;
  const jepa_link_status* status = &link->status;
  if (event == JEPA_LINK_FLAG_FRAME) {
    printf("flag %" PRIu32 " %" PRIu32 " %d %d %d %" PRIu32 " %08" PRIx32 " %" PRIu32 " %d\n",
           flag->seq, flag->time_ms, flag->level, flag->latched, flag->expired, flag->reasons,
           float_bits(flag->confidence), flag->flag_seq, flag->valid_for_ms);
  } else if (event == JEPA_LINK_STATUS_FRAME) {
    printf("status %d %d %d %08" PRIx32 " ", status->armed, status->calibrated, status->period_ms,
           float_bits(status->alpha));
    print_hex(status->model, 8);
    printf(" ");
    print_hex(status->calibration, 8);
    printf(" %s|%s\n", status->variant, status->software);
  }
}

int main(void) {
  static jepa_link link; /* clear memory is as good as jepa_link_init: UNKNOWN */
  uint32_t now_ms;
  if (jepa_link_level(&link, 12345) != JEPA_LINK_UNKNOWN) return 1;
  jepa_link_init(&link);
  while (scanf("%" SCNu32 "%*1[ ]", &now_ms) == 1) {
    int digit, byte = 1;
    while ((digit = getchar()) != EOF && digit != '\n') {
      byte = 16 * byte + (digit <= '9' ? digit - '0' : digit - 'a' + 10);
      if (byte < 256) continue; /* the leading 1 has not left yet */
      print_event(&link, jepa_link_push(&link, (uint8_t)(byte & 255), now_ms));
      byte = 1;
    }
    printf("level %d %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32
           " %" PRIu32 " %" PRIu32 " %" PRIu32 "\n",
           jepa_link_level(&link, now_ms), link.flags, link.statuses, link.corrupt, link.lost,
           link.repeated, link.late, link.restarts, link.other_version, link.unknown_type);
  }
  return 0;
}
