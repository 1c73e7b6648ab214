//! Asking the software GPU of this process, where its driver is loaded.

use std::ffi::{CString, c_char};

use libloading::os::unix::{Library, Symbol};

/// The driver of the software GPU, as tests and tools talk to it.
///
/// What it is told, it is told in words: see `crates/salient-gpu-driver`.
#[derive(Debug)]
pub struct Control {
    request: Symbol<Request>,
    // The symbol is of this library, which stays mapped for as long.
    _library: Library,
}

/// `salient_gpu_control`: writes the reply, cut off at the capacity, and gives its
/// length, or minus the length of an error message written there instead.
type Request = unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> isize;

/// How its file's name begins.
const NAMES: [&str; 3] = ["libsalient_gpu_driver.", "libcuda.so", "libcudart.so"];

/// Of the dynamic loader of Linux: gives the library only if it is there already.
const RTLD_NOLOAD: i32 = 4;
const RTLD_NOW: i32 = 2;

impl Control {
    /// The driver, if the process has loaded one and it is that of the software GPU.
    pub fn find() -> Option<Self> {
        // Whatever name it was loaded by, this is the file that is mapped.
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let paths = maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| path));
        let drivers = paths.filter(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            NAMES.iter().any(|driver| name.starts_with(driver))
        });
        drivers.map(|path| format!("/{path}")).find_map(|path| {
            // SAFETY: a library that is loaded already does not run initialisers again.
            let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_NOLOAD) }.ok()?;
            // SAFETY: the software GPU's driver alone exports it, with this signature.
            let request = unsafe { library.get::<Request>(b"salient_gpu_control\0") }.ok()?;
            Some(Self { request, _library: library })
        })
    }

    /// Makes a request, such as `launches`, and gives the reply.
    ///
    /// # Errors
    ///
    /// What the driver says of a request that it does not take.
    pub fn ask(&self, request: &str) -> Result<String, String> {
        let request =
            CString::new(request).map_err(|_| "a request has no zero bytes".to_owned())?;
        let mut reply = vec![0; 1 << 16];
        loop {
            // SAFETY: the request ends with a zero byte, and the reply has the room it says.
            let length =
                unsafe { (self.request)(request.as_ptr(), reply.as_mut_ptr().cast(), reply.len()) };
            let size = length.unsigned_abs();
            if size <= reply.len() {
                reply.truncate(size);
                let reply = String::from_utf8_lossy(&reply).into_owned();
                return if length < 0 { Err(reply) } else { Ok(reply) };
            }
            // It is asked once more, with room for all of it.
            reply.resize(size, 0);
        }
    }

    /// The settings for launches from now on, as words of [`crate::Config`].
    ///
    /// # Errors
    ///
    /// A word that is no setting.
    pub fn set(&self, words: &str) -> Result<(), String> {
        self.ask(&format!("set {words}")).map(|_| ())
    }

    /// Forgets launches, faults and the errors that stick to contexts.
    pub fn clear(&self) {
        self.ask("clear").expect("a request that every driver takes");
    }

    /// The faults since the last [`Self::clear`], a line of JSON each.
    pub fn faults(&self) -> String {
        self.ask("faults").expect("a request that every driver takes")
    }

    /// The launches of this thread since the last [`Self::clear`], as a list of JSON.
    pub fn launches(&self) -> String {
        self.ask("launches").expect("a request that every driver takes")
    }
}
