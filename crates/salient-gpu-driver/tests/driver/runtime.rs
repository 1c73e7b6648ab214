//! As the host code that nvcc generates uses the runtime.

use std::ffi::CStr;

use crate::api::{Context, PTX, call, call_long, control, get, ok, read, stream, words};

/// A program's fat binary with one piece of PTX, registered under the addresses of these.
struct Program {
    handle: u64,
    stubs: [u8; 2],
    shadow: u32,
    wrapper: [u64; 3],
    _binary: Vec<u64>,
}

fn fatbin(ptx: &str, target: u32) -> Vec<u64> {
    let mut text = ptx.as_bytes().to_vec();
    text.push(0);
    text.resize(text.len().next_multiple_of(8), 0);
    let mut bytes = 0xba55_ed50u32.to_le_bytes().to_vec();
    bytes.extend([1, 0, 16, 0]);
    bytes.extend((64 + text.len() as u64).to_le_bytes());
    let mut entry = [0u8; 64];
    entry[0] = 1;
    entry[4] = 64;
    entry[8..16].copy_from_slice(&(text.len() as u64).to_le_bytes());
    entry[28..32].copy_from_slice(&target.to_le_bytes());
    bytes.extend(entry);
    bytes.extend(text);
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

impl Program {
    fn new(ptx: &str, target: u32) -> Box<Self> {
        let binary = fatbin(ptx, target);
        let wrapper = [0x1_4662_43b1, binary.as_ptr() as u64, 0];
        let mut program =
            Box::new(Self { handle: 0, stubs: [0; 2], shadow: 0, wrapper, _binary: binary });
        program.handle = call_long("__cudaRegisterFatBinary", &[program.wrapper.as_ptr() as u64]);
        for (index, name) in [c"store", c"trap_now"].into_iter().enumerate() {
            let (stub, name) = (program.stub(index), name.as_ptr() as u64);
            let arguments = [program.handle, stub, stub, name, u64::MAX, 0, 0, 0, 0, 0];
            call_long("__cudaRegisterFunction", &arguments);
        }
        let (shadow, name) = (program.shadow(), c"counter".as_ptr() as u64);
        call_long("__cudaRegisterVar", &[program.handle, shadow, shadow, name, 0, 4, 0, 0]);
        call_long("__cudaRegisterFatBinaryEnd", &[program.handle]);
        program
    }

    fn stub(&self, index: usize) -> u64 {
        &raw const self.stubs[index] as u64
    }

    fn shadow(&self) -> u64 {
        &raw const self.shadow as u64
    }

    /// `kernel<<<blocks, threads>>>(to, value)`.
    fn launch(&self, index: usize, blocks: u32, threads: u32, to: u64, value: u32) -> u32 {
        self.launch_in(0, index, blocks, threads, to, value)
    }

    fn launch_in(
        &self,
        stream: u64,
        index: usize,
        blocks: u32,
        threads: u32,
        to: u64,
        value: u32,
    ) -> u32 {
        let params = [&raw const to as u64, &raw const value as u64];
        let (grid, block) = (u64::from(blocks) | 1 << 32, u64::from(threads) | 1 << 32);
        let arguments = [self.stub(index), grid, 1, block, 1, params.as_ptr() as u64, 0, stream];
        call("cudaLaunchKernel", &arguments)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        call_long("__cudaUnregisterFatBinary", &[self.handle]);
    }
}

#[test]
fn a_program_launches_its_kernels() {
    let _context = Context::new();
    let (program, address) = (Program::new(PTX, 80), words(64));
    ok(program.launch(0, 2, 32, address, 12));
    ok(call("cudaDeviceSynchronize", &[]));
    assert_eq!(read(address, 64), [12; 64]);
    // As `__cudaLaunch` of nvcc 13 does.
    let kernel: u64 = get("__cudaGetKernel", &[program.stub(0)]);
    assert_eq!(get::<u64>("__cudaGetKernel", &[program.stub(0)]), kernel);
    let (one, block) = (1 | 1 << 32, 16 | 1 << 32);
    ok(call("__cudaPushCallConfiguration", &[one, 1, block, 1, 0, 0]));
    let (mut grid, mut block, mut shared, mut stream) = ([0u32; 3], [0u32; 3], 9usize, 9u64);
    let to = [
        grid.as_mut_ptr() as u64,
        block.as_mut_ptr() as u64,
        &raw mut shared as u64,
        &raw mut stream as u64,
    ];
    ok(call("__cudaPopCallConfiguration", &to));
    assert_eq!((grid, block, shared, stream), ([1; 3], [16, 1, 1], 0, 0));
    assert_eq!(call("__cudaPopCallConfiguration", &to), 52);
    let value = 13u32;
    let params = [&raw const address as u64, &raw const value as u64];
    let arguments = [kernel, one, 1, 16 | 1 << 32, 1, params.as_ptr() as u64, 0, 0];
    ok(call("__cudaLaunchKernel", &arguments));
    assert_eq!(read(address, 17), [vec![13; 16], vec![12]].concat());
    assert_eq!(call("__cudaGetKernel", &[&raw mut stream as u64, 0x1234]), 98);
}

#[test]
fn a_kernel_can_be_required_to_be_loaded_before_captures() {
    let _context = Context::alone();
    let (program, address, stream) = (Program::new(PTX, 80), words(32), stream());
    let captured = |strict: bool| {
        control().set(if strict { "loading=before" } else { "loading=anywhere" }).unwrap();
        ok(call("cuStreamBeginCapture_v2", &[stream, 1]));
        let launched = program.launch_in(stream, 0, 1, 32, address, 3);
        control().set("loading=anywhere").unwrap();
        let mut graph = 0u64;
        (launched, call("cuStreamEndCapture", &[stream, &raw mut graph as u64]))
    };
    assert_eq!(captured(true), (900, 901));
    // Which loads nothing, so the next one is the first again.
    assert_eq!(captured(true), (900, 901));
    assert_eq!(captured(false), (0, 0));
    assert_eq!(captured(true), (0, 0));
}

#[test]
fn a_launch_takes_its_configuration_and_attributes() {
    let _context = Context::new();
    let (program, address) = (Program::new(PTX, 80), words(64));
    let value = 14u32;
    let params = [&raw const address as u64, &raw const value as u64];
    let launch = |grid: u32, cluster: u32| {
        let mut attribute = [0u32; 18];
        attribute[0] = 4;
        attribute[2..5].copy_from_slice(&[cluster, 1, 1]);
        let at = attribute.as_ptr() as u64;
        let mut config = [0u32; 14];
        config[..6].copy_from_slice(&[grid, 1, 1, 32, 1, 1]);
        config[10..12].copy_from_slice(&[at as u32, (at >> 32) as u32]);
        config[12] = 1;
        let arguments = [config.as_ptr() as u64, program.stub(0), params.as_ptr() as u64];
        call("cudaLaunchKernelExC", &arguments)
    };
    ok(launch(2, 2));
    assert_eq!(read(address, 64), [14; 64]);
    assert_eq!(launch(3, 2), 912);
    assert_eq!(call("cudaGetLastError", &[]), 912);
    assert_eq!(call("cudaFuncSetAttribute", &[program.stub(0), 8, (227 << 10) + 1]), 1);
    ok(call("cudaFuncSetAttribute", &[program.stub(0), 8, 200 << 10]));
    let mut attributes = [0u32; 64];
    ok(call("cudaFuncGetAttributes", &[attributes.as_mut_ptr() as u64, program.stub(0)]));
    assert_eq!(attributes[6], 1024);
    assert_eq!(attributes[11], 200 << 10);
    let name = "cudaOccupancyMaxActiveBlocksPerMultiprocessor";
    assert_eq!(get::<i32>(name, &[program.stub(0), 512, 100 << 10]), 2);
}

#[test]
fn a_variable_is_reached_by_its_shadow() {
    let _context = Context::new();
    let program = Program::new(PTX, 80);
    let value = 77u32;
    ok(call("cudaMemcpyToSymbol", &[program.shadow(), &raw const value as u64, 4, 0, 1]));
    let address: u64 = get("cudaGetSymbolAddress", &[program.shadow()]);
    assert_eq!(read(address, 1), [77]);
    assert_eq!(get::<usize>("cudaGetSymbolSize", &[program.shadow()]), 4);
    let mut back = 0u32;
    ok(call("cudaMemcpyFromSymbol", &[&raw mut back as u64, program.shadow(), 4, 0, 2]));
    assert_eq!(back, 77);
    let from = &raw const value as u64;
    assert_eq!(call("cudaMemcpyToSymbol", &[program.shadow(), from, 4, 1, 1]), 1);
    assert_eq!(call("cudaMemcpyToSymbol", &[from, from, 4, 0, 1]), 13);
}

#[test]
fn the_last_error_is_kept_until_it_is_asked_for() {
    let _context = Context::new();
    let (program, address) = (Program::new(PTX, 80), words(1));
    assert_eq!(call("cudaGetLastError", &[]), 0);
    assert_eq!(program.launch(0, 0, 32, address, 1), 9);
    assert_eq!(program.launch(0, 1, 1025, address, 1), 9);
    assert_eq!(call("cudaPeekAtLastError", &[]), 9);
    ok(call("cudaStreamSynchronize", &[0]));
    assert_eq!(call("cudaGetLastError", &[]), 9);
    assert_eq!(call("cudaGetLastError", &[]), 0);
    // SAFETY: the runtime gives strings that stay.
    let text = unsafe { CStr::from_ptr(call_long("cudaGetErrorString", &[9]) as *const _) };
    assert_eq!(text, c"invalid configuration argument");
}

#[test]
fn a_fault_shows_in_all_that_follows() {
    let _context = Context::new();
    let program = Program::new(PTX, 80);
    ok(program.launch(1, 1, 1, 0, 0));
    assert_eq!(call("cudaDeviceSynchronize", &[]), 719);
    let mut address = 0u64;
    assert_eq!(call("cudaMalloc", &[&raw mut address as u64, 4]), 719);
    assert_eq!(call("cudaGetLastError", &[]), 719);
    assert_eq!(call("cudaGetLastError", &[]), 719);
}

#[test]
fn code_for_other_devices_is_refused_when_it_is_used() {
    let _context = Context::new();
    let newer = PTX.replace("sm_80", "sm_100");
    let program = Program::new(&newer, 100);
    assert_eq!(program.launch(0, 1, 1, 0, 0), 209);
    assert_eq!(program.launch(0, 1, 1, 0, 0), 209);
    let absent = Program::new(&PTX.replace(".entry store", ".entry shop"), 80);
    assert_eq!(absent.launch(0, 1, 1, 0, 0), 98);
}

#[test]
fn the_first_call_of_a_thread_sets_its_device_up() {
    let _context = Context::new();
    let used = std::thread::spawn(|| {
        assert_eq!(get::<i32>("cudaGetDevice", &[]), 0);
        assert_eq!(call("cudaSetDevice", &[1]), 101);
        assert_eq!(get::<u64>("cuCtxGetCurrent", &[]), 0);
        let address: u64 = get("cudaMalloc", &[4]);
        assert_ne!(get::<u64>("cuCtxGetCurrent", &[]), 0);
        ok(call("cudaMemset", &[address, 0x11, 4]));
        let value = read(address, 1);
        ok(call("cudaFree", &[address]));
        ok(call("cudaFree", &[0]));
        value
    });
    assert_eq!(used.join().unwrap(), [0x1111_1111]);
}

#[test]
fn properties_are_laid_out_as_c_has_them() {
    let mut properties = [0u64; 126];
    ok(call("cudaGetDeviceProperties", &[properties.as_mut_ptr() as u64, 0]));
    // Offsets are those of CUDA 13's driver_types.h: shared memory of a block, warp size, the
    // compute capability, multiprocessors, and shared memory by opting in.
    let int = |offset: usize| (properties[offset / 8] >> (offset % 8 * 8)) as u32;
    assert_eq!(properties[296 / 8], 48 << 10);
    assert_eq!(int(308), 32);
    assert_eq!((int(360), int(364)), (9, 0));
    assert_eq!(int(384), 132);
    assert_eq!(properties[672 / 8], 227 << 10);
    assert_eq!(int(748), 1);
}
