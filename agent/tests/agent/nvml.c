/* A made-up libnvidia-ml.so: it says what the file STATE says, so that the real NVML code runs where
   there is no GPU. Each line of the file is `DEVICE KEY VALUE`; what is not there is not supported. The value of
   `!KEY` is the error that KEY gives, that of `!all` the one that everything gives but the UUID. Device -1 is the
   library. */
#include <stdio.h>
#include <string.h>

#define OK 0
#define INVALID 2
#define UNSUPPORTED 3
#define LOST 15

typedef struct {
  unsigned field, scope;
  long long at, latency;
  unsigned type, status;
  unsigned long long value;
} field_value;

typedef struct {
  char legacy[16];
  unsigned domain, bus, device, id, subsystem;
  char bus_id[32];
} pci_info;

static int find(int device, const char *key, unsigned long long *value) {
  char name[64];
  unsigned long long number;
  int at, found = 0;
  FILE *file = fopen(STATE, "r");
  if (!file) return 0;
  while (!found && fscanf(file, "%d %63s %llu", &at, name, &number) == 3) {
    if (at == device && !strcmp(name, key)) {
      *value = number;
      found = 1;
    }
  }
  fclose(file);
  return found;
}

static int device_of(void *handle) { return (int)(size_t)handle - 1; }

static int get(void *handle, const char *key, unsigned long long *value) {
  unsigned long long lost, code;
  char wrong[40];
  if (find(device_of(handle), "lost", &lost)) return LOST;
  snprintf(wrong, sizeof wrong, "!%s", key);
  if (find(device_of(handle), wrong, &code)) return (int)code;
  if (strcmp(key, "bus") && find(device_of(handle), "!all", &code)) return (int)code;
  return find(device_of(handle), key, value) ? OK : UNSUPPORTED;
}

static int wrong(int device, const char *key) {
  unsigned long long code;
  return find(device, key, &code) ? (int)code : OK;
}

int nvmlInit_v2(void) { return wrong(-1, "!init"); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "made up"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
  unsigned long long value = 0;
  find(-1, "count", &value);
  *count = (unsigned)value;
  return wrong(-1, "!count");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  unsigned count;
  nvmlDeviceGetCount_v2(&count);
  if (index >= count) return INVALID;
  if (wrong((int)index, "!handle")) return wrong((int)index, "!handle");
  *handle = (void *)(size_t)(index + 1);
  return OK;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
  unsigned long long value;
  int status = get(handle, "bus", &value);
  snprintf(text, length, "GPU-%d", device_of(handle));
  return status;
}

int nvmlDeviceGetPciInfo_v3(void *handle, pci_info *info) {
  unsigned long long bus;
  int status = get(handle, "bus", &bus);
  memset(info, 0, sizeof *info);
  snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", (unsigned)bus);
  return status;
}

int nvmlDeviceGetTotalEccErrors(void *handle, unsigned type, unsigned counter, unsigned long long *value) {
  (void)type;
  (void)counter;
  return get(handle, "ecc", value);
}

int nvmlDeviceGetMemoryErrorCounter(void *handle, unsigned type, unsigned counter, unsigned place,
                                    unsigned long long *value) {
  (void)type;
  (void)counter;
  (void)place;
  return get(handle, "sram", value);
}

int nvmlDeviceGetFieldValues(void *handle, int count, field_value *values) {
  char key[32];
  for (int at = 0; at < count; at++) {
    /* Those of a link name it as their scope; of the GPU as a whole they say nothing. */
    if (values[at].field >= 201 && values[at].field <= 222)
      snprintf(key, sizeof key, "field%u.%u", values[at].field, values[at].scope);
    else
      snprintf(key, sizeof key, "field%u", values[at].field);
    values[at].type = 3; /* unsigned long long */
    values[at].status = (unsigned)get(handle, key, &values[at].value);
  }
  return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons) {
  return get(handle, "throttle", reasons);
}

int nvmlDeviceGetPcieReplayCounter(void *handle, unsigned *value) {
  unsigned long long number = 0;
  int status = get(handle, "replays", &number);
  *value = (unsigned)number;
  return status;
}

int nvmlDeviceGetNvLinkState(void *handle, unsigned link, unsigned *up) {
  char key[32];
  unsigned long long number = 0;
  snprintf(key, sizeof key, "link%u", link);
  int status = get(handle, key, &number);
  *up = (unsigned)number;
  return status;
}

int nvmlDeviceGetNvLinkErrorCounter(void *handle, unsigned link, unsigned counter,
                                    unsigned long long *value) {
  char key[32];
  snprintf(key, sizeof key, "errors%u.%u", link, counter);
  return get(handle, key, value);
}
