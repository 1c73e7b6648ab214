//! Error codes. `CUresult` and `cudaError_t` number what they share alike.

use std::ffi::CStr;
use std::fmt;

/// An error of the driver or of the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

/// What an entry point gives.
pub(crate) type Result<T = ()> = std::result::Result<T, Code>;

impl Code {
    /// An argument that is out of place.
    pub(crate) const INVALID_VALUE: Self = Self(1);
    /// No memory left.
    pub(crate) const OUT_OF_MEMORY: Self = Self(2);
    /// `cuInit` was not called.
    pub(crate) const NOT_INITIALIZED: Self = Self(3);
    /// Of the runtime: a grid or block that no device takes.
    pub(crate) const INVALID_CONFIGURATION: Self = Self(9);
    /// Of the runtime: not a variable that was registered.
    pub(crate) const INVALID_SYMBOL: Self = Self(13);
    /// Of the runtime: no such direction of a copy.
    pub(crate) const INVALID_DIRECTION: Self = Self(21);
    /// Of the runtime: a kernel call without its configuration.
    pub(crate) const MISSING_CONFIGURATION: Self = Self(52);
    /// Of the runtime: not a kernel that was registered.
    pub(crate) const INVALID_DEVICE_FUNCTION: Self = Self(98);
    /// No such device.
    pub(crate) const INVALID_DEVICE: Self = Self(101);
    /// Code that is none.
    pub(crate) const INVALID_IMAGE: Self = Self(200);
    /// No context is current, or it is none.
    pub(crate) const INVALID_CONTEXT: Self = Self(201);
    /// Code for other devices only.
    pub(crate) const NO_BINARY_FOR_GPU: Self = Self(209);
    /// No such limit.
    pub(crate) const UNSUPPORTED_LIMIT: Self = Self(215);
    /// Devices that do not reach each other.
    pub(crate) const PEER_ACCESS_UNSUPPORTED: Self = Self(217);
    /// PTX that does not compile.
    pub(crate) const INVALID_PTX: Self = Self(218);
    /// PTX that is newer than the driver.
    pub(crate) const UNSUPPORTED_PTX_VERSION: Self = Self(222);
    /// No such file.
    pub(crate) const FILE_NOT_FOUND: Self = Self(301);
    /// A handle that is none, or was destroyed.
    pub(crate) const INVALID_HANDLE: Self = Self(400);
    /// What is not possible now.
    pub(crate) const ILLEGAL_STATE: Self = Self(401);
    /// No such name.
    pub(crate) const NOT_FOUND: Self = Self(500);
    /// Not done yet, which is no failure.
    pub(crate) const NOT_READY: Self = Self(600);
    /// A kernel touched what is not its memory.
    pub(crate) const ILLEGAL_ADDRESS: Self = Self(700);
    /// A launch that takes more registers than there are.
    pub(crate) const OUT_OF_RESOURCES: Self = Self(701);
    /// A kernel that did not end.
    pub(crate) const TIMEOUT: Self = Self(702);
    /// Peer access was not enabled.
    pub(crate) const PEER_NOT_ENABLED: Self = Self(705);
    /// The context is destroyed.
    pub(crate) const CONTEXT_DESTROYED: Self = Self(709);
    /// An assertion failed in a kernel.
    pub(crate) const ASSERT: Self = Self(710);
    /// Host memory that is registered.
    pub(crate) const HOST_ALREADY_REGISTERED: Self = Self(712);
    /// Host memory that is not registered.
    pub(crate) const HOST_NOT_REGISTERED: Self = Self(713);
    /// A kernel used an instruction that the device lacks.
    pub(crate) const ILLEGAL_INSTRUCTION: Self = Self(715);
    /// A kernel used a misaligned address.
    pub(crate) const MISALIGNED: Self = Self(716);
    /// A kernel failed otherwise.
    pub(crate) const LAUNCH_FAILED: Self = Self(719);
    /// A cooperative grid that is not resident at once.
    pub(crate) const COOPERATIVE_TOO_LARGE: Self = Self(720);
    /// A call from where none is permitted.
    pub(crate) const NOT_PERMITTED: Self = Self(800);
    /// What this device or this driver lacks.
    pub(crate) const NOT_SUPPORTED: Self = Self(801);
    /// Another driver is in the process.
    pub(crate) const DRIVER_MISMATCH: Self = Self(803);
    /// What is not permitted while a stream captures.
    pub(crate) const CAPTURE_UNSUPPORTED: Self = Self(900);
    /// The capture has failed before.
    pub(crate) const CAPTURE_INVALIDATED: Self = Self(901);
    /// Two captures would become one.
    pub(crate) const CAPTURE_MERGE: Self = Self(902);
    /// A capture ends in another stream than it began in.
    pub(crate) const CAPTURE_UNMATCHED: Self = Self(903);
    /// A capture ends while other streams are not joined.
    pub(crate) const CAPTURE_UNJOINED: Self = Self(904);
    /// A capture would depend on what is outside it.
    pub(crate) const CAPTURE_ISOLATION: Self = Self(905);
    /// The legacy stream would wait for a capture.
    pub(crate) const CAPTURE_IMPLICIT: Self = Self(906);
    /// An event that was last recorded in a capture.
    pub(crate) const CAPTURED_EVENT: Self = Self(907);
    /// A capture ends in another thread than it began in.
    pub(crate) const CAPTURE_WRONG_THREAD: Self = Self(908);
    /// Clusters of a size that does not do.
    pub(crate) const INVALID_CLUSTER_SIZE: Self = Self(912);
    /// A fault of this driver.
    pub(crate) const UNKNOWN: Self = Self(999);

