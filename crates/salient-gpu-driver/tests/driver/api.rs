//! Calling the library.

use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use libloading::os::unix::Library;
use salient_gpu::control::Control;

/// Kernels of a few lines: `store` writes a value to as many words as there are threads, `add` adds
/// to them, `trap_now` fails, `bounded` takes blocks of 64.
pub(crate) const PTX: &str = "\
.version 8.0
.target sm_80
.address_size 64

.visible .global .align 4 .u32 counter;

.visible .entry store(.param .u64 to, .param .u32 value)
{
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}

.visible .entry add(.param .u64 to, .param .u32 value)
{
    .reg .b32 %r<8>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r6, [%rd3];
    add.s32 %r7, %r6, %r1;
    st.global.u32 [%rd3], %r7;
    ret;
}

.visible .entry trap_now()
{
    trap;
}

.visible .entry bounded()
.maxntid 64, 1, 1
{
    ret;
}
";

/// The environment variable that has the driver left as it is loaded.
pub(crate) const UNINITIALIZED: &str = "SALIENT_GPU_TEST_UNINITIALIZED";

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let tests = std::env::current_exe().unwrap();
        let name = "libsalient_gpu_driver.so";
        let candidates: Vec<PathBuf> =
            tests.ancestors().skip(1).take(2).map(|folder| folder.join(name)).collect();
        let path = candidates.iter().find(|path| path.exists());
        let path = path.unwrap_or_else(|| panic!("cargo build makes one of {candidates:?}"));
        // SAFETY: its initialisers do nothing that matters to the tests.
        let library = unsafe { Library::new(path) }.unwrap();
        if std::env::var_os(UNINITIALIZED).is_some() {
            return library;
        }
        let call = address_in(&library, "cuInit");
        // SAFETY: as in `call`.
        let init = unsafe { std::mem::transmute::<u64, extern "C" fn(u32) -> u32>(call) };
        assert_eq!(init(0), 0);
        library
    })
}

fn address_in(library: &Library, name: &str) -> u64 {
    let symbol = CString::new(name).unwrap();
    // SAFETY: only its address is taken here.
    let symbol = unsafe { library.get::<*mut c_void>(symbol.as_bytes_with_nul()) };
    symbol.unwrap_or_else(|error| panic!("{name}: {error}")).into_raw() as u64
}

/// Where an entry point is.
pub(crate) fn address(name: &str) -> u64 {
    address_in(library(), name)
}

type Entry =
    unsafe extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;

/// Calls an entry point. All arguments are numbers or pointers, each of which takes one register or
/// one place on the stack; those beyond what an entry point takes do not concern it.
pub(crate) fn call_long(name: &str, arguments: &[u64]) -> u64 {
    let mut all = [0; 12];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f, g, h, i, j, k, l] = all;
    // SAFETY: it is the address of a function, which takes such arguments.
    let entry = unsafe { std::mem::transmute::<u64, Entry>(address(name)) };
    // SAFETY: pointers are of the tests, which keep what they point to, or are refused.
    unsafe { entry(a, b, c, d, e, f, g, h, i, j, k, l) }
}

/// Calls an entry point that gives an error code.
pub(crate) fn call(name: &str, arguments: &[u64]) -> u32 {
    call_long(name, arguments) as u32
}

/// Checks for success.
#[track_caller]
pub(crate) fn ok(code: u32) {
    assert_eq!(code, 0);
}

/// Calls an entry point that writes its result to where its first argument says.
#[track_caller]
pub(crate) fn get<T: Default>(name: &str, rest: &[u64]) -> T {
    let mut value = T::default();
    let arguments: Vec<u64> =
        std::iter::once(&raw mut value as u64).chain(rest.iter().copied()).collect();
    ok(call(name, &arguments));
    value
}

/// A context of its own, current in this thread until it is dropped.
pub(crate) struct Context {
    pub(crate) handle: u64,
    _place: Place,
}

/// Captures forbid other threads a lot, so who captures is alone.
enum Place {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
    Within,
}

static PLACE: RwLock<()> = RwLock::new(());

impl Context {
    pub(crate) fn new() -> Self {
        let guard = PLACE.read().unwrap_or_else(PoisonError::into_inner);
        Self::create(Place::Shared { _guard: guard })
    }

    /// One for a test that captures.
    pub(crate) fn alone() -> Self {
        let guard = PLACE.write().unwrap_or_else(PoisonError::into_inner);
        Self::create(Place::Alone { _guard: guard })
    }

    /// One more for a test.
    pub(crate) fn another(&self) -> Self {
        Self::create(Place::Within)
    }

    fn create(place: Place) -> Self {
        Self { handle: get("cuCtxCreate_v2", &[0, 0]), _place: place }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // A test may have destroyed it.
        call("cuCtxDestroy_v2", &[self.handle]);
    }
}

/// This many words of device memory.
pub(crate) fn words(count: usize) -> u64 {
    get("cuMemAlloc_v2", &[count as u64 * 4])
}

/// Their values.
#[track_caller]
pub(crate) fn read(address: u64, count: usize) -> Vec<u32> {
    let mut values = vec![0u32; count];
    ok(call("cuMemcpyDtoH_v2", &[values.as_mut_ptr() as u64, address, count as u64 * 4]));
    values
}

/// A kernel of [`PTX`].
pub(crate) fn kernel(name: &str) -> u64 {
    let text = CString::new(PTX).unwrap();
    let module: u64 = get("cuModuleLoadData", &[text.as_ptr() as u64]);
    let name = CString::new(name).unwrap();
    get("cuModuleGetFunction", &[module, name.as_ptr() as u64])
}

/// Launches a kernel of an address and a value.
pub(crate) fn launch(
    kernel: u64,
    blocks: u64,
    threads: u64,
    stream: u64,
    to: u64,
    value: u32,
) -> u32 {
    let params = [&raw const to as u64, &raw const value as u64];
    let params = params.as_ptr() as u64;
    call("cuLaunchKernel", &[kernel, blocks, 1, 1, threads, 1, 1, 0, stream, params, 0])
}

/// A stream that the legacy stream does not wait for.
pub(crate) fn stream() -> u64 {
    get("cuStreamCreate", &[1])
}

/// Asks the driver as tools do.
pub(crate) fn control() -> Control {
    library();
    Control::find().expect("the library is loaded")
}
