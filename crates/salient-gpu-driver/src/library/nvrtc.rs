//! NVRTC without a compiler: programs can be made and destroyed, and fail to compile with a log
//! that says why.

use std::collections::HashSet;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, PoisonError};

use crate::error::Code;
use crate::ffi::{Handle, In, Out, Text};
use crate::library::entries;
use crate::state::fresh;

/// `nvrtcResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status(u32);

impl Status {
    const INVALID_INPUT: Self = Self(3);
    const INVALID_PROGRAM: Self = Self(4);
    const COMPILATION: Self = Self(6);
    const INTERNAL: Self = Self(11);
}

impl From<Code> for Status {
    fn from(_: Code) -> Self {
        Self::INVALID_INPUT
    }
}

/// As `nvrtcGetErrorString` names them, by number.
const NAMES: [&CStr; 12] = [
    c"NVRTC_SUCCESS",
    c"NVRTC_ERROR_OUT_OF_MEMORY",
    c"NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
    c"NVRTC_ERROR_INVALID_INPUT",
    c"NVRTC_ERROR_INVALID_PROGRAM",
    c"NVRTC_ERROR_INVALID_OPTION",
    c"NVRTC_ERROR_COMPILATION",
    c"NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
    c"NVRTC_ERROR_NO_NAME_EXPRESSIONS_AFTER_COMPILATION",
    c"NVRTC_ERROR_NO_LOWERED_NAMES_BEFORE_COMPILATION",
    c"NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID",
    c"NVRTC_ERROR_INTERNAL_ERROR",
];

const LOG: &str =
    "the software GPU has no compiler of CUDA C++: compile with nvcc and load the PTX";

static PROGRAMS: Mutex<Option<HashSet<Handle>>> = Mutex::new(None);

/// With the programs that there are.
fn programs<T>(with: impl FnOnce(&mut HashSet<Handle>) -> T) -> T {
    with(PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

fn check(program: Handle) -> Result<(), Status> {
    programs(|all| all.contains(&program)).then_some(()).ok_or(Status::INVALID_PROGRAM)
}

entries! { Status;
    fn nvrtcVersion(major: Out<i32>, minor: Out<i32>) {
        major.set(13)?;
        Ok(minor.set(0)?)
    }

    fn nvrtcCreateProgram(
        program: Out<Handle>, source: Text, _name: Text, _headers: i32, _contents: In<Text>,
        _names: In<Text>
    ) {
        source.get()?;
        let handle = fresh();
        program.set(handle)?;
        programs(|all| all.insert(handle));
        Ok(())
    }

    fn nvrtcDestroyProgram(program: Out<Handle>) {
        let handle = program.get()?;
        if programs(|all| all.remove(&handle)) {
            Ok(program.set(0)?)
        } else {
            Err(Status::INVALID_PROGRAM)
        }
    }

    fn nvrtcCompileProgram(program: Handle, _count: i32, _options: In<Text>) {
        check(program)?;
        eprintln!("software GPU: nvrtcCompileProgram: {LOG}");
        Err(Status::COMPILATION)
    }

    fn nvrtcGetProgramLogSize(program: Handle, size: Out<usize>) {
        check(program)?;
        Ok(size.set(LOG.len() + 1)?)
    }

    fn nvrtcGetProgramLog(program: Handle, log: Out<c_char>) {
        check(program)?;
        Ok(log.set_text(LOG, LOG.len() + 1)?)
    }

    fn nvrtcGetPTXSize(_program: Handle, _size: Out<usize>) {
        Err(Status::INVALID_PROGRAM)
    }

    fn nvrtcGetPTX(_program: Handle, _ptx: Out<c_char>) {
        Err(Status::INVALID_PROGRAM)
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetErrorString(status: u32) -> *const c_char {
    let name = NAMES.get(status as usize).copied();
    name.unwrap_or(c"NVRTC_ERROR unknown").as_ptr()
}
