// Launching, and what a launcher may ask of the device. Nothing here allocates or synchronises.
#pragma once

#include "common/platform.cuh"

namespace salient {

enum : int { SUCCESS = 0, INVALID_VALUE = 1, NOT_SUPPORTED = 801 };  // of cudaError_t

// Dynamic shared memory that a block may have: on every device, and on those of 9.0.
constexpr size_t SHARED_EVERYWHERE = 99 * 1024, SHARED_OF_SM_90 = 227 * 1024;

struct Launch {
    dim3 grid;
    uint32_t threads;           // per block, a multiple of 32
    uint32_t cluster = 1;       // blocks per cluster, along x
    bool cooperative = false;   // all blocks of the grid are resident at once
};

// A kernel, and the dynamic shared memory of its blocks. Every one that is launched or asked about
// anywhere is in the list, from before main: salient_prepare goes through it.
struct Kernel {
    const void* function;
    size_t shared_bytes;
    const Kernel* next;

    Kernel(const void* function, size_t shared_bytes)
        : function(function), shared_bytes(shared_bytes), next(listed) {
        listed = this;
    }

    static inline const Kernel* listed = nullptr;
};

template <auto KERNEL, size_t SHARED>
inline const Kernel kernel_of(reinterpret_cast<const void*>(KERNEL), SHARED);

// Lets the blocks of a kernel have their shared memory.
inline int allow_shared(const Kernel& kernel) {
    if (kernel.shared_bytes <= 48 * 1024) return SUCCESS;
    return cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(kernel.shared_bytes));
}

// Launches KERNEL, whose blocks have SHARED bytes of dynamic shared memory. Who launches a kernel
// of more than every device has says so by LIMIT.
template <auto KERNEL, size_t SHARED = 0, size_t LIMIT = SHARED_EVERYWHERE, typename... Arguments>
int launch(const Launch& l, SalientStream stream, const Arguments&... arguments) {
    static_assert(SHARED <= LIMIT, "there are devices without so much shared memory");
    if (int error = allow_shared(kernel_of<KERNEL, SHARED>)) return error;
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
    config.dynamicSmemBytes = SHARED;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    config.numAttrs = count;
    return cudaLaunchKernelEx(&config, KERNEL, arguments...);
}

// An attribute of the current device; 0 if it cannot be told.
inline int device_attribute(cudaDeviceAttr attribute) {
    int device, value;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) {
        return 0;
    }
    return value;
}

// Dynamic shared memory that a block may have on the current device.
inline size_t shared_limit() {
    return static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

// Blocks that a cooperative launch may have; 0 if that cannot be told.
template <auto KERNEL, size_t SHARED>
int resident_blocks(uint32_t threads) {
    int per_processor;
    if (allow_shared(kernel_of<KERNEL, SHARED>) != SUCCESS ||
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(
            &per_processor, KERNEL, static_cast<int>(threads), SHARED) != cudaSuccess) {
        return 0;
    }
    return per_processor * device_attribute(cudaDevAttrMultiProcessorCount);
}

inline int clear(void* address, size_t bytes, SalientStream stream) {
    return cudaMemsetAsync(address, 0, bytes, static_cast<cudaStream_t>(stream));
}

}  // namespace salient
