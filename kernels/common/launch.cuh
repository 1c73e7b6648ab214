// Launching, and what a launcher may ask of the device. Nothing here allocates or synchronises.
#pragma once

#include "common/platform.cuh"

namespace salient {

enum : int { SUCCESS = 0, INVALID_VALUE = 1, NOT_SUPPORTED = 801 };  // of cudaError_t

struct Launch {
    dim3 grid;
    uint32_t threads;           // per block, a multiple of 32
    size_t shared_bytes = 0;    // dynamic shared memory per block
    uint32_t cluster = 1;       // blocks per cluster, along x
    bool cooperative = false;   // all blocks of the grid are resident at once
};

// The argument type as declared, not as deduced.
template <typename T>
struct Declared {
    using Type = T;
};

template <typename... P>
int allow_shared(void (*kernel)(P...), size_t bytes) {
    if (bytes <= 48 * 1024) return SUCCESS;
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(bytes));
}

template <typename... P>
int launch(void (*kernel)(P...), const Launch& l, SalientStream stream,
           typename Declared<P>::Type... arguments) {
    if (int error = allow_shared(kernel, l.shared_bytes)) return error;
    cudaLaunchAttribute attributes[2];
    unsigned count = 0;
    if (l.cluster > 1) {
        attributes[count].id = cudaLaunchAttributeClusterDimension;
        attributes[count].val.clusterDim.x = l.cluster;
        attributes[count].val.clusterDim.y = 1;
        attributes[count].val.clusterDim.z = 1;
        count++;
    }
    if (l.cooperative) {
        attributes[count].id = cudaLaunchAttributeCooperative;
        attributes[count].val.cooperative = 1;
        count++;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = l.grid;
    config.blockDim = dim3(l.threads);
    config.dynamicSmemBytes = l.shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    config.numAttrs = count;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// The compute capability of the current device, 80 for 8.0.
inline int capability() {
    int device, major, minor;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        return 0;
    }
    return major * 10 + minor;
}

// Blocks that a cooperative launch may have; 0 if that cannot be told.
template <typename... P>
int resident_blocks(void (*kernel)(P...), uint32_t threads, size_t shared_bytes) {
    int device, processors, per_processor;
    if (allow_shared(kernel, shared_bytes) != SUCCESS || cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) !=
            cudaSuccess ||
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel,
                                                      static_cast<int>(threads),
                                                      shared_bytes) != cudaSuccess) {
        return 0;
    }
    return processors * per_processor;
}

inline int clear(void* address, size_t bytes, SalientStream stream) {
    return cudaMemsetAsync(address, 0, bytes, static_cast<cudaStream_t>(stream));
}

}  // namespace salient
