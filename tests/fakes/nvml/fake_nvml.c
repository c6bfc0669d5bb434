/* NVML as its header declares it, answering what the file "answers" beside the library says.
 *
 * Each line: a key and a number, "!<code>" for that nvmlReturn_t, or "hang" for as long as it says
 * so. Keys: "init", "count", and of each GPU "<index>.<what>". What has no line is not supported.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int nvmlReturn_t;
typedef struct { int index; } *nvmlDevice_t;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, VERSION_MISMATCH = 25 };

typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
typedef union {
    double dVal; int siVal; unsigned int uiVal; unsigned long ulVal;
    unsigned long long ullVal; signed long long sllVal; unsigned short usVal;
} nvmlValue_t;
typedef struct {
    unsigned int fieldId, scopeId;
    long long timestamp, latencyUsec;
    int valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;

static struct { int index; } devices[16];
static int references;

static nvmlReturn_t look(const char *key, unsigned long long *value) {
    Dl_info info;
    char own[4096], path[8192], name[128], text[128];
    dladdr((void *)look, &info);
    snprintf(own, sizeof own, "%s", info.dli_fname);
    snprintf(path, sizeof path, "%s/answers", dirname(own));
    for (;;) {
        int hangs = 0;
        nvmlReturn_t result = NOT_SUPPORTED;
        FILE *file = fopen(path, "r");
        while (file && fscanf(file, "%127s %127s", name, text) == 2) {
            if (strcmp(name, key)) continue;
            hangs = !strcmp(text, "hang");
            result = text[0] == '!' ? atoi(text + 1) : SUCCESS;
            *value = strtoull(text, NULL, 10);
        }
        if (file) fclose(file);
        if (!hangs) return result;
        usleep(2000);
    }
}

static nvmlReturn_t ask(nvmlDevice_t gpu, const char *what, unsigned long long *value) {
    char key[128];
    if (!references) return UNINITIALIZED;
    snprintf(key, sizeof key, "%d.%s", gpu->index, what);
    return look(key, value);
}

static nvmlReturn_t number(nvmlDevice_t gpu, const char *what, unsigned int *out) {
    unsigned long long value = 0;
    nvmlReturn_t result = ask(gpu, what, &value);
    if (!result) *out = (unsigned int)value;
    return result;
}

nvmlReturn_t nvmlInit_v2(void) {
    unsigned long long value = 0;
    nvmlReturn_t result = look("init", &value);
    if (!result) references++;
    return result;
}

nvmlReturn_t nvmlShutdown(void) { return references ? (references--, SUCCESS) : UNINITIALIZED; }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    unsigned long long value = 0;
    nvmlReturn_t result = references ? look("count", &value) : UNINITIALIZED;
    *count = (unsigned int)value;
    return result;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *gpu) {
    unsigned long long value = 0;
    char key[32];
    nvmlReturn_t result;
    snprintf(key, sizeof key, "%u.handle", index);
    result = look(key, &value);
    devices[index].index = (int)index;
    *gpu = (nvmlDevice_t)&devices[index];
    return result == NOT_SUPPORTED ? SUCCESS : result;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t gpu, char *text, unsigned int length) {
    unsigned long long value = 0;
    nvmlReturn_t result = ask(gpu, "uuid", &value);
    if (!result) snprintf(text, length, "GPU-%08llu-0000-0000-0000-000000000000", value);
    return result;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t gpu, nvmlUtilization_t *rates) {
    rates->memory = 77;
    return number(gpu, "load", &rates->gpu);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t gpu, nvmlMemory_v2_t *memory) {
    if (memory->version != (sizeof(nvmlMemory_v2_t) | 2u << 24)) return VERSION_MISMATCH;
    memory->reserved = memory->free = 5;
    return ask(gpu, "total", &memory->total) ?: ask(gpu, "used", &memory->used);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t gpu, nvmlMemory_t *memory) {
    memory->free = 5;
    return ask(gpu, "old_total", &memory->total) ?: ask(gpu, "old_used", &memory->used);
}

#ifdef AFTER_13
typedef struct { unsigned int version; int sensorType; int temperature; } nvmlTemperature_v1_t;

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t gpu, nvmlTemperature_v1_t *temperature) {
    if (temperature->version != (sizeof(nvmlTemperature_v1_t) | 1u << 24)) return VERSION_MISMATCH;
    return number(gpu, "celsius", (unsigned int *)&temperature->temperature);
}
#else
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t gpu, int sensor, unsigned int *celsius) {
    return sensor ? INVALID_ARGUMENT : number(gpu, "celsius", celsius);
}
#endif

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t gpu, int kind, unsigned int *celsius) {
    return number(gpu, kind == 3 ? "celsius_max" : kind == 1 ? "celsius_slowdown" : "?", celsius);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t gpu, unsigned int *milliwatts) {
    return number(gpu, "power", milliwatts);
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t gpu, int count, nvmlFieldValue_t *fields) {
    for (int i = 0; i < count; i++) {
        unsigned int id = fields[i].fieldId;
        fields[i].value.ullVal = ~0ULL;
        fields[i].timestamp = fields[i].latencyUsec = 1;
        fields[i].valueType = 1; /* NVML_VALUE_TYPE_UNSIGNED_INT */
        fields[i].nvmlReturn =
            number(gpu, id == 185 ? "power_average" : id == 186 ? "power_now" : "?",
                   &fields[i].value.uiVal);
    }
    return references ? SUCCESS : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t gpu, unsigned long long *millijoules) {
    return ask(gpu, "energy", millijoules);
}

static nvmlReturn_t clock_of(nvmlDevice_t gpu, int kind, const char *which, unsigned int *mhz) {
    char what[64];
    snprintf(what, sizeof what, "%s.%s", kind == 0 ? "graphics" : kind == 2 ? "memory" : "?", which);
    return number(gpu, what, mhz);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t gpu, int kind, unsigned int *mhz) {
    return clock_of(gpu, kind, "now", mhz);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t gpu, int kind, unsigned int *mhz) {
    return clock_of(gpu, kind, "max", mhz);
}

nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t gpu, int kind, int id, unsigned int *mhz) {
    return id == 1 ? clock_of(gpu, kind, "limit", mhz) : INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t gpu, unsigned int *percent) {
    return number(gpu, "fan", percent);
}

#ifdef BEFORE_535
#define nvmlDeviceGetCurrentClocksEventReasons nvmlDeviceGetCurrentClocksThrottleReasons
#endif

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t gpu, unsigned long long *bits) {
    return ask(gpu, "reasons", bits);
}