    /// As the driver names it; `None` if it is no error of the driver.
    pub(crate) fn driver_name(self) -> Option<&'static CStr> {
        self.row().map(|row| row.1).filter(|name| !name.is_empty())
    }

    /// As the runtime names it.
    pub(crate) fn runtime_name(self) -> &'static CStr {
        match self.row() {
            Some((_, _, name, _)) if !name.is_empty() => name,
            _ => c"unrecognized error code",
        }
    }

    /// What it means.
    pub(crate) fn message(self) -> Option<&'static CStr> {
        self.row().map(|row| row.3)
    }

    fn row(self) -> Option<&'static Row> {
        let at = ROWS.binary_search_by_key(&self.0, |row| row.0).ok()?;
        Some(&ROWS[at])
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.driver_name() {
            Some(name) => write!(f, "{} ({})", name.to_string_lossy(), self.0),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// Number, name in the driver, name in the runtime, meaning.
type Row = (u32, &'static CStr, &'static CStr, &'static CStr);

/// Sorted by number.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    (0, c"CUDA_SUCCESS", c"cudaSuccess", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"cudaErrorInvalidValue", c"invalid argument"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"cudaErrorMemoryAllocation", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"cudaErrorInitializationError", c"initialization error"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"cudaErrorCudartUnloading", c"driver shutting down"),
    (5, c"CUDA_ERROR_PROFILER_DISABLED", c"cudaErrorProfilerDisabled", c"profiler disabled while using external profiling tool"),
    (6, c"CUDA_ERROR_PROFILER_NOT_INITIALIZED", c"cudaErrorProfilerNotInitialized", c"profiler not initialized"),
    (7, c"CUDA_ERROR_PROFILER_ALREADY_STARTED", c"cudaErrorProfilerAlreadyStarted", c"profiler already started"),
    (8, c"CUDA_ERROR_PROFILER_ALREADY_STOPPED", c"cudaErrorProfilerAlreadyStopped", c"profiler already stopped"),
    (9, c"", c"cudaErrorInvalidConfiguration", c"invalid configuration argument"),
    (12, c"", c"cudaErrorInvalidPitchValue", c"invalid pitch argument"),
    (13, c"", c"cudaErrorInvalidSymbol", c"invalid device symbol"),
    (16, c"", c"cudaErrorInvalidHostPointer", c"invalid host pointer"),
    (17, c"", c"cudaErrorInvalidDevicePointer", c"invalid device pointer"),
    (18, c"", c"cudaErrorInvalidTexture", c"invalid texture"),
    (19, c"", c"cudaErrorInvalidTextureBinding", c"invalid texture binding"),
    (20, c"", c"cudaErrorInvalidChannelDescriptor", c"invalid channel descriptor"),
    (21, c"", c"cudaErrorInvalidMemcpyDirection", c"invalid copy direction for memcpy"),
    (22, c"", c"cudaErrorAddressOfConstant", c"address of constant"),
    (23, c"", c"cudaErrorTextureFetchFailed", c"texture fetch failed"),
    (24, c"", c"cudaErrorTextureNotBound", c"texture not bound"),
    (25, c"", c"cudaErrorSynchronizationError", c"synchronization error"),
    (26, c"", c"cudaErrorInvalidFilterSetting", c"invalid filter setting"),
    (27, c"", c"cudaErrorInvalidNormSetting", c"invalid norm setting"),
    (28, c"", c"cudaErrorMixedDeviceExecution", c"mixed device execution"),
    (31, c"", c"cudaErrorNotYetImplemented", c"not yet implemented"),
    (32, c"", c"cudaErrorMemoryValueTooLarge", c"memory value too large"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"cudaErrorStubLibrary", c"CUDA driver is a stub library"),
    (35, c"", c"cudaErrorInsufficientDriver", c"CUDA driver version is insufficient for CUDA runtime version"),
    (36, c"CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", c"cudaErrorCallRequiresNewerDriver", c"API call is not supported in the installed CUDA driver"),
    (37, c"", c"cudaErrorInvalidSurface", c"invalid surface"),
    (43, c"", c"cudaErrorDuplicateVariableName", c"duplicate variable name"),
    (44, c"", c"cudaErrorDuplicateTextureName", c"duplicate texture name"),
    (45, c"", c"cudaErrorDuplicateSurfaceName", c"duplicate surface name"),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"cudaErrorDevicesUnavailable", c"CUDA-capable device(s) is/are busy or unavailable"),
    (49, c"", c"cudaErrorIncompatibleDriverContext", c"incompatible driver context"),
    (52, c"", c"cudaErrorMissingConfiguration", c"__global__ function call is not configured"),
    (53, c"", c"cudaErrorPriorLaunchFailure", c"prior launch failure"),
    (65, c"", c"cudaErrorLaunchMaxDepthExceeded", c"launch max depth exceeded"),
    (66, c"", c"cudaErrorLaunchFileScopedTex", c"launch file scoped tex"),
    (67, c"", c"cudaErrorLaunchFileScopedSurf", c"launch file scoped surf"),
    (68, c"", c"cudaErrorSyncDepthExceeded", c"sync depth exceeded"),
    (69, c"", c"cudaErrorLaunchPendingCountExceeded", c"launch pending count exceeded"),
    (98, c"", c"cudaErrorInvalidDeviceFunction", c"invalid device function"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"cudaErrorNoDevice", c"no CUDA-capable device is detected"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"cudaErrorInvalidDevice", c"invalid device ordinal"),
    (102, c"CUDA_ERROR_DEVICE_NOT_LICENSED", c"cudaErrorDeviceNotLicensed", c"device not licensed"),
    (103, c"", c"cudaErrorSoftwareValidityNotEstablished", c"software validity not established"),
    (127, c"", c"cudaErrorStartupFailure", c"startup failure"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"cudaErrorInvalidKernelImage", c"device kernel image is invalid"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"cudaErrorDeviceUninitialized", c"invalid device context"),
    (202, c"CUDA_ERROR_CONTEXT_ALREADY_CURRENT", c"", c"context already current"),
    (205, c"CUDA_ERROR_MAP_FAILED", c"cudaErrorMapBufferObjectFailed", c"map failed"),
    (206, c"CUDA_ERROR_UNMAP_FAILED", c"cudaErrorUnmapBufferObjectFailed", c"unmap failed"),
    (207, c"CUDA_ERROR_ARRAY_IS_MAPPED", c"cudaErrorArrayIsMapped", c"array is mapped"),
    (208, c"CUDA_ERROR_ALREADY_MAPPED", c"cudaErrorAlreadyMapped", c"already mapped"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"cudaErrorNoKernelImageForDevice", c"no kernel image is available for execution on the device"),
    (210, c"CUDA_ERROR_ALREADY_ACQUIRED", c"cudaErrorAlreadyAcquired", c"already acquired"),
    (211, c"CUDA_ERROR_NOT_MAPPED", c"cudaErrorNotMapped", c"not mapped"),
    (212, c"CUDA_ERROR_NOT_MAPPED_AS_ARRAY", c"cudaErrorNotMappedAsArray", c"not mapped as array"),
    (213, c"CUDA_ERROR_NOT_MAPPED_AS_POINTER", c"cudaErrorNotMappedAsPointer", c"not mapped as pointer"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"cudaErrorECCUncorrectable", c"ecc uncorrectable"),
    (215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"cudaErrorUnsupportedLimit", c"limit is not supported on this architecture"),
    (216, c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE", c"cudaErrorDeviceAlreadyInUse", c"context already in use"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"cudaErrorPeerAccessUnsupported", c"peer access is not supported between these two devices"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"cudaErrorInvalidPtx", c"a PTX JIT compilation failed"),
    (219, c"CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", c"cudaErrorInvalidGraphicsContext", c"invalid graphics context"),
    (220, c"CUDA_ERROR_NVLINK_UNCORRECTABLE", c"cudaErrorNvlinkUncorrectable", c"nvlink uncorrectable"),
    (221, c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", c"cudaErrorJitCompilerNotFound", c"PTX JIT compiler library not found"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"cudaErrorUnsupportedPtxVersion", c"the provided PTX was compiled with an unsupported toolchain."),
    (223, c"CUDA_ERROR_JIT_COMPILATION_DISABLED", c"cudaErrorJitCompilationDisabled", c"jit compilation disabled"),
    (224, c"CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", c"cudaErrorUnsupportedExecAffinity", c"unsupported exec affinity"),
    (225, c"CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC", c"cudaErrorUnsupportedDevSideSync", c"unsupported devside sync"),
    (226, c"CUDA_ERROR_CONTAINED", c"cudaErrorContained", c"contained"),
    (300, c"CUDA_ERROR_INVALID_SOURCE", c"cudaErrorInvalidSource", c"device kernel image is invalid"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"cudaErrorFileNotFound", c"file not found"),
    (302, c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", c"cudaErrorSharedObjectSymbolNotFound", c"shared object symbol not found"),
    (303, c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", c"cudaErrorSharedObjectInitFailed", c"shared object init failed"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"cudaErrorOperatingSystem", c"OS call failed or operation not supported on this OS"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"cudaErrorInvalidResourceHandle", c"invalid resource handle"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"cudaErrorIllegalState", c"the operation cannot be performed in the present state"),
    (402, c"CUDA_ERROR_LOSSY_QUERY", c"cudaErrorLossyQuery", c"lossy query"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"cudaErrorSymbolNotFound", c"named symbol not found"),
    (600, c"CUDA_ERROR_NOT_READY", c"cudaErrorNotReady", c"device not ready"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"cudaErrorIllegalAddress", c"an illegal memory access was encountered"),
    (701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"cudaErrorLaunchOutOfResources", c"too many resources requested for launch"),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"cudaErrorLaunchTimeout", c"the launch timed out and was terminated"),
    (703, c"CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", c"cudaErrorLaunchIncompatibleTexturing", c"launch incompatible texturing"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"cudaErrorPeerAccessAlreadyEnabled", c"peer access is already enabled"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"cudaErrorPeerAccessNotEnabled", c"peer access has not been enabled"),
    (708, c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", c"cudaErrorSetOnActiveProcess", c"cannot set while device is active in this process"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"cudaErrorContextIsDestroyed", c"context is destroyed"),
    (710, c"CUDA_ERROR_ASSERT", c"cudaErrorAssert", c"device-side assert triggered"),
    (711, c"CUDA_ERROR_TOO_MANY_PEERS", c"cudaErrorTooManyPeers", c"too many peers"),
    (712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"cudaErrorHostMemoryAlreadyRegistered", c"part or all of the requested memory range is already mapped"),
    (713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"cudaErrorHostMemoryNotRegistered", c"pointer does not correspond to a registered memory region"),
    (714, c"CUDA_ERROR_HARDWARE_STACK_ERROR", c"cudaErrorHardwareStackError", c"hardware stack error"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"cudaErrorIllegalInstruction", c"an illegal instruction was encountered"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"cudaErrorMisalignedAddress", c"misaligned address"),
    (717, c"CUDA_ERROR_INVALID_ADDRESS_SPACE", c"cudaErrorInvalidAddressSpace", c"operation not supported on global/shared address space"),
    (718, c"CUDA_ERROR_INVALID_PC", c"cudaErrorInvalidPc", c"invalid program counter"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"cudaErrorLaunchFailure", c"unspecified launch failure"),
    (720, c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"cudaErrorCooperativeLaunchTooLarge", c"too many blocks in cooperative launch"),
    (721, c"CUDA_ERROR_TENSOR_MEMORY_LEAK", c"cudaErrorTensorMemoryLeak", c"tensor memory leak"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"cudaErrorNotPermitted", c"operation not permitted"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"cudaErrorNotSupported", c"operation not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"cudaErrorSystemNotReady", c"system not yet initialized"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"cudaErrorSystemDriverMismatch", c"system has unsupported display driver / cuda driver combination"),
    (804, c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", c"cudaErrorCompatNotSupportedOnDevice", c"compat not supported on device"),
    (805, c"CUDA_ERROR_MPS_CONNECTION_FAILED", c"cudaErrorMpsConnectionFailed", c"mps connection failed"),
    (806, c"CUDA_ERROR_MPS_RPC_FAILURE", c"cudaErrorMpsRpcFailure", c"mps rpc failure"),
    (807, c"CUDA_ERROR_MPS_SERVER_NOT_READY", c"cudaErrorMpsServerNotReady", c"mps server not ready"),
    (808, c"CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", c"cudaErrorMpsMaxClientsReached", c"mps max clients reached"),
    (809, c"CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", c"cudaErrorMpsMaxConnectionsReached", c"mps max connections reached"),
    (810, c"CUDA_ERROR_MPS_CLIENT_TERMINATED", c"cudaErrorMpsClientTerminated", c"mps client terminated"),
    (811, c"CUDA_ERROR_CDP_NOT_SUPPORTED", c"cudaErrorCdpNotSupported", c"cdp not supported"),
    (812, c"CUDA_ERROR_CDP_VERSION_MISMATCH", c"cudaErrorCdpVersionMismatch", c"cdp version mismatch"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"cudaErrorStreamCaptureUnsupported", c"operation not permitted when stream is capturing"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"cudaErrorStreamCaptureInvalidated", c"operation failed due to a previous error during capture"),
    (902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"cudaErrorStreamCaptureMerge", c"operation would result in a merge of separate capture sequences"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"cudaErrorStreamCaptureUnmatched", c"capture was not ended in the same stream as it began"),
    (904, c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", c"cudaErrorStreamCaptureUnjoined", c"capturing stream has unjoined work"),
    (905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", c"cudaErrorStreamCaptureIsolation", c"dependency created on uncaptured work in another stream"),
    (906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"cudaErrorStreamCaptureImplicit", c"operation would make the legacy stream depend on a capturing blocking stream"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"cudaErrorCapturedEvent", c"operation not permitted on an event last recorded in a capturing stream"),
    (908, c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", c"cudaErrorStreamCaptureWrongThread", c"attempt to terminate a thread-local capture sequence from another thread"),
    (909, c"CUDA_ERROR_TIMEOUT", c"cudaErrorTimeout", c"wait operation timed out"),
    (910, c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", c"cudaErrorGraphExecUpdateFailure", c"the graph update was not performed because it included changes which violated constraints specific to instantiated graph update"),
    (911, c"CUDA_ERROR_EXTERNAL_DEVICE", c"cudaErrorExternalDevice", c"external device"),
    (912, c"CUDA_ERROR_INVALID_CLUSTER_SIZE", c"cudaErrorInvalidClusterSize", c"a kernel launch error has occurred due to cluster misconfiguration"),
    (913, c"CUDA_ERROR_FUNCTION_NOT_LOADED", c"cudaErrorFunctionNotLoaded", c"function not loaded"),
    (914, c"CUDA_ERROR_INVALID_RESOURCE_TYPE", c"cudaErrorInvalidResourceType", c"invalid resource type"),
    (915, c"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", c"cudaErrorInvalidResourceConfiguration", c"invalid resource configuration"),
    (916, c"CUDA_ERROR_KEY_ROTATION", c"", c"key rotation"),
    (999, c"CUDA_ERROR_UNKNOWN", c"cudaErrorUnknown", c"unknown error"),
];
