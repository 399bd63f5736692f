/* The part of NVML that Seawall asks, with NVIDIA's names and structures (nvml.h), for one device whose figures stand in
 * the file FAKE_NVML_STATE: bytes used and in all, per cent busy, degrees, uncorrected errors, last Xid. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef void *nvmlDevice_t;
typedef void *nvmlEventSet_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef struct {
    nvmlDevice_t device;
    unsigned long long eventType, eventData;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlEventData_t;

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, TIMEOUT = 10, GPU_IS_LOST = 15 };
static int the_device;
static unsigned long long told_xid;

static int state(unsigned long long found[6]) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    int count = fscanf(file, "%llu %llu %llu %llu %llu %llu", found, found + 1, found + 2, found + 3, found + 4, found + 5);
    fclose(file);
    return count == 6;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
nvmlReturn_t nvmlInit_v2(void) { return SUCCESS; }
const char *nvmlErrorString(nvmlReturn_t code) { return code == TIMEOUT ? "Timeout" : "GPU is lost"; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    *device = &the_device;
    return index == 0 ? SUCCESS : INVALID_ARGUMENT;
}
nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) { (void)device; *index = 0; return SUCCESS; }
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    (void)device;
    snprintf(name, length, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    (void)device;
    snprintf(uuid, length, "GPU-11111111-2222-3333-4444-555555555555");
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    unsigned long long now[6];
    (void)device;
    if (!state(now)) return GPU_IS_LOST;
    memory->used = now[0];
    memory->total = now[1];
    memory->free = now[1] - now[0];
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    unsigned long long now[6];
    (void)device;
    if (!state(now)) return GPU_IS_LOST;
    rates->gpu = (unsigned int)now[2];
    rates->memory = 0;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *degrees) {
    unsigned long long now[6];
    (void)device;
    if (sensor != 0 || !state(now)) return GPU_IS_LOST;
    *degrees = (unsigned int)now[3];
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, int type, int counter, unsigned long long *count) {
    unsigned long long now[6];
    (void)device;
    if (type != 1 || counter != 0 || !state(now)) return GPU_IS_LOST;
    *count = now[4];
    return SUCCESS;
}
nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) { *set = &told_xid; return SUCCESS; }
nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    (void)device;
    (void)set;
    return types == 8 ? SUCCESS : INVALID_ARGUMENT;
}
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int milliseconds) {
    unsigned long long now[6];
    (void)set;
    (void)milliseconds;
    if (!state(now) || now[5] == told_xid) return TIMEOUT;
    memset(data, 0, sizeof *data);
    data->device = &the_device;
    data->eventType = 8;
    data->eventData = told_xid = now[5];
    return SUCCESS;
}
